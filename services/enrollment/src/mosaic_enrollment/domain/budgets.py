"""Budgets, and what one call takes from them: the generic cell rate algorithm (ITU-T I.371).

A budget is one number, its arrival: the moment at which everything taken from it will have come back. A call moves it one interval
on, and is refused when it would lie more than a minute's worth ahead. A refusal takes nothing, so whoever waits as long as he is
told is not refused again on account of having asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Protocol, Self

from mosaic_common.errors import Layer, RateLimited, Reason
from mosaic_common.shared_counters import STRICT_PART

MINUTE_US: Final = 60_000_000
MAX_PER_MINUTE: Final = MINUTE_US


@dataclass(frozen=True, slots=True)
class Limit:
    """So many a minute, from 1 to 60,000,000; after a minute of silence a minute's worth may come at once."""

    per_minute: int

    @property
    def interval_us(self) -> int:
        return MINUTE_US // self.per_minute

    def strict(self) -> "Limit":
        """What one replica holds on its own."""
        return Limit(max(1, self.per_minute // STRICT_PART))

    def arrival_us(self, arrival_us: int, now_us: int) -> int:
        """Return the arrival after one call more; what has all come back counts from now."""
        return max(arrival_us, now_us) + self.interval_us


def wait_us(arrival_us: int, now_us: int) -> int:
    """Return how long a call with this arrival is too early; it is not when that is not positive."""
    return arrival_us - now_us - MINUTE_US


@dataclass(frozen=True, slots=True)
class Charge:
    """What one call takes from one budget.

    Attributes:
        key: names the budget.
        refusal: one sentence for whoever is refused.
        not_before: a refusal names no shorter wait.
    """

    key: str
    limit: Limit
    refusal: str
    not_before: timedelta = timedelta(0)

    def strict(self) -> Self:
        return replace(self, limit=self.limit.strict())

    def refused(self, wait_us: int) -> RateLimited:
        """What is raised when the budget has nothing left for so long."""
        return RateLimited(
            Reason.RATE_LIMITED,
            self.refusal,
            layer=Layer.RATE,
            retry_after=max(timedelta(microseconds=wait_us), self.not_before),
            remedy="Wait as long as the answer says, then send the same request again: nothing of the token is lost.",
        )


class Counters(Protocol):
    """Where arrivals are kept."""

    async def spend(self, charges: Sequence[Charge]) -> None:
        """Take one from each budget, or nothing from any of them.

        Raises:
            RateLimited: the budget that makes the caller wait longest has nothing left.
            CountersUnreachable: nobody counted; only of counters that are elsewhere.
        """
        ...
