"""A certificate authority that signs whatever it is told to, and lies on request.

    authority = LyingAuthority.make(now)
    chain = authority.sign(csr.public_key, ordered, double(GRANT_ID_OID))

Without a lie the leaf is exactly the profile of contracts.md. The certificate is assembled byte by byte, because no library would
write the ones that we have to refuse.
"""

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, Self
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, encode_uuid

KEY_USAGE: Final = ExtensionOID.KEY_USAGE.dotted_string
EXTENDED_KEY_USAGE: Final = ExtensionOID.EXTENDED_KEY_USAGE.dotted_string
BASIC_CONSTRAINTS: Final = ExtensionOID.BASIC_CONSTRAINTS.dotted_string
SUBJECT_KEY_ID: Final = ExtensionOID.SUBJECT_KEY_IDENTIFIER.dotted_string
CRL_NUMBER: Final = ExtensionOID.CRL_NUMBER.dotted_string
DISTRIBUTION_POINT: Final = ExtensionOID.ISSUING_DISTRIBUTION_POINT.dotted_string
AUTHORITY_KEY_ID: Final = ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string


class Order(Protocol):
    """What a leaf is made from; mosaic_common.x509.Ordered is one."""

    @property
    def common_name(self) -> str: ...
    @property
    def grant_id(self) -> UUID: ...
    @property
    def subject_user_id(self) -> UUID: ...
    @property
    def serial(self) -> int: ...
    @property
    def not_after(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class RawExtension:
    """An extension as it goes into the certificate; ``value`` is the DER inside the OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate before it is signed. A lie returns an altered one."""

    version: int
    serial: int
    subject: x509.Name
    public_key: PublicKeyTypes
    not_before: datetime
    not_after: datetime
    extensions: tuple[RawExtension, ...]
    issuer: x509.Name
    signing_key: ec.EllipticCurvePrivateKey


Lie = Callable[[Leaf], Leaf]


@dataclass(frozen=True, slots=True)
class Entry:
    """One revoked serial."""

    serial: int
    extensions: tuple[RawExtension, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedList:
    """A revocation list before it is signed; ``version`` 1 has no extensions."""

    version: int
    issuer: x509.Name
    this_update: datetime
    next_update: datetime | None
    entries: tuple[Entry, ...]
    extensions: tuple[RawExtension, ...]
    signing_key: ec.EllipticCurvePrivateKey
    digest: hashes.SHA1 | hashes.SHA256


ListLie = Callable[[PublishedList], PublishedList]


@dataclass(frozen=True, slots=True)
class LyingAuthority:
    """A root, and an intermediate that signs; without one the root signs itself."""

    now: datetime
    root: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey
    intermediate: x509.Certificate | None
    intermediate_key: ec.EllipticCurvePrivateKey | None

    @classmethod
    def make(cls, now: datetime, *, intermediate: bool = True) -> Self:
        """A new authority, valid for a year around ``now``."""
        root_key = new_key()
        root = _authority_certificate("Test root", root_key, None, None, now)
        if not intermediate:
            return cls(now, root, root_key, None, None)
        key = new_key()
        return cls(now, root, root_key, _authority_certificate("Test intermediate", key, root, root_key, now), key)

    @property
    def root_pem(self) -> bytes:
        return self.root.public_bytes(Encoding.PEM)

    @property
    def issuer(self) -> x509.Certificate:
        return self.intermediate or self.root

    def sign(self, public_key: PublicKeyTypes, order: Order, *lies: Lie) -> list[bytes]:
        """Return the chain in DER, leaf first, without the root."""
        leaf = Leaf(
            version=3,
            serial=order.serial,
            subject=_name(order.common_name),
            public_key=public_key,
            not_before=self.now - timedelta(minutes=1),
            not_after=order.not_after,
            extensions=(
                RawExtension(KEY_USAGE, True, _key_usage("digital_signature").public_bytes()),
                RawExtension(EXTENDED_KEY_USAGE, False, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]).public_bytes()),
                RawExtension(BASIC_CONSTRAINTS, True, x509.BasicConstraints(ca=False, path_length=None).public_bytes()),
                RawExtension(SUBJECT_KEY_ID, False, x509.SubjectKeyIdentifier.from_public_key(public_key).public_bytes()),  # type: ignore[arg-type]
                RawExtension(AUTHORITY_KEY_ID, False, _authority_key_id(self.issuer).public_bytes()),
                RawExtension(GRANT_ID_OID, False, encode_uuid(order.grant_id)),
                RawExtension(SUBJECT_USER_ID_OID, False, encode_uuid(order.subject_user_id)),
            ),
            issuer=self.issuer.subject,
            signing_key=self.intermediate_key or self.root_key,
        )
        for lie in lies:
            leaf = lie(leaf)
        chain = [] if self.intermediate is None else [self.intermediate.public_bytes(Encoding.DER)]
        return [_sign(leaf), *chain]

    def publish(self, serials: Iterable[int], *lies: ListLie, number: int = 1) -> bytes:
        """Return a revocation list in DER, as step-ca writes one."""
        published = PublishedList(
            version=2,
            issuer=self.issuer.subject,
            this_update=self.now,
            next_update=self.now + timedelta(hours=24),
            entries=tuple(map(Entry, serials)),
            extensions=(
                RawExtension(AUTHORITY_KEY_ID, False, _authority_key_id(self.issuer).public_bytes()),
                RawExtension(CRL_NUMBER, False, x509.CRLNumber(number).public_bytes()),
                RawExtension(DISTRIBUTION_POINT, True, distribution_point(only_contains_user_certs=True)),
            ),
            signing_key=self.intermediate_key or self.root_key,
            digest=hashes.SHA256(),
        )
        for lie in lies:
            published = lie(published)
        return _sign_list(published)

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        """What a list is published with: the intermediate, if there is one."""
        return () if self.intermediate is None else (self.intermediate.public_bytes(Encoding.DER),)

    def sign_pem(self, public_key: PublicKeyTypes, order: Order, *lies: Lie) -> bytes:
        """Return the same chain in PEM, as a client presents it."""
        return b"".join(to_pem(der) for der in self.sign(public_key, order, *lies))


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def to_pem(certificate_der: bytes) -> bytes:
    """PEM without parsing, since the parser might refuse it."""
    return ssl.DER_cert_to_PEM_cert(certificate_der).encode("ascii")


