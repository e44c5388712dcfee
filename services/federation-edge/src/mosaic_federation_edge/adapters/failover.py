"""Never open: what all replicas count together, and while nobody answers a strict part in this process."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mosaic_common.log import logger

from mosaic_federation_edge.domain.charges import STRICT_PART, Answer, Charge, Counters, CountersUnreachable
from mosaic_federation_edge.domain.rate_limit import Rate

# While the shared counters are silent, one call in so long asks them; all others do not wait for what will not come.
ASK_AGAIN_SECONDS: Final = 1.0


class FailoverCounters:
    """Takes from the shared counters, or from the local ones and a strict part of each limit.

    Args:
        shared: may raise CountersUnreachable; nobody who asks here hears of it.
        monotonic: seconds, never going back.
    """

    def __init__(self, shared: Counters, local: Counters, monotonic: Callable[[], float]) -> None:
        self._shared: Final = shared
        self._local: Final = local
        self._monotonic: Final = monotonic
        self._silent = False
        self._ask_again_at = monotonic()
        self._log: Final = logger("limits")

    async def take(self, charge: Charge, ahead: int) -> Answer:
        if self._is_asked_now():
            try:
                answer = await self._shared.take(charge, ahead)
            except CountersUnreachable as cause:
                self._fell_silent(cause)
            else:
                self._answered()
                return answer
        return await self._local.take(replace(charge, grant=_strict(charge.grant), peer=_strict(charge.peer)), 0)

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


def _strict(rate: Rate) -> Rate:
    return Rate(rate.per_second / STRICT_PART, max(1, rate.burst // STRICT_PART))
