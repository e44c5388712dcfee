"""A broken edge cannot fill the record with chains; an honest one that starts again is not shut out for it."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest
from mosaic.audit.v1 import audit_pb2
from mosaic_common.audit import Head, SignedHead
from mosaic_common.errors import Layer, RateLimited, Reason, Unavailable
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, ServiceIdentity
from mosaic_grants.api.audit_chains import AuditChainServicer
from mosaic_grants.domain.openings import AT_ONCE, INTERVAL_SECONDS, Openings


@dataclass(slots=True)
class Chains:
    """Keeps for whom chains were opened."""

    opened: list[str] = field(default_factory=list)
    down: bool = False

    async def open_chain(self, writer: str) -> SignedHead:
        if self.down:
            raise Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "The database does not answer.", layer=Layer.DEPENDENCY)
        self.opened.append(writer)
        return SignedHead(Head(bytes(16), len(self.opened), 0, bytes(32), 0), bytes(64))


@dataclass(slots=True)
class Caller:
    caller: ServiceIdentity


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def opened(servicer: AuditChainServicer, name: str) -> None:
    await servicer.OpenChain(audit_pb2.OpenChainRequest(), cast(Any, Caller(ServiceIdentity("work", name))))


async def test_a_flood_of_openings_is_refused_and_says_until_when() -> None:
    """Sixty at once, as many as any fleet starts; then one every ten seconds. The other edge has its own."""
    clock, chains = Clock(), Chains()
    servicer = AuditChainServicer(cast(Any, chains), Openings(clock))
    for _ in range(AT_ONCE):
        await opened(servicer, EDGE_INBOUND)
    for _ in range(1000):
        with pytest.raises(RateLimited) as refused:
            await opened(servicer, EDGE_INBOUND)
    assert (refused.value.reason, refused.value.layer) == (Reason.RATE_LIMITED, Layer.SOURCE)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after.total_seconds() == pytest.approx(INTERVAL_SECONDS)
    await opened(servicer, EDGE_OUTBOUND)
    assert chains.opened == [EDGE_INBOUND] * AT_ONCE + [EDGE_OUTBOUND]


async def test_refusals_take_nothing_and_what_was_taken_comes_back() -> None:
    """Whoever waits as long as the answer says is served, however often it was refused before."""
    clock, chains = Clock(), Chains()
    servicer = AuditChainServicer(cast(Any, chains), Openings(clock))
    for _ in range(3 * AT_ONCE):
        try:
            await opened(servicer, EDGE_INBOUND)
        except RateLimited as refused:
            clock.now += cast(timedelta, refused.retry_after).total_seconds()
            await opened(servicer, EDGE_INBOUND)
    assert len(chains.opened) == 3 * AT_ONCE
    clock.now += AT_ONCE * INTERVAL_SECONDS
    for _ in range(AT_ONCE):
        await opened(servicer, EDGE_INBOUND)


async def test_an_outage_uses_up_nothing() -> None:
    """Edges without a chain ask again each second while the database is away; when it is back, each gets one at once."""
    clock, chains = Clock(), Chains(down=True)
    servicer = AuditChainServicer(cast(Any, chains), Openings(clock))
    for _ in range(3 * AT_ONCE):
        with pytest.raises(Unavailable):
            await opened(servicer, EDGE_INBOUND)
    chains.down = False
    for _ in range(AT_ONCE):
        await opened(servicer, EDGE_INBOUND)
    with pytest.raises(RateLimited):
        await opened(servicer, EDGE_INBOUND)
