"""mosaic_common.x509: which CSR may be signed, and whether the authority signed what was ordered."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from mosaic_common.errors import CaLied, ConfigurationError, CsrRefused, Layer, Reason
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.x509 import (
    CLOCK_LEEWAY,
    MAX_CSR_BYTES,
    Expected,
    IssuedCertificate,
    Ordered,
    draw_serial,
    fingerprint_sha256,
    make_csr,
    verify_csr,
    verify_issued,
    verify_received,
)

from tests.support import authorities, csrs
from tests.support.authorities import Lie, LyingAuthority, double, new_key, omit
from tests.support.csrs import CsrOf

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def test_accepts_a_csr_and_says_what_it_is() -> None:
    """A P-256 request, self-signed, with exactly the expected name, comes back with its hashes."""
    key = new_key()
    csr = verify_csr(make_csr(key, "home"), common_name="home")
    assert csr.common_name == "home"
    assert csr.public_key == key.public_key()
    assert csr.sha256 == fingerprint_sha256(csr.der)
    assert csr.spki_sha256 == fingerprint_sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def test_accepts_the_ordered_csr_only() -> None:
    """With a hash given, another request of the same name is refused."""
    ordered, other = make_csr(new_key(), "home"), make_csr(new_key(), "home")
    assert verify_csr(ordered, common_name="home", sha256=fingerprint_sha256(ordered)).der == ordered
    with pytest.raises(CsrRefused) as refused:
        verify_csr(other, common_name="home", sha256=fingerprint_sha256(ordered))
    assert refused.value.reason is Reason.CSR_MISMATCH


@pytest.mark.parametrize("extension", csrs.ASKED_FOR.values(), ids=csrs.ASKED_FOR)
def test_ignores_what_a_csr_asks_for(extension: x509.ExtensionType) -> None:
    """Asking is allowed and changes nothing: only name and key are taken from a request."""
    assert verify_csr(csrs.csr_with(csrs.common_names("home"), None, extension), common_name="home").common_name == "home"


@pytest.mark.parametrize(
    ("make", "reason"), [*csrs.REFUSED, pytest.param(csrs.of_size(100_000), Reason.CSR_MALFORMED, id="100 kB")]
)
def test_refuses_csrs(make: CsrOf, reason: Reason) -> None:
    """Nothing that is wrong with a request reaches the authority; each refusal says what it was."""
    with pytest.raises(CsrRefused) as refused:
        verify_csr(make("home"), common_name="home")
    assert refused.value.reason is reason
    assert refused.value.layer is Layer.CSR


def test_accepts_a_csr_of_2_kib() -> None:
    """The bound is the largest size that is read, not the first that is refused."""
    der = csrs.of_size(MAX_CSR_BYTES)("home")
    assert verify_csr(der, common_name="home").der == der


def test_draws_positive_serials_of_at_most_128_bits() -> None:
    """A serial fits RFC 5280's 20 octets and is never the same again."""
    serials = {draw_serial() for _ in range(1000)}
    assert len(serials) == 1000
    assert all(0 < serial < 2**128 for serial in serials)


@dataclass(frozen=True, slots=True)
class Ordering:
    """An authority, an order, and the key it is for."""

    authority: LyingAuthority
    key: ec.EllipticCurvePrivateKey
    ordered: Ordered

    @classmethod
    def make(cls, *, intermediate: bool = True) -> Self:
        key = new_key()
        ordered = Ordered(
            common_name="home",
            grant_id=UUID("0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69"),
            subject_user_id=UUID("7d3a1f60-2b8c-4e95-a0d4-5c6b7a8e9f01"),
            serial=draw_serial(),
            spki_sha256=verify_csr(make_csr(key, "home"), common_name="home").spki_sha256,
            not_after=NOW + timedelta(days=30),
            not_before_min=NOW - timedelta(minutes=2),
        )
        return cls(LyingAuthority.make(NOW, intermediate=intermediate), key, ordered)

    def chain(self, *lies: Lie) -> list[bytes]:
        return self.authority.sign(self.key.public_key(), self.ordered, *lies)

    def verify(self, chain: list[bytes], *, root_pem: bytes | None = None, now: datetime = NOW) -> IssuedCertificate:
        return verify_issued(chain, self.ordered, root_pem=root_pem or self.authority.root_pem, now=now)

    def receive(self, chain: list[bytes], *, now: datetime = NOW) -> IssuedCertificate:
        o = self.ordered
        return verify_received(chain, Expected(o.common_name, o.grant_id, o.subject_user_id, o.spki_sha256), now=now)


