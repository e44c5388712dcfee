"""Budgets in this process, for as long as nobody can be asked who counts for all replicas."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from mosaic_enrollment.domain.budgets import Charge, wait_us

MAX_KEYS: Final = 65_536


class LocalCounters:
    """Counts here.

    The number of budgets is bounded, least recently asked for out first; one that was pushed out is full again. The one for unknown
    tokens is asked for by every call that could push it out.

    Args:
        monotonic: seconds, never going back.
    """

    def __init__(self, monotonic: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._monotonic: Final = monotonic
        self._max_keys: Final = max_keys
        self._arrivals: Final[OrderedDict[str, int]] = OrderedDict()

    async def spend(self, charges: Sequence[Charge]) -> None:
        now = round(self._monotonic() * 1_000_000)
        arrivals = {charge.key: charge.limit.arrival_us(self._arrival(charge.key), now) for charge in charges}
        waits = [(wait_us(arrivals[charge.key], now), charge) for charge in charges]
        wait, longest = max(waits, key=lambda each: each[0])
        if wait > 0:
            raise longest.refused(wait)
        self._arrivals.update(arrivals)
        while len(self._arrivals) > self._max_keys:
            self._arrivals.popitem(last=False)

    def _arrival(self, key: str) -> int:
        if key not in self._arrivals:
            return 0
        self._arrivals.move_to_end(key)
        return self._arrivals[key]