# ── lies ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def omit(oid: str) -> Lie:
    return lambda leaf: replace(leaf, extensions=tuple(each for each in leaf.extensions if each.oid != oid))


def double(oid: str, value: bytes | None = None) -> Lie:
    """The same extension twice; the second one with another value if one is given."""

    def lie(leaf: Leaf) -> Leaf:
        (original,) = (each for each in leaf.extensions if each.oid == oid)
        return replace(leaf, extensions=(*leaf.extensions, replace(original, value=value or original.value)))

    return lie


def with_value(oid: str, value: bytes) -> Lie:
    """The extension's value replaced; added (not critical) where there was none."""
    return lambda leaf: replace(leaf, extensions=_with(leaf.extensions, oid, lambda extension: replace(extension, value=value)))


def with_critical(oid: str, critical: bool) -> Lie:
    return lambda leaf: replace(
        leaf, extensions=_with(leaf.extensions, oid, lambda extension: replace(extension, critical=critical))
    )


def with_uuid(oid: str, value: UUID) -> Lie:
    return with_value(oid, encode_uuid(value))


def as_printable_string(oid: str) -> Lie:
    """The right UUID under the tag 0x13."""

    def change(extension: RawExtension) -> RawExtension:
        return replace(extension, value=b"\x13" + extension.value[1:])

    return lambda leaf: replace(leaf, extensions=_with(leaf.extensions, oid, change))