@pytest.fixture
def ordering() -> Ordering:
    return Ordering.make()


@pytest.mark.parametrize("intermediate", [True, False], ids=["root and intermediate", "self-signed root alone"])
@pytest.mark.parametrize("with_root", [False, True], ids=["without the root", "with the root in the answer"])
def test_accepts_what_was_ordered(intermediate: bool, with_root: bool) -> None:
    """A leaf of exactly the profile comes back with everything there is to record, and links without the root."""
    ordering = Ordering.make(intermediate=intermediate)
    chain = ordering.chain()
    answer = [*chain, ordering.authority.root.public_bytes(Encoding.DER)] if with_root else chain
    issued = ordering.verify(answer)
    assert (issued.der, *issued.chain_der) == tuple(chain)
    assert (issued.grant_id, issued.subject_user_id) == (ordering.ordered.grant_id, ordering.ordered.subject_user_id)
    assert issued.serial == ordering.ordered.serial
    assert issued.fingerprint == fingerprint_sha256(chain[0])
    assert (issued.not_before, issued.not_after) == (NOW - timedelta(minutes=1), ordering.ordered.not_after)


def test_accepts_a_crl_distribution_point(ordering: Ordering) -> None:
    """The one optional extension."""
    ordering.verify(ordering.chain(authorities.with_crl("https://ca.work.example.com/1.0/crl")))


def test_drops_certificates_that_link_nothing(ordering: Ordering) -> None:
    """What is passed on is the verified path, not the answer."""
    stranger = LyingAuthority.make(NOW).root.public_bytes(Encoding.DER)
    issued = ordering.verify([*ordering.chain(), stranger])
    assert stranger not in issued.chain_der


