"""Never open: whoever counts for all replicas, and while he is silent a strict part in this process."""

from collections.abc import Callable, Sequence
from typing import Final

from mosaic_common.errors import RateLimited
from mosaic_common.shared_counters import Answering, CountersUnreachable

from mosaic_enrollment.domain.budgets import Charge, Counters


class FailoverCounters:
    """Counts with the shared counters, or with the local ones and a strict part of each limit.

    Args:
        monotonic: seconds, never going back.
    """

    def __init__(self, shared: Counters, local: Counters, monotonic: Callable[[], float]) -> None:
        self._shared: Final = shared
        self._local: Final = local
        self._answering: Final = Answering(monotonic)

    async def spend(self, charges: Sequence[Charge]) -> None:
        if self._answering.is_asked_now():
            try:
                await self._shared.spend(charges)
            except CountersUnreachable as cause:
                self._answering.fell_silent(cause)
            except RateLimited:
                self._answering.answered()
                raise
            else:
                self._answering.answered()
                return
        await self._local.spend([charge.strict() for charge in charges])
