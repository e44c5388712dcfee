"""The certificates of the service PKI: the root, internal leaves, public leaves (contracts.md "Certificate profiles")."""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mosaic_common.identity import OPERATOR, dns_name, service_uri

ROOT_LIFE: Final = timedelta(days=3650)
LEAF_LIFE: Final = timedelta(days=30)
BACKDATED: Final = timedelta(minutes=5)
"""Other machines' clocks may be behind the one that issues."""

_LOOPBACK_NAMES: Final[list[x509.GeneralName]] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


def make_root(key: EllipticCurvePrivateKey, gateway: str, now: datetime) -> x509.Certificate:
    """A self-signed root that may sign leaves and nothing deeper."""
    name = _name(f"Mosaic service root {gateway}")
    return (
        _builder(name, name, key.public_key(), now, now + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


class LeafIssuer:
    """Signs leaves of one gateway with the offline root."""

    def __init__(self, root: x509.Certificate, root_key: EllipticCurvePrivateKey, gateway: str, public_host: str) -> None:
        self._root = root
        self._root_key = root_key
        self._gateway = gateway
        self._public_host = public_host

    def internal(self, identity: str, key: EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
        """For mTLS between services; the operator's is for clients only."""
        names = [
            x509.UniformResourceIdentifier(service_uri(identity, self._gateway)),
            x509.DNSName(dns_name(identity, self._gateway)),
        ]
        server = [] if identity == OPERATOR else [ExtendedKeyUsageOID.SERVER_AUTH]
        return self._sign(identity, key, names, [ExtendedKeyUsageOID.CLIENT_AUTH, *server], now)

    def public(self, identity: str, key: EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
        """For a listener that peers, operators or users reach. It has no URI: presented as a client, it is nobody."""
        names = [x509.DNSName(dns_name(identity, self._gateway)), *_host_names(self._public_host)]
        return self._sign(identity, key, names, [ExtendedKeyUsageOID.SERVER_AUTH], now)

    def _sign(
        self,
        identity: str,
        key: EllipticCurvePublicKey,
        names: Sequence[x509.GeneralName],
        purposes: Sequence[x509.ObjectIdentifier],
        now: datetime,
    ) -> x509.Certificate:
        not_after = min(now - BACKDATED + LEAF_LIFE, self._root.not_valid_after_utc)
        return (
            _builder(_name(identity), self._root.subject, key, now, not_after)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._root_key.public_key()), critical=False)
            .sign(self._root_key, hashes.SHA256())
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePublicKey, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(not_after)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host_names(host: str) -> list[x509.GeneralName]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _LOOPBACK_NAMES if host == "localhost" else [x509.DNSName(host)]
    named = x509.IPAddress(address)
    return [*_LOOPBACK_NAMES, *([named] if named not in _LOOPBACK_NAMES else [])] if address.is_loopback else [named]


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