DEVIATIONS = [
    pytest.param(authorities.with_other_key, "public key", id="another key"),
    pytest.param(authorities.with_subject("work"), "subject", id="another name"),
    pytest.param(authorities.with_subject(), "subject", id="no name"),
    pytest.param(authorities.with_subject("home", "work"), "subject", id="two names"),
    pytest.param(authorities.with_organization, "subject", id="an organization"),
    pytest.param(omit(GRANT_ID_OID), "which grant", id="no grant id"),
    pytest.param(omit(SUBJECT_USER_ID_OID), "which subject user", id="no subject user id"),
    pytest.param(authorities.without_identifiers, "which grant", id="neither id"),
    pytest.param(authorities.swap_identifiers, "grant id", id="ids swapped"),
    pytest.param(authorities.with_uuid(GRANT_ID_OID, uuid4()), "grant id", id="another grant"),
    pytest.param(authorities.with_uuid(SUBJECT_USER_ID_OID, uuid4()), "subject user id", id="another user"),
    pytest.param(double(GRANT_ID_OID), "twice", id="grant id twice"),
    pytest.param(double(SUBJECT_USER_ID_OID), "twice", id="subject user id twice"),
    pytest.param(authorities.as_printable_string(GRANT_ID_OID), "UTF8String", id="grant id as PrintableString"),
    pytest.param(authorities.in_upper_case(SUBJECT_USER_ID_OID), "canonical", id="subject user id in upper case"),
    pytest.param(authorities.with_value(GRANT_ID_OID, b"\x0c\x09%!s(<nil>"), "UTF8String", id="what an unguarded template renders"),
    pytest.param(authorities.with_critical(GRANT_ID_OID, True), "is critical", id="grant id critical"),
    pytest.param(authorities.with_critical(SUBJECT_USER_ID_OID, True), "is critical", id="subject user id critical"),
    pytest.param(authorities.without_eku, "2.5.29.37 is missing", id="no extended key usage"),
    pytest.param(authorities.with_eku(ExtendedKeyUsageOID.SERVER_AUTH), "clientAuth", id="serverAuth instead"),
    pytest.param(
        authorities.with_eku(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH), "clientAuth", id="serverAuth too"
    ),
    pytest.param(authorities.with_eku(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), "clientAuth", id="any extended key usage"),
    pytest.param(authorities.with_critical(authorities.EXTENDED_KEY_USAGE, True), "is critical", id="extended key usage critical"),
    pytest.param(omit(authorities.KEY_USAGE), "2.5.29.15 is missing", id="no key usage"),
    pytest.param(authorities.with_key_usage("digital_signature", "key_cert_sign"), "digitalSignature", id="may sign certificates"),
    pytest.param(authorities.with_key_usage("digital_signature", "key_encipherment"), "digitalSignature", id="may encipher keys"),
    pytest.param(authorities.with_critical(authorities.KEY_USAGE, False), "not critical", id="key usage not critical"),
    pytest.param(authorities.as_authority, "authority", id="CA:true"),
    pytest.param(omit(authorities.BASIC_CONSTRAINTS), "2.5.29.19 is missing", id="no basic constraints"),
    pytest.param(
        authorities.with_critical(authorities.BASIC_CONSTRAINTS, False), "not critical", id="basic constraints not critical"
    ),
    pytest.param(omit(authorities.SUBJECT_KEY_ID), "2.5.29.14 is missing", id="no subject key id"),
    pytest.param(omit(authorities.AUTHORITY_KEY_ID), "2.5.29.35 is missing", id="no authority key id"),
    pytest.param(
        authorities.with_value(authorities.AUTHORITY_KEY_ID, b"\x30\x00"), "names no key", id="authority key id without a key"
    ),
    pytest.param(authorities.with_san(x509.DNSName("home")), "2.5.29.17 was not ordered", id="a SAN"),
    pytest.param(
        authorities.with_service_uri("mosaic://work/svc/grants"),
        "2.5.29.17 was not ordered",
        id="a service's URI: a peer as grants",
    ),
    pytest.param(authorities.with_extra_extension, "1.3.6.1.4.1.37476.9000.64.1 was not ordered", id="step-ca's own extension"),
    pytest.param(authorities.with_crl("https://ca/crl", critical=True), "CRL", id="CRL distribution point critical"),
    pytest.param(double(authorities.KEY_USAGE), "cannot be read", id="key usage twice"),
    pytest.param(authorities.with_value(authorities.KEY_USAGE, b"\x05"), "cannot be read", id="key usage is no DER"),
    pytest.param(authorities.as_version_1, "version 3", id="version 1"),
    pytest.param(authorities.with_not_before(NOW + CLOCK_LEEWAY + timedelta(seconds=1)), "not valid yet", id="not valid yet"),
    pytest.param(authorities.with_not_after(NOW), "expired", id="expired"),
    pytest.param(authorities.signed_by_stranger, "chain", id="signed by a stranger"),
    pytest.param(
        authorities.with_value(authorities.AUTHORITY_KEY_ID, b"\x30\x16\x80\x14" + bytes(20)), "key identifier", id="AKI of another"
    ),
]

ORDER_DEVIATIONS = [
    pytest.param(authorities.with_serial(7), "serial", id="another serial"),
    pytest.param(authorities.with_not_after(NOW + timedelta(days=30, seconds=1)), "past the ordered", id="a second too long"),
    pytest.param(authorities.with_not_before(NOW - timedelta(minutes=2, seconds=1)), "before it was ordered", id="dated back"),
]


