"""The issuer between a warrant, a CSR and an authority that may lie."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from mosaic_ca_broker.adapters.ca_errors import refused, unreachable
from mosaic_ca_broker.domain.authority import UnverifiedRevocationList
from mosaic_ca_broker.domain.issue import Issuer
from mosaic_common.errors import CaError, CaLied, CaRefused, CaUnreachable, CsrRefused, MosaicError, Reason, WarrantRefused
from mosaic_common.keys import private_pem, public_pem
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.warrants import Warrant, WarrantSigner, WarrantVerifier
from mosaic_common.x509 import Csr, make_csr

from tests.support import authorities as lies
from tests.support.authorities import Lie, LyingAuthority
from tests.support.clock import FakeClock
from tests.support.orders import SigningOrder

CLOCK = FakeClock()
NOW = CLOCK.now()
WARRANT_KEY = lies.new_key()
AUTHORITY = LyingAuthority.make(NOW)
STRANGER = LyingAuthority.make(NOW)
SOMEBODY = UUID("00000000-0000-4000-8000-000000000001")


class AuthorityThatLies:
    """A CertificateAuthority that signs, with lies, or fails; and remembers how often it was asked."""

    def __init__(self, *told: Lie, signer: LyingAuthority = AUTHORITY, failure: CaError | None = None) -> None:
        self._lies = told
        self._signer = signer
        self._failure = failure
        self.asked = 0

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        self.asked += 1
        if self._failure:
            raise self._failure
        return self._signer.sign(csr.public_key, warrant, *self._lies)

    async def revoke(self, serial: int, *, reason: str) -> None: ...
    async def revocation_list(self) -> UnverifiedRevocationList:
        return UnverifiedRevocationList(self._signer.publish(()), self._signer.chain_der)

    async def ping(self) -> None: ...
    async def aclose(self) -> None: ...


def issuer_over(authority: AuthorityThatLies) -> Issuer:
    warrants = WarrantVerifier(public_pem(WARRANT_KEY.public_key()), CLOCK)
    return Issuer(authority, warrants, federation_root_pem=AUTHORITY.root_pem, clock=CLOCK)


def signed(warrant: Warrant) -> str:
    return WarrantSigner(private_pem(WARRANT_KEY)).sign(warrant)


@pytest.fixture
def order() -> SigningOrder:
    return SigningOrder.make(now=NOW)


async def test_passes_on_what_was_ordered(order: SigningOrder) -> None:
    """An honest authority's certificate comes back with its intermediates and without the root."""
    issued = await issuer_over(AuthorityThatLies()).issue(signed(order.warrant), order.csr.der)
    assert (issued.grant_id, issued.subject_user_id) == (order.warrant.grant_id, order.warrant.subject_user_id)
    assert (issued.serial, issued.not_after) == (order.warrant.serial, order.warrant.not_after)
    assert len(issued.chain_der) == 1


