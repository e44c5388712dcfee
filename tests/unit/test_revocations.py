"""The broker's own look at the list that it passes on."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from mosaic_ca_broker.adapters.ca_errors import unreachable
from mosaic_ca_broker.domain.authority import UnverifiedRevocationList
from mosaic_ca_broker.domain.revocations import Revocations
from mosaic_common.errors import CaUnreachable, Reason, RevocationListRefused
from mosaic_common.warrants import Warrant
from mosaic_common.x509 import Csr

from tests.support.authorities import CRL_NUMBER, LyingAuthority, list_without
from tests.support.clock import FakeClock

CLOCK = FakeClock()
AUTHORITY = LyingAuthority.make(CLOCK.now())
STRANGER = LyingAuthority.make(CLOCK.now())
YESTERDAY = LyingAuthority(
    CLOCK.now() - timedelta(days=2), AUTHORITY.root, AUTHORITY.root_key, AUTHORITY.intermediate, AUTHORITY.intermediate_key
)


class Publishing:
    """A CertificateAuthority that publishes what it is given, and remembers what it was asked to revoke."""

    def __init__(self, crl_der: bytes, chain_der: Sequence[bytes] = AUTHORITY.chain_der) -> None:
        self._published = UnverifiedRevocationList(crl_der, tuple(chain_der))
        self.revoked: list[tuple[int, str]] = []

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        raise NotImplementedError

    async def revoke(self, serial: int, *, reason: str) -> None:
        self.revoked.append((serial, reason))

    async def revocation_list(self) -> UnverifiedRevocationList:
        return self._published

    async def ping(self) -> None: ...
    async def aclose(self) -> None: ...


class Silent(Publishing):
    """One that publishes nothing."""

    async def revocation_list(self) -> UnverifiedRevocationList:
        raise unreachable("gone", remedy="r")


def revocations_of(authority: Publishing) -> Revocations:
    return Revocations(authority, federation_root_pem=AUTHORITY.root_pem, clock=CLOCK)


async def test_passes_on_an_honest_list_with_its_chain() -> None:
    """Whoever asked can verify it again, with what comes with it."""
    der = AUTHORITY.publish({7}, number=3)
    published = await revocations_of(Publishing(der)).published()
    assert (published.list.number, published.list.serials, published.list.der) == (3, frozenset({7}), der)
    assert published.chain_der == AUTHORITY.chain_der


@pytest.mark.parametrize(
    "authority",
    [
        pytest.param(Publishing(STRANGER.publish(()), STRANGER.chain_der), id="another authority's"),
        pytest.param(Publishing(STRANGER.publish(())), id="another's under our chain"),
        pytest.param(Publishing(YESTERDAY.publish(())), id="the day before yesterday's: it un-revokes"),
        pytest.param(Publishing(AUTHORITY.publish((), list_without(CRL_NUMBER))), id="without a number"),
        pytest.param(Publishing(b"<html>"), id="a proxy's page"),
    ],
)
async def test_passes_on_nothing_that_does_not_hold(authority: Publishing) -> None:
    """What grants would refuse ends here already, where the operator's remedy is at hand."""
    with pytest.raises(RevocationListRefused) as refusal:
        await revocations_of(authority).published()
    assert refusal.value.reason is Reason.REVOCATION_LIST_REFUSED
    assert refusal.value.remedy


async def test_says_when_there_is_no_list() -> None:
    """The authority's own error is not taken for an empty list."""
    with pytest.raises(CaUnreachable):
        await revocations_of(Silent(b"")).published()


async def test_revokes_with_the_reason_given() -> None:
    """Serial and reason reach the authority as grants gave them."""
    authority = Publishing(b"")
    await revocations_of(authority).revoke(2**127, reason="peer revoked")
    assert authority.revoked == [(2**127, "peer revoked")]
