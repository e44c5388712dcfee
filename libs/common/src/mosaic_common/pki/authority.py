"""`mosaic pki init|issue`: makes the service PKI once, and gives its identities fresh leaves.

Run again at any time: a root, a key or a secret that is there stays as it is, and nothing that is still valid is issued anew.
"""

import base64
import json
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from mosaic_common.auth import jwk_set
from mosaic_common.clock import Clock
from mosaic_common.der import UNPARSABLE
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, EDGE_OUTBOUND, GRANTS, HOST_PATTERN, IDENTITIES, NAME_PATTERN, OPERATOR
from mosaic_common.keys import load_p256_private_key, private_pem, public_pem, spki_sha256
from mosaic_common.pki.files import create_file, make_private_folder, replace_file
from mosaic_common.pki.inventory import PkiDescription, describe, load_certificate, read_file, read_settings
from mosaic_common.pki.layout import PUBLIC_LISTENERS, PkiDirectory
from mosaic_common.pki.leaves import LeafIssuer, make_root


def init(directory: Path, gateway: str, public_host: str, *, clock: Clock) -> PkiDescription:
    """Make whatever is missing of a gateway's service PKI; overwrite no root and no key.

    Raises:
        ConfigurationError: a bad name, or the directory belongs to another gateway or public host.
    """
    if not NAME_PATTERN.fullmatch(gateway):
        raise ConfigurationError("A gateway's name consists of lower-case letters, digits and hyphens, at most 63.")
    if not HOST_PATTERN.fullmatch(public_host):
        raise ConfigurationError("The public host has to be a DNS name or an IP address.")
    pki = PkiDirectory(directory)
    for folder in (pki.path, pki.root.path, *(pki.identity(name).path for name in IDENTITIES)):
        make_private_folder(folder)
    authority = _Authority.create(pki, gateway, public_host, clock.now())
    for name in IDENTITIES:
        authority.provide_leaves(name, reissue=False)
    _provide_secrets(pki)
    return describe(directory)


def issue(directory: Path, identity: str, *, clock: Clock) -> PkiDescription:
    """Give an identity fresh leaves, valid for at most 30 days, for the keys that it has.

    Raises:
        ConfigurationError: no such identity, or no PKI in this directory.
    """
    if identity not in IDENTITIES:
        raise ConfigurationError(f"There is no identity {identity!r}; there are {', '.join(IDENTITIES)}.")
    pki = PkiDirectory(directory)
    authority = _Authority.load(pki, clock.now())
    make_private_folder(pki.identity(identity).path)
    authority.provide_leaves(identity, reissue=True)
    return describe(directory)


class _Authority:
    """The offline root, while it is at hand."""

    def __init__(
        self, pki: PkiDirectory, root: x509.Certificate, root_key: EllipticCurvePrivateKey, settings: tuple[str, str], now: datetime
    ) -> None:
        self._pki = pki
        self._root = root
        self._issuer = LeafIssuer(root, root_key, *settings)
        self._now = now

    @classmethod
    def create(cls, pki: PkiDirectory, gateway: str, public_host: str, now: datetime) -> "_Authority":
        wanted = json.dumps({"gateway": gateway, "public_host": public_host}).encode("ascii")
        create_file(pki.root.settings, wanted)
        found = read_settings(pki)
        if found != (gateway, public_host):
            raise ConfigurationError(
                f"{pki.path} is the service PKI of the gateway {found[0]} at {found[1]}; choose another directory."
            )
        # The key is there before the certificate is: a crash in between leaves a key whose root is made at the next run.
        _provide_p256_key(pki.root.key)
        root_key = load_p256_private_key(pki.root.key.read_bytes(), name="service-root.key")
        create_file(pki.root.certificate, make_root(root_key, gateway, now).public_bytes(Encoding.PEM))
        return cls.load(pki, now)

    @classmethod
    def load(cls, pki: PkiDirectory, now: datetime) -> "_Authority":
        settings = read_settings(pki)
        root = load_certificate(pki.root.certificate)
        root_key = load_p256_private_key(read_file(pki.root.key), name="service-root.key")
        if spki_sha256(root.public_key()) != spki_sha256(root_key.public_key()):
            raise ConfigurationError("service-root.key is not the key of service-root.pem.")
        return cls(pki, root, root_key, settings, now)

    def provide_leaves(self, identity: str, *, reissue: bool) -> None:
        folder = self._pki.identity(identity)
        root_pem = self._root.public_bytes(Encoding.PEM)
        create_file(folder.service_root, root_pem)
        self._provide_leaf(identity, folder.internal_certificate, folder.internal_key, self._issuer.internal, b"", reissue=reissue)
        if identity in PUBLIC_LISTENERS:
            # The root follows the leaf: a peer that has only a pin finds the pinned certificate in the handshake.
            self._provide_leaf(
                identity, folder.public_certificate, folder.public_certificate_key, self._issuer.public, root_pem, reissue=reissue
            )

    def _provide_leaf(
        self,
        identity: str,
        certificate: Path,
        key: Path,
        sign: Callable[[str, EllipticCurvePublicKey, datetime], x509.Certificate],
        chain_pem: bytes,
        *,
        reissue: bool,
    ) -> None:
        # The key stays: certificate and key are two files, and a server that reloads between two renames would hold a mismatch.
        _provide_p256_key(key)
        public_key = load_p256_private_key(key.read_bytes(), name=key.name).public_key()
        if reissue or not self._is_still_good(certificate, public_key):
            leaf = sign(identity, public_key, self._now)
            replace_file(certificate, leaf.public_bytes(Encoding.PEM) + chain_pem)

    def _is_still_good(self, certificate: Path, public_key: EllipticCurvePublicKey) -> bool:
        if not certificate.exists():
            return False
        leaf = load_certificate(certificate)
        try:
            leaf.verify_directly_issued_by(self._root)
        except (*UNPARSABLE, InvalidSignature):
            return False
        return leaf.not_valid_after_utc > self._now and spki_sha256(leaf.public_key()) == spki_sha256(public_key)


def _provide_secrets(pki: PkiDirectory) -> None:
    """The keys beside the certificates. What two identities share is made at one and copied to the other."""
    broker, grants, inbound, outbound, operator = map(pki.identity, (CA_BROKER, GRANTS, EDGE_INBOUND, EDGE_OUTBOUND, OPERATOR))

    warrant_key = _provide_p256_key(grants.warrant_key)
    create_file(broker.warrant_public_key, _public_half(warrant_key))

    audit_key = create_file(grants.audit_key, private_pem(Ed25519PrivateKey.generate()))
    create_file(operator.audit_public_key, _public_half(audit_key))

    create_file(inbound.page_token_key, create_file(grants.page_token_key, _random_key()))
    create_file(inbound.query_hmac_key, create_file(grants.query_hmac_key, _random_key()))

    jwt_key = load_p256_private_key(_provide_p256_key(operator.jwt_key), name="jwt.key")
    jwks = json.dumps(jwk_set([jwt_key.public_key()]), indent=2).encode("ascii") + b"\n"
    create_file(grants.jwks, jwks)
    create_file(outbound.jwks, jwks)


def _provide_p256_key(path: Path) -> bytes:
    return create_file(path, private_pem(generate_private_key(SECP256R1())))


def _public_half(key_pem: bytes) -> bytes:
    key = load_pem_private_key(key_pem, password=None)
    assert isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey)
    return public_pem(key.public_key())


def _random_key() -> bytes:
    return base64.b64encode(secrets.token_bytes(32)) + b"\n"
