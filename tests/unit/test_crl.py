"""mosaic_common.crl: which revocation list may be acted upon."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID
from mosaic_common.crl import MAX_REVOCATION_LIST_BYTES, RevocationList, verify_revocation_list
from mosaic_common.errors import ConfigurationError, Layer, Reason, RevocationListRefused
from mosaic_common.x509 import CLOCK_LEEWAY

from tests.support.authorities import (
    AUTHORITY_KEY_ID,
    CRL_NUMBER,
    DISTRIBUTION_POINT,
    ListLie,
    LyingAuthority,
    PublishedList,
    RawExtension,
    distribution_point,
    list_with,
    list_with_entry,
    list_without,
    new_key,
)

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
AUTHORITY = LyingAuthority.make(NOW)
STRANGER = LyingAuthority.make(NOW)
SERIALS = (1, 2**127, 2**128 - 1)


def verify(crl_der: bytes, chain_der: Sequence[bytes] | None = None, *, now: datetime = NOW) -> RevocationList:
    chain = AUTHORITY.chain_der if chain_der is None else chain_der
    return verify_revocation_list(crl_der, chain, root_pem=AUTHORITY.root_pem, now=now)


def test_returns_what_it_says() -> None:
    """Number, both dates, every serial, and the bytes themselves."""
    der = AUTHORITY.publish(SERIALS, number=7)
    assert verify(der) == RevocationList(7, NOW, NOW + timedelta(hours=24), frozenset(SERIALS), der)


def test_accepts_a_list_of_nothing() -> None:
    """An authority that has revoked nothing says so, with the number 0, which is step-ca's first."""
    assert (verify(AUTHORITY.publish((), number=0)).serials, verify(AUTHORITY.publish((), number=0)).number) == (frozenset(), 0)


def test_accepts_a_list_that_the_root_signed() -> None:
    """An authority without an intermediate needs no chain, and one that sends its root all the same is understood."""
    alone = LyingAuthority.make(NOW, intermediate=False)
    der = alone.publish(SERIALS)
    for chain in ((), (alone.root.public_bytes(Encoding.DER),)):
        assert verify_revocation_list(der, chain, root_pem=alone.root_pem, now=NOW).serials == set(SERIALS)


def test_reads_a_list_of_its_largest_size() -> None:
    """What fits is read, however much it is: an authority under strain is not cut off from revoking."""
    serials = range(2**127, 2**127 + 50_000)
    der = AUTHORITY.publish(serials)
    assert MAX_REVOCATION_LIST_BYTES * 0.8 < len(der) <= MAX_REVOCATION_LIST_BYTES
    assert verify(der).serials == set(serials)


@pytest.mark.parametrize(
    "reason",
    [pytest.param(reason, id=reason.name) for reason in x509.ReasonFlags if reason is not x509.ReasonFlags.remove_from_crl],
)
def test_takes_every_reason_for_a_revocation(reason: x509.ReasonFlags) -> None:
    """Why a certificate is revoked changes nothing; a hold is a revocation until it is lifted."""
    with_reason = RawExtension(CRLEntryExtensionOID.CRL_REASON.dotted_string, False, x509.CRLReason(reason).public_bytes())
    assert verify(AUTHORITY.publish((), list_with_entry(9, with_reason))).serials == {9}


def test_allows_for_clocks_that_differ() -> None:
    """Five minutes either way, and not a second more."""
    der = AUTHORITY.publish(SERIALS)
    verify(der, now=NOW - CLOCK_LEEWAY)
    verify(der, now=NOW + timedelta(hours=24) + CLOCK_LEEWAY - timedelta(seconds=1))
    for beyond in (NOW - CLOCK_LEEWAY - timedelta(seconds=1), NOW + timedelta(hours=24) + CLOCK_LEEWAY):
        with pytest.raises(RevocationListRefused) as refusal:
            verify(der, now=beyond)
        assert refusal.value.remedy is not None
        assert "clocks" in refusal.value.remedy


def dated(this_update: timedelta, next_update: timedelta) -> ListLie:
    return lambda published: replace(published, this_update=NOW + this_update, next_update=NOW + next_update)


def signed_by_stranger(published: PublishedList) -> PublishedList:
    return replace(published, signing_key=new_key())


def with_entry_extension(oid: x509.ObjectIdentifier, value: bytes, *, critical: bool = False) -> ListLie:
    return list_with_entry(9, RawExtension(oid.dotted_string, critical, value))


