"""Certificates and signing requests: untrusted DER in, verified values out.

Whoever orders a certificate checks for itself that it got what it ordered: the broker, grants and the querying gateway each call
this, each with what it knows (architecture.md "Enrollment", steps 5 and 6). The profile is contracts.md "Certificate profiles".
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, SignatureAlgorithmOID
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from mosaic_common.der import UNPARSABLE
from mosaic_common.errors import CaLied, CertificateRefused, ConfigurationError, CsrRefused, Layer, Reason
from mosaic_common.keys import is_p256, spki_der, spki_sha256
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, parse_extensions, parse_federation_ids

MAX_CSR_BYTES: Final = 2048
MAX_CERTIFICATE_BYTES: Final = 4096
MAX_CHAIN_LENGTH: Final = 4
CLOCK_LEEWAY: Final = timedelta(minutes=5)
"""How far another machine's clock may be ahead of ours when it dates a certificate."""

_STRONG_ECDSA: Final = frozenset(
    {SignatureAlgorithmOID.ECDSA_WITH_SHA256, SignatureAlgorithmOID.ECDSA_WITH_SHA384, SignatureAlgorithmOID.ECDSA_WITH_SHA512}
)
_LEAF_EXTENSIONS: Final = {
    ExtensionOID.KEY_USAGE: True,
    ExtensionOID.EXTENDED_KEY_USAGE: False,
    ExtensionOID.BASIC_CONSTRAINTS: True,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
    x509.ObjectIdentifier(GRANT_ID_OID): False,
    x509.ObjectIdentifier(SUBJECT_USER_ID_OID): False,
}
"""Extension → critical: exactly these, plus at most a CRL distribution point."""
_DIGITAL_SIGNATURE_ONLY: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Csr:
    """A verified signing request: P-256, signed by its own key, naming exactly the expected common name.

    Attributes:
        der: PKCS#10, at most 2 KiB.
        sha256: of ``der``, 32 bytes.
        spki_sha256: of the canonical SubjectPublicKeyInfo, 32 bytes.
    """

    der: bytes
    sha256: bytes
    spki_sha256: bytes
    public_key: EllipticCurvePublicKey
    common_name: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """What grants ordered from the authority; times are aware, in UTC, whole seconds."""

    common_name: str
    grant_id: UUID
    subject_user_id: UUID
    serial: int
    spki_sha256: bytes
    not_after: datetime
    not_before_min: datetime


@dataclass(frozen=True, slots=True)
class Expected:
    """What a querying gateway knows about the certificate that another gateway hands it."""

    common_name: str
    grant_id: UUID
    subject_user_id: UUID
    spki_sha256: bytes


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A federation certificate that is exactly what was ordered.

    Attributes:
        der: the leaf.
        chain_der: the intermediates that link it to the root, nearest first; neither leaf nor root.
        fingerprint: SHA-256 of ``der``, 32 bytes.
    """

    der: bytes
    chain_der: tuple[bytes, ...]
    serial: int
    fingerprint: bytes
    spki_sha256: bytes
    grant_id: UUID
    subject_user_id: UUID
    not_before: datetime
    not_after: datetime


def fingerprint_sha256(der: bytes) -> bytes:
    """SHA-256 of a certificate in DER, 32 bytes: what a pin is."""
    return hashlib.sha256(der).digest()


def draw_serial() -> int:
    """A fresh certificate serial: 128 random bits, positive (RFC 5280 §4.1.2.2)."""
    return secrets.randbits(128) or 1


def make_csr(key: EllipticCurvePrivateKey, common_name: str) -> bytes:
    """PKCS#10 in DER that asks for a name and nothing else."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def verify_csr(unverified_csr: bytes, *, common_name: str, sha256: bytes | None = None) -> Csr:
    """Return the request if it may be signed. What it asks for beyond its name and key is ignored.

    Args:
        unverified_csr: PKCS#10 in DER, at most 2 KiB, no trailing bytes.
        common_name: the only subject attribute it may have.
        sha256: of the DER that was ordered; None where there is no order yet.

    Raises:
        CsrRefused: CSR_MALFORMED, CSR_KEY_NOT_ACCEPTED, CSR_SIGNATURE_INVALID, CSR_COMMON_NAME_MISMATCH or CSR_MISMATCH.
    """
    if len(unverified_csr) > MAX_CSR_BYTES:
        raise _csr_refused(Reason.CSR_MALFORMED, f"The signing request is larger than {MAX_CSR_BYTES} bytes.")
    try:
        csr = x509.load_der_x509_csr(unverified_csr)
    except UNPARSABLE:
        raise _csr_refused(Reason.CSR_MALFORMED, "The signing request is not PKCS#10 in DER.") from None
    # The key comes before the signature: checking one made by a 16,384-bit RSA key is work that a stranger would choose for us.
    public_key = _parse_csr_key(csr)
    _verify_csr_signature(csr)
    _verify_csr_subject(csr, common_name)
    digest = hashlib.sha256(unverified_csr).digest()
    if sha256 is not None and digest != sha256:
        raise _csr_refused(Reason.CSR_MISMATCH, "The signing request is not the one that the order names.")
    return Csr(unverified_csr, digest, spki_sha256(public_key), public_key, common_name)


