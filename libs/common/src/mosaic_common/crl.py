"""The authority's revocation list: untrusted DER in, the serials that it revokes out (RFC 5280 §5).

The broker verifies what step-ca published, and grants what the broker brought, each under the root that it was configured with.
What one list cannot show is that there is no newer one: whoever keeps the last number refuses a lower.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from mosaic_common.der import UNPARSABLE
from mosaic_common.errors import CaLied, Layer, Reason, RevocationListRefused
from mosaic_common.x509 import CLOCK_LEEWAY, load_root, parse_chain, verify_links_to_root

MAX_REVOCATION_LIST_BYTES: Final = 2 * 1024 * 1024
"""About 58,000 serials; half of what one answer of a service may hold."""
MAX_REVOCATION_LIST_NUMBER: Final = 2**63 - 1
"""What step-ca counts with, and a bigint holds."""

_STRONG_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_ABOUT_THE_ISSUER: Final = (x509.AuthorityKeyIdentifier, x509.IssuerAlternativeName)
# Not certificateIssuer: it would make an entry speak of another authority's certificates.
_ENTRY_EXTENSIONS: Final = (x509.CRLReason, x509.InvalidityDate)

_BREAK_IN: Final = (
    "Compare the authority's certs/intermediate_ca.crt and root with the configured federation root; treat it as a break-in "
    "until the difference is explained."
)
_NOT_STEP_CA: Final = "Fetch /1.0/crl from step-ca by hand, and check that nothing in front of it answers in its place."
_CLOCKS: Final = "Compare the clocks of this machine and of the authority's."
_NOT_WRITTEN: Final = (
    "Compare the clocks of this machine and of the authority's; if they agree, step-ca no longer writes its list: read its log, "
    "and restart it."
)
_ANOTHER_KIND: Final = "Let infra/step-ca/init.sh write ca.json again: its authority keeps one full list of all that it revoked."


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A full, current list that the federation's own authority signed.

    Attributes:
        number: grows with every list of this authority, 0 to 2^63 − 1.
        this_update, next_update: aware, in UTC; by the latter a newer list has to be there.
        der: CertificateList, as it was signed.
    """

    number: int
    this_update: datetime
    next_update: datetime
    serials: frozenset[int]
    der: bytes


def verify_revocation_list(
    unverified_crl_der: bytes,
    unverified_chain_der: Sequence[bytes],
    *,
    root_pem: bytes,
    now: datetime,
    leeway: timedelta = CLOCK_LEEWAY,
) -> RevocationList:
    """Return the list if it may be acted upon.

    Args:
        unverified_crl_der: CertificateList in DER, at most 2 MiB, no trailing bytes.
        unverified_chain_der: certificates in DER, at most four, whoever signed the list first; none where the root did.
        root_pem: the configured federation root, one certificate.
        leeway: how far the authority's clock may differ from ours.

    Raises:
        RevocationListRefused: one sentence, with a remedy.
        ConfigurationError: the root itself cannot be used.
    """
    signer = _verify_signer(unverified_chain_der, load_root(root_pem), now, leeway)
    crl = _parse(unverified_crl_der)
    _verify_signature(crl, signer)
    try:
        number = _parse_number(crl)
        serials = frozenset(_parse_serials(crl))
        next_update = _verify_dates(crl, now, leeway)
    except UNPARSABLE:
        raise _refused("has extensions or dates that cannot be read", _NOT_STEP_CA) from None
    return RevocationList(number, crl.last_update_utc, next_update, serials, unverified_crl_der)


def _verify_signer(
    unverified_chain_der: Sequence[bytes], root: x509.Certificate, now: datetime, leeway: timedelta
) -> x509.Certificate:
    if not unverified_chain_der:
        return root
    try:
        signer, others = parse_chain(unverified_chain_der)
        if signer != root:
            verify_links_to_root(signer, [each for each in others if each != root], root, now)
    except CaLied as lie:
        raise _refused("comes with a chain that does not lead to the configured federation root", _BREAK_IN) from lie
    if signer.not_valid_before_utc > now + leeway:
        raise _refused("is signed with a certificate that is not valid yet", _CLOCKS)
    return signer


