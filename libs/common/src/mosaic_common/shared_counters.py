"""Counters that all replicas of a service share, and what is known of whether they answer."""

from collections.abc import Callable
from typing import Final

from mosaic_common.log import logger

ASK_AGAIN_SECONDS: Final = 1.0
STRICT_PART: Final = 4
"""Without counters in common each replica holds this part of a limit: as many as four together give away no more than all of it."""


class CountersUnreachable(Exception):
    """The counters gave no answer that can be used; the cause says why."""


class Answering:
    """Whether shared counters answer. While they are silent one call in so long asks them; no other waits for what will not come.

    Args:
        monotonic: seconds, never going back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic: Final = monotonic
        self._silent = False
        self._ask_again_at = monotonic()
        self._log: Final = logger("limits")

    def is_asked_now(self) -> bool:
        """Whether this call has to ask."""
        if not self._silent:
            return True
        now = self._monotonic()
        if now < self._ask_again_at:
            return False
        self._ask_again_at = now + ASK_AGAIN_SECONDS
        return True

    def fell_silent(self, cause: CountersUnreachable) -> None:
        """Note that whoever asked got no answer."""
        self._ask_again_at = self._monotonic() + ASK_AGAIN_SECONDS
        if not self._silent:
            self._silent = True
            self._log.warning("limits_held_here", cause=str(cause))

    def answered(self) -> None:
        """Note that whoever asked got an answer, whichever it was."""
        if self._silent:
            self._silent = False
            self._log.info("limits_shared_again")
