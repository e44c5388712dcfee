"""How many audit chains one service may have opened.

A chain that is open stays in the record for good, so that none can go missing: a broken edge must not fill it with empty ones. What
was taken comes back by itself: an honest process that starts again is not shut out by how often it did.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from mosaic_common.errors import Layer, RateLimited, Reason

AT_ONCE: Final = 60
INTERVAL_SECONDS: Final = 10.0


class Openings:
    """One budget per service: 60 at once, then one every 10 seconds. Kept by this process: a limit, not an account."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic: Final = monotonic
        # When everything that was taken will have come back.
        self._arrivals: Final[dict[str, float]] = {}

    def take(self, writer: str) -> None:
        """Take one, or nothing. Raises RateLimited."""
        now = self._monotonic()
        arrival = max(self._arrivals.get(writer, now), now) + INTERVAL_SECONDS
        wait = arrival - now - AT_ONCE * INTERVAL_SECONDS
        if wait > 0:
            raise RateLimited(
                Reason.RATE_LIMITED,
                f"The service {writer} has opened too many audit chains.",
                layer=Layer.SOURCE,
                retry_after=timedelta(seconds=wait),
                remedy=f"See why {writer} starts so often, or loses its chain: its log says so. It goes on by itself.",
            )
        self._arrivals[writer] = arrival

    def give_back(self, writer: str) -> None:
        """What was taken for a chain that was not opened after all: an outage must not use up what is needed when it is over."""
        self._arrivals[writer] -= INTERVAL_SECONDS
