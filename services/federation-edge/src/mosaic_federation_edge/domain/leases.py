"""Tokens in hand: a call that finds one waits for nobody.

They were taken from the shared buckets before they are given away, so that replicas together never give away more than was there.
As many are taken ahead as the grant spent lately in a quarter of a second, none for a quiet one. What is not spent within a second
is lost, and comes back to the bucket with time.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from mosaic_federation_edge.domain.charges import Charge, Counters, Refused
from mosaic_federation_edge.domain.rate_limit import Rate

LEASE_SECONDS: Final = 1.0
AHEAD_SECONDS: Final = 0.25
BURST_PART: Final = 16
MAX_GRANTS: Final = 65_536


def most_ahead(*rates: Rate) -> int:
    """Return how many tokens may be in one lease: a small part of what each limit gives."""
    return math.floor(min(min(rate.per_second * AHEAD_SECONDS, rate.burst / BURST_PART) for rate in rates))


@dataclass(frozen=True, slots=True)
class _Full:
    """No call of this weight can be booked or paid before a moment."""

    until: float
    due: float


@dataclass(slots=True)
class _Lease:
    """What this replica holds of one grant.

    Attributes:
        size: how many tokens were wanted last.
        spent: since ``asked_at``.
        asking: for more; only one question at a time is for more than its own call.
        full: by weight.
    """

    tokens: int = 0
    until: float = 0.0
    size: int = 0
    spent: int = 0
    asked_at: float = -math.inf
    asking: bool = False
    full: dict[int, _Full] = field(default_factory=dict)

    def pay(self, weight: int, now: float) -> bool:
        self.spent += weight
        if now >= self.until or self.tokens < weight:
            return False
        self.tokens -= weight
        return True

    @property
    def is_low(self) -> bool:
        return self.tokens * 2 < self.size

    def begin_asking(self, now: float, most: int) -> int:
        """Return how many tokens to ask for. It grows step by step: two calls at once are no habit yet."""
        if self.asking:
            return 0
        lately = self.spent / max(now - self.asked_at, 1e-6)
        self.size = min(math.floor(lately * AHEAD_SECONDS), 2 * self.size + 1, most)
        self.spent, self.asked_at, self.asking = 0, now, self.size > 0
        return self.size

    def fill(self, tokens: int, asked_at: float) -> None:
        rest = self.tokens if asked_at < self.until else 0
        self.tokens, self.until = rest + tokens, asked_at + LEASE_SECONDS


class LeasedCounters:
    """Spends what is in hand, and asks the shared counters for the rest.

    Args:
        shared: always answer.
        monotonic: seconds, never going back.
    """

    def __init__(self, shared: Counters, monotonic: Callable[[], float], max_grants: int = MAX_GRANTS) -> None:
        self._shared: Final = shared
        self._monotonic: Final = monotonic
        self._max_grants: Final = max_grants
        self._leases: Final[OrderedDict[UUID, _Lease]] = OrderedDict()
        self._refilling: Final[set[asyncio.Task[None]]] = set()

    async def spend(self, charge: Charge) -> None:
        """Pay for a call.

        Raises:
            RateLimited: nothing was taken, or a booking was made; carries when to come back.
        """
        lease, now = self._lease_of(charge.grant_id), self._monotonic()
        if lease.pay(charge.weight, now):
            if lease.is_low:
                self._refill(lease, charge, now)
            return
        full = lease.full.get(charge.weight)
        if full is not None and now < full.until:
            # Whoever does not wait gets the same answer without a question.
            raise Refused(round((full.due - now) * 1_000_000)).to_error()
        await self._ask(lease, charge, lease.begin_asking(now, most_ahead(charge.grant, charge.peer)), now)

    def _lease_of(self, grant_id: UUID) -> _Lease:
        lease = self._leases.get(grant_id)
        if lease is None:
            lease = self._leases[grant_id] = _Lease()
            if len(self._leases) > self._max_grants:
                self._leases.popitem(last=False)
        else:
            self._leases.move_to_end(grant_id)
        return lease

    def _refill(self, lease: _Lease, charge: Charge, now: float) -> None:
        ahead = lease.begin_asking(now, most_ahead(charge.grant, charge.peer))
        if ahead:
            refilling = asyncio.create_task(self._ask(lease, replace(charge, weight=0), ahead, now), context=Context())
            self._refilling.add(refilling)
            refilling.add_done_callback(self._refilling.discard)

    async def _ask(self, lease: _Lease, charge: Charge, ahead: int, now: float) -> None:
        try:
            answer = await self._shared.take(charge, ahead)
        finally:
            if ahead:
                lease.asking = False
        if isinstance(answer, Refused):
            if answer.full_us:
                lease.full[charge.weight] = _Full(now + answer.full_us / 1_000_000, now + answer.wait_us / 1_000_000)
            raise answer.to_error()
        if answer.ahead:
            lease.fill(answer.ahead, now)