ISSUED_BY_ANOTHER = x509.CertificateIssuer([x509.DirectoryName(STRANGER.root.subject)]).public_bytes()
REMOVED = x509.CRLReason(x509.ReasonFlags.remove_from_crl).public_bytes()
KEY_COMPROMISE = frozenset({x509.ReasonFlags.key_compromise})
NARROWED: list[tuple[str, dict[str, Any], str]] = [
    ("indirect", {"indirect_crl": True}, "other authorities"),
    ("authorities' certificates only", {"only_contains_ca_certs": True}, "leaves out"),
    ("attribute certificates only", {"only_contains_attribute_certs": True}, "leaves out"),
    ("compromised keys only", {"only_some_reasons": KEY_COMPROMISE}, "leaves out"),
]
UNKNOWN_OID = x509.ObjectIdentifier("1.3.6.1.4.1.99999.7")


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        pytest.param(signed_by_stranger, "not signed by the certificate", id="another's signature"),
        pytest.param(lambda each: replace(each, digest=hashes.SHA1()), "not signed with SHA-2", id="SHA-1"),
        pytest.param(lambda each: replace(each, issuer=STRANGER.root.subject), "another issuer", id="another issuer's name"),
        pytest.param(dated(timedelta(minutes=6), timedelta(hours=24)), "in the future", id="not made yet"),
        pytest.param(dated(-timedelta(hours=25), -timedelta(minutes=6)), "followed by another", id="replayed, or the last one"),
        pytest.param(lambda each: replace(each, next_update=None), "never grow old", id="no next update"),
        pytest.param(list_without(CRL_NUMBER), "no usable number", id="no number"),
        pytest.param(
            list_with(CRL_NUMBER, x509.CRLNumber(2**63).public_bytes()), "no usable number", id="a number past any bigint"
        ),
        pytest.param(list_with(CRL_NUMBER, b"\x02\x01\xff"), "cannot be read", id="a negative number"),
        pytest.param(list_with(CRL_NUMBER, b"\x0c\x011"), "cannot be read", id="a number in words"),
        pytest.param(
            lambda each: replace(each, extensions=(*each.extensions, RawExtension(CRL_NUMBER, False, b"\x02\x01\x09"))),
            "cannot be read",
            id="two numbers: which one counts is the attacker's choice",
        ),
        pytest.param(
            lambda each: replace(each, version=1, extensions=()), "no usable number", id="version 1, which has no extensions"
        ),
        pytest.param(
            list_with(ExtensionOID.DELTA_CRL_INDICATOR.dotted_string, x509.DeltaCRLIndicator(1).public_bytes(), critical=True),
            "only the changes",
            id="a delta: what it leaves out would count as unrevoked",
        ),
        pytest.param(
            list_with(ExtensionOID.DELTA_CRL_INDICATOR.dotted_string, x509.DeltaCRLIndicator(1).public_bytes()),
            "only the changes",
            id="a delta that is not even critical",
        ),
        *(
            pytest.param(list_with(DISTRIBUTION_POINT, distribution_point(**says), critical=critical), sentence, id=f"{name}{how}")
            for critical, how in [(True, ""), (False, ", not critical")]
            for name, says, sentence in NARROWED
        ),
        pytest.param(list_with(DISTRIBUTION_POINT, b"\x30\x03\xaf\x01\xff", critical=True), "cannot be read", id="a broken scope"),
        pytest.param(
            list_with(UNKNOWN_OID.dotted_string, b"\x05\x00", critical=True), "unknown critical", id="an unknown critical extension"
        ),
        pytest.param(
            with_entry_extension(CRLEntryExtensionOID.CERTIFICATE_ISSUER, ISSUED_BY_ANOTHER, critical=True),
            "says more",
            id="an entry of another authority",
        ),
        pytest.param(with_entry_extension(CRLEntryExtensionOID.CRL_REASON, REMOVED), "says more", id="an entry taken back"),
        pytest.param(with_entry_extension(UNKNOWN_OID, b"\x05\x00"), "says more", id="an entry with an unknown extension"),
        pytest.param(
            with_entry_extension(CRLEntryExtensionOID.CRL_REASON, b"\x0a\x01\x63"), "cannot be read", id="an entry with a reason 99"
        ),
    ],
)
def test_refuses_what_could_hide_a_revocation(lie: ListLie, sentence: str) -> None:
    """Whatever is not one full, current, numbered list by the authority itself is refused, in a sentence with a remedy."""
    with pytest.raises(RevocationListRefused, match=sentence) as refusal:
        verify(AUTHORITY.publish(SERIALS, lie))
    assert (refusal.value.reason, refusal.value.layer) == (Reason.REVOCATION_LIST_REFUSED, Layer.CA)
    assert refusal.value.remedy


def test_lets_an_unknown_extension_be_that_is_not_critical() -> None:
    """RFC 5280 §5.2: it may be ignored; a later step-ca may say more about its list."""
    assert verify(AUTHORITY.publish(SERIALS, list_with(UNKNOWN_OID.dotted_string, b"\x05\x00"))).serials == set(SERIALS)


def test_accepts_a_list_without_key_id_and_scope() -> None:
    """The signature decides who signed, and a list that names no scope has none."""
    assert verify(AUTHORITY.publish(SERIALS, list_without(AUTHORITY_KEY_ID), list_without(DISTRIBUTION_POINT))).number == 1


ECDSA_WITH_SHA256, UNKNOWN_ALGORITHM = (bytes.fromhex(f"2a8648ce3d0403{last:02x}") for last in (0x02, 0x7F))


