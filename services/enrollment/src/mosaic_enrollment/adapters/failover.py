"""Never open: whoever counts for all replicas, and while he is silent a strict part in this process."""

from collections.abc import Callable, Sequence
from typing import Final

from mosaic_common.errors import RateLimited
from mosaic_common.log import logger

from mosaic_enrollment.domain.budgets import Charge, Counters, CountersUnreachable

# While the shared counters are silent, one call in so long asks them; all others do not wait for what will not come.
ASK_AGAIN_SECONDS: Final = 1.0


class FailoverCounters:
    """Counts with the shared counters, or with the local ones and a strict part of each limit.

    Args:
        monotonic: seconds, never going back.
    """

    def __init__(self, shared: Counters, local: Counters, monotonic: Callable[[], float]) -> None:
        self._shared: Final = shared
        self._local: Final = local
        self._monotonic: Final = monotonic
        self._silent = False
        self._ask_again_at = monotonic()
        self._log: Final = logger("limits")

    async def spend(self, charges: Sequence[Charge]) -> None:
        if self._is_asked_now():
            try:
                await self._shared.spend(charges)
            except CountersUnreachable as cause:
                self._fell_silent(cause)
            except RateLimited:
                self._answered()
                raise
            else:
                self._answered()
                return
        await self._local.spend([charge.strict() for charge in charges])

    def _is_asked_now(self) -> bool:
        if not self._silent:
            return True
        now = self._monotonic()
        if now < self._ask_again_at:
            return False
        self._ask_again_at = now + ASK_AGAIN_SECONDS
        return True

    def _fell_silent(self, cause: CountersUnreachable) -> None:
        self._ask_again_at = self._monotonic() + ASK_AGAIN_SECONDS
        if not self._silent:
            self._silent = True
            self._log.warning("limits_held_here", cause=str(cause))

    def _answered(self) -> None:
        if self._silent:
            self._silent = False
            self._log.info("limits_shared_again")