def _parse(unverified_crl_der: bytes) -> x509.CertificateRevocationList:
    if len(unverified_crl_der) > MAX_REVOCATION_LIST_BYTES:
        remedy = "Find out what revokes so much: a serial stays until its certificate expires, one that was never signed for ever."
        raise _refused(f"is larger than {MAX_REVOCATION_LIST_BYTES} bytes", remedy)
    try:
        return x509.load_der_x509_crl(unverified_crl_der)
    except UNPARSABLE:
        raise _refused("is not a CertificateList in DER", _NOT_STEP_CA) from None


def _verify_signature(crl: x509.CertificateRevocationList, signer: x509.Certificate) -> None:
    if not _may_sign_lists(signer):
        raise _refused("is signed with a certificate that may not sign lists", _BREAK_IN)
    try:
        if crl.issuer != signer.subject:
            raise _refused("names another issuer than the certificate that it comes with", _BREAK_IN)
        if not isinstance(crl.signature_hash_algorithm, _STRONG_HASHES):
            raise _refused("is not signed with SHA-2", _BREAK_IN)
        if not crl.is_signature_valid(signer.public_key()):  # type: ignore[arg-type]
            raise _refused("is not signed by the certificate that it comes with", _BREAK_IN)
    except (*UNPARSABLE, InvalidSignature):
        raise _refused("has an issuer or a signature that cannot be read", _NOT_STEP_CA) from None


def _may_sign_lists(signer: x509.Certificate) -> bool:
    """RFC 5280 §6.3.3 (f), and §4.2.1.9: an authority, and where it has a key usage, cRLSign in it."""
    try:
        values = [extension.value for extension in signer.extensions]
    except UNPARSABLE:
        return False
    authority = any(isinstance(value, x509.BasicConstraints) and value.ca for value in values)
    return authority and all(value.crl_sign for value in values if isinstance(value, x509.KeyUsage))


def _parse_number(crl: x509.CertificateRevocationList) -> int:
    """Return the list's number, having refused a list of any other kind than a full one."""
    number: int | None = None
    for extension in crl.extensions:
        match extension.value:
            case x509.DeltaCRLIndicator():
                raise _refused("holds only the changes to another one", _ANOTHER_KIND)
            case x509.IssuingDistributionPoint() as point:
                _verify_scope(point)
            case x509.CRLNumber(crl_number=number):
                pass
            case value if extension.critical and not isinstance(value, _ABOUT_THE_ISSUER):
                raise _refused(f"has the unknown critical extension {extension.oid.dotted_string}", _ANOTHER_KIND)
            case _:
                pass
    if number is None or not 0 <= number <= MAX_REVOCATION_LIST_NUMBER:
        raise _refused("has no usable number, so nobody could tell it from an older one", _ANOTHER_KIND)
    return number


def _verify_scope(point: x509.IssuingDistributionPoint) -> None:
    # onlyContainsUserCerts is what step-ca always says, and users' certificates are all that it issues.
    if point.indirect_crl:
        raise _refused("speaks for other authorities too", _ANOTHER_KIND)
    if point.only_contains_ca_certs or point.only_contains_attribute_certs or point.only_some_reasons:
        raise _refused("leaves out some of what was revoked", _ANOTHER_KIND)


def _parse_serials(crl: x509.CertificateRevocationList) -> Iterator[int]:
    for entry in crl:
        for extension in entry.extensions:
            odd = not isinstance(extension.value, _ENTRY_EXTENSIONS)
            # RFC 5280 §5.3.1: an entry that takes a revocation back stands in delta lists only.
            if odd or getattr(extension.value, "reason", None) is x509.ReasonFlags.remove_from_crl:
                raise _refused("has an entry that says more than that a certificate is revoked", _ANOTHER_KIND)
        yield entry.serial_number


def _verify_dates(crl: x509.CertificateRevocationList, now: datetime, leeway: timedelta) -> datetime:
    this_update, next_update = crl.last_update_utc, crl.next_update_utc
    if this_update > now + leeway:
        raise _refused(f"is dated {this_update.isoformat()}, which is in the future", _CLOCKS)
    if next_update is None:
        raise _refused("does not say when the next one follows, so it would never grow old", _ANOTHER_KIND)
    if next_update <= now - leeway:
        raise _refused(f"should have been followed by another one on {next_update.isoformat()}", _NOT_WRITTEN)
    return next_update


def _refused(what_it_does: str, remedy: str) -> RevocationListRefused:
    message = f"The authority's revocation list {what_it_does}."
    return RevocationListRefused(Reason.REVOCATION_LIST_REFUSED, message, layer=Layer.CA, remedy=remedy)