@pytest.mark.parametrize(("lie", "said"), [*DEVIATIONS, *ORDER_DEVIATIONS])
def test_refuses_whatever_was_not_ordered(ordering: Ordering, lie: Lie, said: str) -> None:
    """An authority that deviates in anything is caught, the deviation is named, and the operator is told what to do."""
    with pytest.raises(CaLied, match=said) as refused:
        ordering.verify(ordering.chain(lie))
    assert refused.value.reason is Reason.CA_LIED
    assert refused.value.layer is Layer.CA
    assert refused.value.remedy


@pytest.mark.parametrize(("lie", "said"), DEVIATIONS)
def test_a_querying_gateway_refuses_the_same(ordering: Ordering, lie: Lie, said: str) -> None:
    """Whoever receives a certificate holds it to the same profile."""
    with pytest.raises(CaLied, match=said):
        ordering.receive(ordering.chain(lie))


def test_names_every_deviation_at_once(ordering: Ordering) -> None:
    """One refusal tells the whole difference, so that a template is repaired in one go."""
    with pytest.raises(CaLied) as refused:
        ordering.verify(ordering.chain(authorities.without_eku, authorities.with_serial(7), authorities.as_authority))
    assert all(said in refused.value.message for said in ("2.5.29.37", "serial", "authority"))


def stranger_pem() -> bytes:
    return LyingAuthority.make(NOW).root_pem


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda chain: [], id="nothing"),
        pytest.param(lambda chain: chain[:1], id="intermediate missing"),
        pytest.param(lambda chain: chain[::-1], id="intermediate first"),
        pytest.param(lambda chain: chain * 3, id="six certificates"),
        pytest.param(lambda chain: [chain[0] + b"\x00", *chain[1:]], id="trailing byte"),
        pytest.param(lambda chain: [b"\x30\x00", *chain[1:]], id="no certificate"),
        pytest.param(lambda chain: [bytes(100_000), *chain[1:]], id="100 kB"),
        pytest.param(lambda chain: [chain[0], b"-----BEGIN"], id="PEM in the chain"),
    ],
)
def test_refuses_answers_that_are_no_chain(ordering: Ordering, spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    """Whatever comes back instead of a chain is refused as such, and not by a parser's exception."""
    with pytest.raises(CaLied):
        ordering.verify(spoil(ordering.chain()))


def test_refuses_another_root(ordering: Ordering) -> None:
    """The root is configuration: a perfect certificate under another one is worth nothing."""
    with pytest.raises(CaLied, match="federation root"):
        ordering.verify(ordering.chain(), root_pem=stranger_pem())


def test_refuses_a_leaf_signed_by_a_leaf(ordering: Ordering) -> None:
    """A peer cannot extend the chain with its own certificate."""
    own = ordering.chain()
    issuer = x509.load_der_x509_certificate(own[0])
    forged = ordering.chain(lambda leaf: replace(leaf, issuer=issuer.subject, signing_key=ordering.key))
    with pytest.raises(CaLied):
        ordering.verify([forged[0], *own])


def test_accepts_a_leaf_dated_by_a_slightly_fast_clock(ordering: Ordering) -> None:
    """Five minutes between two machines' clocks fail no enrollment."""
    ordering.verify(ordering.chain(authorities.with_not_before(NOW + CLOCK_LEEWAY)))


def test_a_chain_that_does_not_link_is_not_received(ordering: Ordering) -> None:
    """Without a root to check against, every certificate still has to be issued by the next."""
    ordering.receive(ordering.chain())
    ordering.receive([*ordering.chain(), ordering.authority.root.public_bytes(Encoding.DER)])
    with pytest.raises(CaLied, match="link"):
        ordering.receive([*ordering.chain(), LyingAuthority.make(NOW).root.public_bytes(Encoding.DER)])


@pytest.mark.parametrize("pem", [b"", b"no PEM", stranger_pem() * 2], ids=["empty", "no PEM", "two roots"])
def test_an_unusable_root_is_a_configuration_error(ordering: Ordering, pem: bytes) -> None:
    """A root file that is not exactly one certificate is our own mistake and named so."""
    with pytest.raises(ConfigurationError):
        verify_issued(ordering.chain(), ordering.ordered, root_pem=pem, now=NOW)