@pytest.mark.parametrize(
    ("unverified", "sentence"),
    [
        pytest.param(b"", "CertificateList", id="nothing"),
        pytest.param(b"<html>", "CertificateList", id="a proxy's page"),
        pytest.param(b"-----BEGIN X509 CRL-----\n", "CertificateList", id="PEM"),
        pytest.param(AUTHORITY.publish(SERIALS) + b"\x00", "CertificateList", id="trailing bytes"),
        pytest.param(AUTHORITY.publish(SERIALS)[:-1], "CertificateList", id="truncated"),
        pytest.param(AUTHORITY.root.public_bytes(Encoding.DER), "CertificateList", id="a certificate"),
        pytest.param(
            AUTHORITY.publish(SERIALS).replace(ECDSA_WITH_SHA256, UNKNOWN_ALGORITHM),
            "signature that cannot be read",
            id="unknown algorithm",
        ),
        pytest.param(b"\x30\x80" * 5_000, "CertificateList", id="nested without end"),
        pytest.param(b"\x00" * (MAX_REVOCATION_LIST_BYTES + 1), "larger than", id="too large, and not even parsed"),
    ],
)
def test_refuses_what_is_no_list(unverified: bytes, sentence: str) -> None:
    """Syntax first: nothing odd reaches a comparison."""
    with pytest.raises(RevocationListRefused, match=sentence) as refusal:
        verify(unverified)
    assert refusal.value.remedy


@dataclass(frozen=True, slots=True)
class Signer:
    """An intermediate of the real root that is not fit to sign lists, and its key."""

    chain_der: tuple[bytes, ...]
    authority: LyingAuthority


def signer_with(*extensions: x509.ExtensionType, begins: datetime = NOW - timedelta(days=1), days: int = 30) -> Signer:
    key = new_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(AUTHORITY.issuer.subject)
        .issuer_name(AUTHORITY.root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(AUTHORITY.root_key.public_key()), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    certificate = builder.sign(AUTHORITY.root_key, hashes.SHA256())
    return Signer((certificate.public_bytes(Encoding.DER),), replace(AUTHORITY, intermediate=certificate, intermediate_key=key))


IS_AUTHORITY = x509.BasicConstraints(ca=True, path_length=0)
CERTIFICATES_ONLY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


@pytest.mark.parametrize(
    ("signer", "sentence"),
    [
        pytest.param(signer_with(x509.BasicConstraints(ca=False, path_length=None)), "may not sign", id="a leaf, no authority"),
        pytest.param(signer_with(), "may not sign", id="no basic constraints"),
        pytest.param(signer_with(IS_AUTHORITY, CERTIFICATES_ONLY), "may not sign", id="may sign certificates, not lists"),
        pytest.param(signer_with(IS_AUTHORITY, begins=NOW + timedelta(days=1)), "not valid yet", id="not valid yet"),
        pytest.param(signer_with(IS_AUTHORITY, begins=NOW - timedelta(days=40)), "does not lead to", id="expired"),
    ],
)
def test_refuses_a_signer_that_may_not(signer: Signer, sentence: str) -> None:
    """Leading to the root is not enough: a leaf of the federation leads there too."""
    with pytest.raises(RevocationListRefused, match=sentence):
        verify(signer.authority.publish(SERIALS), signer.chain_der)


def test_accepts_a_signer_without_key_usage() -> None:
    """Where a certificate does not restrict its key, the key may sign lists (RFC 5280 §6.3.3 f)."""
    signer = signer_with(IS_AUTHORITY)
    assert verify(signer.authority.publish(SERIALS), signer.chain_der).serials == set(SERIALS)


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(STRANGER.chain_der, id="another authority's intermediate"),
        pytest.param((STRANGER.root.public_bytes(Encoding.DER),), id="another root"),
        pytest.param((b"\x30\x00",), id="no certificate"),
        pytest.param(AUTHORITY.chain_der * 5, id="five certificates"),
        pytest.param((b"\x30" * 5_000,), id="a large one"),
    ],
)
def test_refuses_a_chain_that_leads_elsewhere(chain: tuple[bytes, ...]) -> None:
    """A list by another authority revokes nothing here, and un-revokes nothing either."""
    with pytest.raises(RevocationListRefused, match="does not lead to the configured federation root"):
        verify(STRANGER.publish(SERIALS), chain)


def test_refuses_the_list_of_another_signer() -> None:
    """The chain may be perfect: the list has to be signed by its first certificate."""
    with pytest.raises(RevocationListRefused, match="another issuer"):
        verify(AUTHORITY.publish(SERIALS), (AUTHORITY.root.public_bytes(Encoding.DER), *AUTHORITY.chain_der))
    with pytest.raises(RevocationListRefused, match="another issuer"):
        verify(AUTHORITY.publish(SERIALS), ())


def test_needs_a_root() -> None:
    """A root that cannot be used is our configuration, not the authority's lie."""
    with pytest.raises(ConfigurationError):
        verify_revocation_list(AUTHORITY.publish(()), AUTHORITY.chain_der, root_pem=b"", now=NOW)
