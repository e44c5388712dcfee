"""Never open: what all replicas count together, and while nobody answers a strict part in this process."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mosaic_common.shared_counters import STRICT_PART, Answering, CountersUnreachable

from mosaic_federation_edge.domain.charges import Answer, Charge, Counters
from mosaic_federation_edge.domain.rate_limit import Rate


class FailoverCounters:
    """Takes from the shared counters, or from the local ones and a strict part of each limit.

    Args:
        shared: may raise CountersUnreachable; nobody who asks here hears of it.
        monotonic: seconds, never going back.
    """

    def __init__(self, shared: Counters, local: Counters, monotonic: Callable[[], float]) -> None:
        self._shared: Final = shared
        self._local: Final = local
        self._answering: Final = Answering(monotonic)

    async def take(self, charge: Charge, ahead: int) -> Answer:
        if self._answering.is_asked_now():
            try:
                answer = await self._shared.take(charge, ahead)
            except CountersUnreachable as cause:
                self._answering.fell_silent(cause)
            else:
                self._answering.answered()
                return answer
        return await self._local.take(replace(charge, grant=_strict(charge.grant), peer=_strict(charge.peer)), 0)


def _strict(rate: Rate) -> Rate:
    return Rate(rate.per_second / STRICT_PART, max(1, rate.burst // STRICT_PART))