@pytest.mark.parametrize(
    "lie",
    [
        *(
            pytest.param(lies.omit(oid), id=f"omits {name}")
            for oid, name in [(GRANT_ID_OID, "grant"), (SUBJECT_USER_ID_OID, "subject")]
        ),
        pytest.param(lies.without_identifiers, id="omits both"),
        pytest.param(lies.swap_identifiers, id="swaps them"),
        *(
            pytest.param(lies.with_uuid(oid, SOMEBODY), id=f"alters {name}: another's data")
            for oid, name in [(GRANT_ID_OID, "grant"), (SUBJECT_USER_ID_OID, "subject")]
        ),
        pytest.param(lies.double(GRANT_ID_OID), id="grant twice"),
        pytest.param(lies.double(SUBJECT_USER_ID_OID), id="subject twice"),
        pytest.param(lies.as_printable_string(GRANT_ID_OID), id="grant as PrintableString"),
        pytest.param(lies.in_upper_case(SUBJECT_USER_ID_OID), id="subject in upper case"),
        pytest.param(lies.with_value(GRANT_ID_OID, b"\x0c\x11%!s(<nil>)"), id="an absent claim, rendered"),
        pytest.param(lies.with_critical(GRANT_ID_OID, True), id="grant critical"),
        pytest.param(lies.with_other_key, id="another key: whoever holds it is the peer"),
        pytest.param(lies.with_serial(7), id="another serial: a revocation of ours would miss it"),
        pytest.param(lies.with_subject("work"), id="another name"),
        pytest.param(lies.with_subject("home", "work"), id="two names"),
        pytest.param(lies.with_organization, id="more than a name"),
        pytest.param(lies.with_not_after(NOW + timedelta(days=30)), id="longer than ordered"),
        pytest.param(lies.with_not_after(NOW - timedelta(seconds=1)), id="expired already"),
        pytest.param(
            lies.with_not_before(NOW - timedelta(minutes=2, seconds=1)), id="dated before the warrant: made for another one"
        ),
        pytest.param(lies.with_not_before(NOW + timedelta(hours=1)), id="not valid yet"),
        pytest.param(lies.as_authority, id="CA:true"),
        pytest.param(lies.with_san(x509.DNSName("grants.work.mosaic.internal")), id="a SAN"),
        pytest.param(lies.with_service_uri("mosaic://work/svc/grants"), id="a service's URI"),
        pytest.param(lies.without_eku, id="no EKU"),
        pytest.param(lies.with_eku(ExtendedKeyUsageOID.SERVER_AUTH), id="serverAuth"),
        pytest.param(lies.with_eku(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH), id="serverAuth too"),
        pytest.param(lies.with_key_usage("digital_signature", "key_cert_sign"), id="keyCertSign"),
        pytest.param(lies.with_extra_extension, id="step-ca's provisioner extension"),
        pytest.param(lies.omit(lies.SUBJECT_KEY_ID), id="no SKI"),
        pytest.param(lies.as_version_1, id="version 1"),
        pytest.param(lies.signed_by_stranger, id="another signature"),
    ],
)
async def test_passes_on_nothing_else(order: SigningOrder, lie: Lie) -> None:
    """Whatever the authority signs instead of what was ordered stays here, as CA_LIED with a remedy."""
    authority = AuthorityThatLies(lie)
    with pytest.raises(CaLied) as raised:
        await issuer_over(authority).issue(signed(order.warrant), order.csr.der)
    assert raised.value.reason is Reason.CA_LIED
    assert raised.value.remedy
    assert authority.asked == 1


async def test_passes_on_nothing_from_another_root(order: SigningOrder) -> None:
    """A perfect certificate under a root that is not configured is none."""
    with pytest.raises(CaLied):
        await issuer_over(AuthorityThatLies(signer=STRANGER)).issue(signed(order.warrant), order.csr.der)


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(refused("no", remedy="r", may_have_signed=False), id="refused"),
        pytest.param(unreachable("gone", remedy="r"), id="unreachable"),
    ],
)
async def test_asks_once(order: SigningOrder, failure: CaRefused | CaUnreachable) -> None:
    """After a failure nobody knows whether it signed: the issuer never tries a warrant twice, and says what the authority said."""
    authority = AuthorityThatLies(failure=failure)
    with pytest.raises(type(failure)) as raised:
        await issuer_over(authority).issue(signed(order.warrant), order.csr.der)
    assert raised.value is failure
    assert authority.asked == 1


def expired(order: SigningOrder) -> tuple[str, bytes]:
    past = NOW - timedelta(minutes=5)
    return signed(replace(order.warrant, issued_at=past, expires_at=past + timedelta(seconds=60))), order.csr.der


def by_somebody_else(order: SigningOrder) -> tuple[str, bytes]:
    return WarrantSigner(private_pem(lies.new_key())).sign(order.warrant), order.csr.der


def for_another_csr(order: SigningOrder) -> tuple[str, bytes]:
    return signed(order.warrant), SigningOrder.make(now=NOW).csr.der


def for_another_name(order: SigningOrder) -> tuple[str, bytes]:
    csr = make_csr(lies.new_key(), "work")
    return signed(replace(order.warrant, jti=uuid4())), csr


def no_csr(order: SigningOrder) -> tuple[str, bytes]:
    return signed(order.warrant), b"\x30\x00"


@pytest.mark.parametrize(
    ("present", "error"),
    [
        pytest.param(expired, WarrantRefused, id="expired warrant"),
        pytest.param(by_somebody_else, WarrantRefused, id="warrant signed by a stranger"),
        pytest.param(for_another_csr, CsrRefused, id="warrant for another CSR"),
        pytest.param(for_another_name, CsrRefused, id="CSR for another name"),
        pytest.param(no_csr, CsrRefused, id="no CSR"),
        pytest.param(lambda order: ("", order.csr.der), WarrantRefused, id="no warrant"),
    ],
)
async def test_refuses_before_the_authority_is_asked(order: SigningOrder, present: object, error: type[MosaicError]) -> None:
    """A one-time token is spent when step-ca sees it, so nothing that we can refuse ourselves gets there."""
    assert callable(present)
    authority = AuthorityThatLies()
    warrant, csr = present(order)
    with pytest.raises(error):
        await issuer_over(authority).issue(warrant, csr)
    assert authority.asked == 0