def verify_issued(unverified_chain: Sequence[bytes], ordered: Ordered, *, root_pem: bytes, now: datetime) -> IssuedCertificate:
    """Return the certificate if the authority signed exactly what was ordered.

    Args:
        unverified_chain: certificates in DER, leaf first; the root may be among them, anything that links nothing is dropped.
        root_pem: the configured federation root, one certificate.

    Raises:
        CaLied: every deviation in one sentence, with a remedy.
        ConfigurationError: the root itself cannot be used.
    """
    root = load_root(root_pem)
    leaf, intermediates = parse_chain(unverified_chain)
    deviations = [*_key_and_name_deviations(leaf, ordered), *_order_deviations(leaf, ordered, now)]
    _raise_if_any([*deviations, *_profile_deviations(leaf, ordered)])
    links = verify_links_to_root(leaf, [each for each in intermediates if each != root], root, now)
    return _issued(leaf, links, ordered)


def verify_received(unverified_chain: Sequence[bytes], expected: Expected, *, now: datetime) -> IssuedCertificate:
    """Return the certificate that another gateway's authority issued to us, if it is ours and usable.

    We do not know that gateway's federation root: the chain has to link, and the other side decides whether it trusts it.

    Args:
        unverified_chain: certificates in DER, leaf first, each issued by the next.

    Raises:
        CaLied: every deviation in one sentence, with a remedy.
    """
    leaf, issuers = parse_chain(unverified_chain)
    _raise_if_any(
        [*_key_and_name_deviations(leaf, expected), *_validity_deviations(leaf, now), *_profile_deviations(leaf, expected)]
    )
    for certificate, issuer in zip([leaf, *issuers], issuers, strict=False):
        _verify_direct_link(certificate, issuer)
    return _issued(leaf, issuers, expected)


def _parse_csr_key(csr: x509.CertificateSigningRequest) -> EllipticCurvePublicKey:
    try:
        key = csr.public_key()
    except UNPARSABLE:
        raise _csr_refused(Reason.CSR_KEY_NOT_ACCEPTED, "The signing request's key cannot be read.") from None
    if not is_p256(key):
        raise _csr_refused(Reason.CSR_KEY_NOT_ACCEPTED, "The signing request's key is not on the curve P-256.")
    # A compressed point is the same key under another hash, and step-ca cannot read it.
    if spki_der(key) not in csr.tbs_certrequest_bytes:
        raise _csr_refused(Reason.CSR_KEY_NOT_ACCEPTED, "The signing request's key is not an uncompressed point.")
    return key


def _verify_csr_signature(csr: x509.CertificateSigningRequest) -> None:
    try:
        valid = csr.signature_algorithm_oid in _STRONG_ECDSA and csr.is_signature_valid
    except (*UNPARSABLE, InvalidSignature):
        valid = False
    if not valid:
        raise _csr_refused(Reason.CSR_SIGNATURE_INVALID, "The signing request is not signed by its own key with ECDSA and SHA-2.")