def in_upper_case(oid: str) -> Lie:
    def change(extension: RawExtension) -> RawExtension:
        return replace(extension, value=extension.value[:2] + extension.value[2:].upper())

    return lambda leaf: replace(leaf, extensions=_with(leaf.extensions, oid, change))


def swap_identifiers(leaf: Leaf) -> Leaf:
    """Grant id under the subject's OID and the other way round."""
    other = {GRANT_ID_OID: SUBJECT_USER_ID_OID, SUBJECT_USER_ID_OID: GRANT_ID_OID}
    return replace(leaf, extensions=tuple(replace(each, oid=other.get(each.oid, each.oid)) for each in leaf.extensions))


def without_identifiers(leaf: Leaf) -> Leaf:
    return omit(SUBJECT_USER_ID_OID)(omit(GRANT_ID_OID)(leaf))


def without_eku(leaf: Leaf) -> Leaf:
    return omit(EXTENDED_KEY_USAGE)(leaf)


def with_eku(*purposes: x509.ObjectIdentifier) -> Lie:
    return with_value(EXTENDED_KEY_USAGE, x509.ExtendedKeyUsage(purposes).public_bytes())


def with_key_usage(*usages: str) -> Lie:
    """Names as x509.KeyUsage spells them."""
    return with_value(KEY_USAGE, _key_usage(*usages).public_bytes())


def as_authority(leaf: Leaf) -> Leaf:
    return with_value(BASIC_CONSTRAINTS, x509.BasicConstraints(ca=True, path_length=0).public_bytes())(leaf)


def with_san(*names: x509.GeneralName) -> Lie:
    return with_value(ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string, x509.SubjectAlternativeName(names).public_bytes())


def with_service_uri(uri: str) -> Lie:
    return with_san(x509.UniformResourceIdentifier(uri))


def with_crl(url: str, *, critical: bool = False) -> Lie:
    """Not a lie by itself: the profile allows one, uncritical."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    oid = ExtensionOID.CRL_DISTRIBUTION_POINTS.dotted_string
    return lambda leaf: with_critical(oid, critical)(with_value(oid, x509.CRLDistributionPoints([point]).public_bytes())(leaf))


def with_extra_extension(leaf: Leaf) -> Leaf:
    """step-ca's own provisioner extension, which its configuration has to switch off."""
    return with_value("1.3.6.1.4.1.37476.9000.64.1", b"\x0c\x01x")(leaf)


def with_other_key(leaf: Leaf) -> Leaf:
    """A key of the authority's own choice: whoever holds it is the peer."""
    return replace(leaf, public_key=new_key().public_key())


def with_serial(serial: int) -> Lie:
    return lambda leaf: replace(leaf, serial=serial)


def with_subject(*names: str) -> Lie:
    """Common names; two of them are two attributes."""
    return lambda leaf: replace(leaf, subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]))


