"""What a read takes from its grant and from its peer, and what becomes of it when they have nothing left.

The generic cell rate algorithm (ITU-T I.371): a bucket is one number, its arrival, the moment at which everything taken from it
will have come back. A token moves it one interval on; what would move it further ahead than the burst comes too early.

Whoever comes too early is refused and *booked*: his tokens are taken all the same, from the future, and kept for his grant from the
moment that he is told. Otherwise somebody else would take them just then, and he would be refused for ever. Bookings belong to the
grant, whichever replica made them: a call fetches the oldest ripe one of its weight before it takes anything new. One that nobody
fetches in time is forfeited, and how many there are is bounded: hammering costs a grant no more than the horizon.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

from mosaic_common.errors import Layer, RateLimited, Reason

from mosaic_federation_edge.domain.limits import SEARCH_WEIGHT
from mosaic_federation_edge.domain.rate_limit import Rate

SECOND_US: Final = 1_000_000
HORIZON_US: Final = 30 * SECOND_US
KEPT_US: Final = 3 * SECOND_US
"""A booking is forfeited so long after it was due."""
MAX_BOOKINGS: Final = 64
FIRST_HORIZONS: Final = 2
"""So much further ahead reaches a grant that has no booking yet: one that hammers must not keep out the others of its peer."""
AHEAD_PART: Final = 4
"""Ahead of need goes at most one token of so many that the bucket holds: what is left serves the other replicas."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A rate as its bucket counts, in microseconds.

    Attributes:
        interval_us: one token comes back in so long. Rounded up: never faster than the limit.
    """

    interval_us: int
    burst_us: int

    @classmethod
    def of(cls, rate: Rate) -> "Pace":
        interval_us = max(1, math.ceil(SECOND_US / rate.per_second))
        return cls(interval_us, rate.burst * interval_us)

    @property
    def horizon_us(self) -> int:
        """Nothing is booked further ahead, but for one call of each grant; the heaviest call always can be."""
        return max(HORIZON_US, SEARCH_WEIGHT * self.interval_us)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call takes from both, or from neither.

    Attributes:
        weight: 0 for a lease alone.
    """

    grant_id: UUID
    peer_id: UUID
    grant: Rate
    peer: Rate
    weight: int


@dataclass(frozen=True, slots=True)
class Taken:
    """The call is paid for; so many further tokens were taken ahead of need."""

    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """The call came too early.

    Attributes:
        wait_us: until its booking is ripe; where nothing more could be booked, until there would be tokens if nobody else came.
        full_us: nothing can be booked or fetched before; 0 when this call was booked.
    """

    wait_us: int
    full_us: int = 0

    def to_error(self) -> RateLimited:
        # The caller's clock may run a little faster than ours: who obeys must not come a moment before his booking is ripe.
        margin_us = self.wait_us // 1000 + 1000
        return RateLimited(
            Reason.RATE_LIMITED,
            "Too many calls; try again later.",
            layer=Layer.RATE,
            retry_after=timedelta(microseconds=self.wait_us + margin_us),
        )


Answer = Taken | Refused


class Counters(Protocol):
    """Where buckets are kept."""

    async def take(self, charge: Charge, ahead: int) -> Answer:
        """Take what the call weighs and, where the buckets hold plenty, up to ``ahead`` tokens more.

        Raises:
            CountersUnreachable: nobody counted; only of counters that are elsewhere.
        """
        ...


@dataclass(frozen=True, slots=True)
class Booking:
    """Tokens that are kept for a call that was refused."""

    due_us: int
    weight: int


@dataclass(slots=True)
class Bucket:
    """What has been taken from one grant or peer. Bookings are kept with the grant, their tokens are taken from both.

    Attributes:
        interval_us: by which the tokens were counted.
    """

    arrival_us: int = 0
    interval_us: int = 1
    bookings: list[Booking] = field(default_factory=list)

    def begin(self, now_us: int, pace: Pace) -> None:
        """Let what has come back be there.

        Under another limit than before the same number of tokens is taken. What a clock that was ahead has left becomes a burst and
        the furthest horizon at most.
        """
        taken_us = max(0, self.arrival_us - now_us) * pace.interval_us // self.interval_us
        self.arrival_us = now_us + min(taken_us, pace.burst_us + FIRST_HORIZONS * pace.horizon_us)
        self.interval_us = pace.interval_us


def take(grant: Bucket, peer: Bucket, charge: Charge, ahead: int, now_us: int) -> Answer:
    """Change both buckets by one call."""
    paces = (Pace.of(charge.grant), Pace.of(charge.peer))
    buckets = (grant, peer)
    furthest_us = now_us + FIRST_HORIZONS * max(pace.horizon_us for pace in paces)
    grant.bookings = [each for each in grant.bookings if now_us - KEPT_US < each.due_us <= furthest_us]
    for booking in grant.bookings:
        if booking.due_us <= now_us and booking.weight == charge.weight:
            grant.bookings.remove(booking)
            return Taken()

    for bucket, pace in zip(buckets, paces, strict=True):
        bucket.begin(now_us, pace)
    arrivals = [bucket.arrival_us + charge.weight * pace.interval_us for bucket, pace in zip(buckets, paces, strict=True)]
    waits = [arrival - now_us - pace.burst_us for arrival, pace in zip(arrivals, paces, strict=True)]
    if max(waits) <= 0:
        leased = min(ahead, *(-wait // pace.interval_us // AHEAD_PART for wait, pace in zip(waits, paces, strict=True)))
        for bucket, arrival, pace in zip(buckets, arrivals, paces, strict=True):
            bucket.arrival_us = arrival + leased * pace.interval_us
        return Taken(leased)
    if charge.weight == 0:
        return Taken()

    horizons = 1 if grant.bookings else FIRST_HORIZONS
    beyond_us = max(wait - horizons * pace.horizon_us for wait, pace in zip(waits, paces, strict=True))
    if beyond_us > 0 or len(grant.bookings) >= MAX_BOOKINGS:
        return Refused(max(waits), _full_us(grant.bookings, beyond_us, now_us))
    for bucket, arrival in zip(buckets, arrivals, strict=True):
        bucket.arrival_us = arrival
    grant.bookings.append(Booking(now_us + max(waits), charge.weight))
    return Refused(max(waits))


def _full_us(bookings: Sequence[Booking], beyond_us: int, now_us: int) -> int:
    """Return how long another call of this weight would be answered the same: until a booking is ripe, or one more can be made."""
    moments = [each.due_us - now_us for each in bookings]
    if beyond_us > 0:
        moments.append(beyond_us)
    return max(0, min(moments))  # ripe ones of another weight may be fetched at any moment