def _verify_csr_subject(csr: x509.CertificateSigningRequest, common_name: str) -> None:
    try:
        names = _sole_common_name(csr.subject)
    except UNPARSABLE:
        names = None
    if names != common_name:
        raise _csr_refused(
            Reason.CSR_COMMON_NAME_MISMATCH,
            f"The signing request's subject has to be the common name {common_name!r} and nothing else.",
        )


def _sole_common_name(subject: x509.Name) -> str | bytes | None:
    attributes = list(subject)
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        return None
    return attributes[0].value


def _csr_refused(reason: Reason, message: str) -> CsrRefused:
    return CsrRefused(reason, message, layer=Layer.CSR)


def load_root(root_pem: bytes) -> x509.Certificate:
    """The configured root; raises ConfigurationError unless it is exactly one certificate in PEM."""
    try:
        (root,) = x509.load_pem_x509_certificates(root_pem)
    except UNPARSABLE:
        raise ConfigurationError("The federation root is not exactly one certificate in PEM.") from None
    return root


def parse_chain(unverified_chain: Sequence[bytes]) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """The first certificate and the others; raises CaLied unless they are one to four in DER, each of at most 4 KiB."""
    if not 1 <= len(unverified_chain) <= MAX_CHAIN_LENGTH or max(map(len, unverified_chain)) > MAX_CERTIFICATE_BYTES:
        raise _lied(["its answer is not one to four certificates of at most 4 KiB"])
    try:
        leaf, *others = [x509.load_der_x509_certificate(der) for der in unverified_chain]
    except UNPARSABLE:
        raise _lied(["its answer is not certificates in DER"]) from None
    return leaf, others


def _key_and_name_deviations(leaf: x509.Certificate, ordered: Ordered | Expected) -> Iterator[str]:
    try:
        key = leaf.public_key()
        if not is_p256(key) or spki_sha256(key) != ordered.spki_sha256 or spki_der(key) not in leaf.tbs_certificate_bytes:
            yield "the public key is not the signing request's"
        if _sole_common_name(leaf.subject) != ordered.common_name:
            yield f"the subject is not the common name {ordered.common_name!r} alone"
    except UNPARSABLE:
        yield "the public key or the subject cannot be read"


def _order_deviations(leaf: x509.Certificate, ordered: Ordered, now: datetime) -> Iterator[str]:
    if leaf.serial_number != ordered.serial:
        yield "the serial number is not the ordered one"
    if leaf.not_valid_after_utc > ordered.not_after:
        yield f"it is valid until {leaf.not_valid_after_utc.isoformat()}, past the ordered {ordered.not_after.isoformat()}"
    if leaf.not_valid_before_utc < ordered.not_before_min:
        yield "it is dated before it was ordered"
    yield from _validity_deviations(leaf, now)


def _validity_deviations(leaf: x509.Certificate, now: datetime) -> Iterator[str]:
    if leaf.not_valid_before_utc > now + CLOCK_LEEWAY:
        yield "it is not valid yet"
    if leaf.not_valid_after_utc <= now:
        yield "it has expired"


def _profile_deviations(leaf: x509.Certificate, ordered: Ordered | Expected) -> Iterator[str]:
    if leaf.version is not x509.Version.v3:
        yield "it is not a version 3 certificate"
    try:
        extensions = parse_extensions(leaf)
        ids = parse_federation_ids(extensions)
    except CertificateRefused as refused:
        yield refused.message[0].lower() + refused.message[1:].rstrip(".")
        return
    if ids.grant_id != ordered.grant_id:
        yield f"the grant id ({GRANT_ID_OID}) is not the ordered one"
    if ids.subject_user_id != ordered.subject_user_id:
        yield f"the subject user id ({SUBJECT_USER_ID_OID}) is not the ordered one"
    yield from _extension_set_deviations(extensions)
    yield from _extension_value_deviations(extensions)