def with_organization(leaf: Leaf) -> Leaf:
    return replace(leaf, subject=x509.Name([*leaf.subject, x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Mosaic")]))


def with_not_before(moment: datetime) -> Lie:
    return lambda leaf: replace(leaf, not_before=moment)


def with_not_after(moment: datetime) -> Lie:
    return lambda leaf: replace(leaf, not_after=moment)


def as_version_1(leaf: Leaf) -> Leaf:
    """Version 1 has no extensions at all."""
    return replace(leaf, version=1, extensions=())


def signed_by_stranger(leaf: Leaf) -> Leaf:
    """The issuer's name with another's signature."""
    return replace(leaf, signing_key=new_key())


def distribution_point(**says: Any) -> bytes:
    """An IssuingDistributionPoint with a name and whatever else it says, as x509 spells it."""
    silent: dict[str, Any] = {
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    name = [x509.UniformResourceIdentifier("https://localhost/1.0/crl")]
    return x509.IssuingDistributionPoint(full_name=name, **silent | says).public_bytes()


def list_without(oid: str) -> ListLie:
    return lambda published: replace(published, extensions=tuple(each for each in published.extensions if each.oid != oid))


def list_with(oid: str, value: bytes, *, critical: bool = False) -> ListLie:
    """The extension's value replaced, or added where there was none."""
    added = RawExtension(oid, critical, value)
    return lambda published: replace(published, extensions=(*list_without(oid)(published).extensions, added))


def list_with_entry(serial: int, *extensions: RawExtension) -> ListLie:
    return lambda published: replace(published, entries=(*published.entries, Entry(serial, extensions)))


# ── assembling ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with(
    extensions: tuple[RawExtension, ...], oid: str, change: Callable[[RawExtension], RawExtension]
) -> tuple[RawExtension, ...]:
    if all(each.oid != oid for each in extensions):
        return (*extensions, change(RawExtension(oid, False, b"")))
    return tuple(change(each) if each.oid == oid else each for each in extensions)


def _sign(leaf: Leaf) -> bytes:
    """Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue } (RFC 5280 §4.1)."""
    tbs = _sequence(
        _tagged(0xA0, _integer(leaf.version - 1)) if leaf.version > 1 else b"",
        _integer(leaf.serial),
        _ECDSA_WITH_SHA256,
        leaf.issuer.public_bytes(),
        _sequence(_utc_time(leaf.not_before), _utc_time(leaf.not_after)),
        leaf.subject.public_bytes(),
        leaf.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        _tagged(0xA3, _sequence(*map(_extension, leaf.extensions))) if leaf.extensions else b"",
    )
    signature = leaf.signing_key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return _sequence(tbs, _ECDSA_WITH_SHA256, _tagged(0x03, b"\x00" + signature))


def _sign_list(published: PublishedList) -> bytes:
    algorithm = _ECDSA_WITH[type(published.digest)]
    entries = [
        _sequence(_integer(each.serial), _utc_time(published.this_update), _extensions(each.extensions))
        for each in published.entries
    ]
    tbs = _sequence(
        _integer(published.version - 1) if published.version > 1 else b"",
        algorithm,
        published.issuer.public_bytes(),
        _utc_time(published.this_update),
        _utc_time(published.next_update) if published.next_update else b"",
        _sequence(*entries) if entries else b"",
        _tagged(0xA0, _extensions(published.extensions)) if published.extensions else b"",
    )
    signature = published.signing_key.sign(tbs, ec.ECDSA(published.digest))
    return _sequence(tbs, algorithm, _tagged(0x03, b"\x00" + signature))


def _extensions(extensions: tuple[RawExtension, ...]) -> bytes:
    return _sequence(*map(_extension, extensions)) if extensions else b""


def _extension(extension: RawExtension) -> bytes:
    critical = b"\x01\x01\xff" if extension.critical else b""
    return _sequence(_oid(extension.oid), critical, _tagged(0x04, extension.value))


def _tagged(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _sequence(*parts: bytes) -> bytes:
    return _tagged(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    return _tagged(0x06, b"".join(_base128(arc) for arc in (first * 40 + second, *rest)))


def _base128(arc: int) -> bytes:
    octets = [arc & 0x7F]
    while arc := arc >> 7:
        octets.append(0x80 | arc & 0x7F)
    return bytes(reversed(octets))


def _utc_time(moment: datetime) -> bytes:
    """RFC 5280 §4.1.2.5.1, good until 2049."""
    return _tagged(0x17, f"{moment:%y%m%d%H%M%SZ}".encode("ascii"))


_ECDSA_WITH_SHA256: Final = _sequence(_oid("1.2.840.10045.4.3.2"))
_ECDSA_WITH: Final = {hashes.SHA1: _sequence(_oid("1.2.840.10045.4.1")), hashes.SHA256: _ECDSA_WITH_SHA256}


def _authority_certificate(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey | None,
    now: datetime,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer.subject if issuer else _name(common_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=335))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if issuer is None else 0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is not None:
        builder = builder.add_extension(_authority_key_id(issuer), critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256())


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*usages: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    flags: dict[str, Any] = {name: name in usages for name in names}
    return x509.KeyUsage(**flags)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