def _extension_set_deviations(extensions: x509.Extensions) -> Iterator[str]:
    found = {extension.oid: extension.critical for extension in extensions}
    found_without_crl = {oid: critical for oid, critical in found.items() if oid != ExtensionOID.CRL_DISTRIBUTION_POINTS}
    for oid in _LEAF_EXTENSIONS.keys() - found.keys():
        yield f"the extension {oid.dotted_string} is missing"
    for oid in found_without_crl.keys() - _LEAF_EXTENSIONS.keys():
        yield f"the extension {oid.dotted_string} was not ordered"
    for oid in found.keys() & _LEAF_EXTENSIONS.keys():
        if found[oid] != _LEAF_EXTENSIONS[oid]:
            yield f"the extension {oid.dotted_string} is {'' if found[oid] else 'not '}critical"
    if found.get(ExtensionOID.CRL_DISTRIBUTION_POINTS):
        yield "the CRL distribution point is critical"


def _extension_value_deviations(extensions: x509.Extensions) -> Iterator[str]:
    for extension in extensions:
        match extension.value:
            case x509.KeyUsage() as usage if usage != _DIGITAL_SIGNATURE_ONLY:
                yield "the key usage is not digitalSignature alone"
            case x509.ExtendedKeyUsage() as purposes if list(purposes) != [ExtendedKeyUsageOID.CLIENT_AUTH]:
                yield "the extended key usage is not clientAuth alone"
            case x509.BasicConstraints(ca=True):
                yield "it is a certificate authority"
            case x509.AuthorityKeyIdentifier(key_identifier=None):
                yield "the authority key identifier names no key"
            case _:
                pass


def verify_links_to_root(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], root: x509.Certificate, now: datetime
) -> list[x509.Certificate]:
    """Return the intermediates between leaf and root, nearest first. When the leaf begins to be valid is the caller's to check.

    Raises:
        CaLied: no path, or one that its key identifiers do not describe.
    """
    # The caller checks when the leaf begins, with leeway; a slightly fast CA clock must not fail the path.
    at = max(now, leaf.not_valid_before_utc)
    # Our profile is stricter than the web's for the leaf and has no SAN, so the library judges only the authorities here.
    verifier = (
        PolicyBuilder()
        .store(Store([root]))
        .time(at)
        .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    try:
        path = verifier.verify(leaf, intermediates).chain
    except (*UNPARSABLE, VerificationError):
        raise _lied(["it does not chain to the configured federation root"]) from None
    # Its signature has been verified by now; a second time costs 0.1 ms of each enrollment, twice.
    _verify_key_identifiers(leaf, path[1])
    return path[1:-1]


def _verify_direct_link(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*UNPARSABLE, InvalidSignature):
        raise _lied(["its chain does not link"]) from None
    _verify_key_identifiers(certificate, issuer)


def _verify_key_identifiers(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        claimed = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        actual = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (*UNPARSABLE, x509.ExtensionNotFound):
        raise _lied(["its chain does not link"]) from None
    # OpenSSL and BoringSSL build paths by these, so a wrong one is a certificate that no handshake accepts.
    if claimed != actual:
        raise _lied(["the authority key identifier is not its issuer's"])


def _issued(leaf: x509.Certificate, links: Sequence[x509.Certificate], ordered: Ordered | Expected) -> IssuedCertificate:
    der = leaf.public_bytes(Encoding.DER)
    return IssuedCertificate(
        der=der,
        chain_der=tuple(link.public_bytes(Encoding.DER) for link in links),
        serial=leaf.serial_number,
        fingerprint=fingerprint_sha256(der),
        spki_sha256=ordered.spki_sha256,
        grant_id=ordered.grant_id,
        subject_user_id=ordered.subject_user_id,
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def _raise_if_any(deviations: list[str]) -> None:
    if deviations:
        raise _lied(deviations)


def _lied(deviations: Sequence[str]) -> CaLied:
    return CaLied(
        Reason.CA_LIED,
        f"The certificate authority did not issue what was ordered: {'; '.join(deviations)}.",
        layer=Layer.CA,
        remedy=(
            "Compare the authority's template, provisioner and root with infra/step-ca and with the configured federation root; "
            "treat it as a break-in until the difference is explained."
        ),
    )
