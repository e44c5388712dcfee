"""Only who takes part runs.

A gateway that nobody asks still pings, polls and wakes up: nine of them took a quarter of a core from what was measured, and its
caches with it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Collection, Set
from typing import Final, Self

SETTLE_SECONDS: Final = 0.5
"""After a standstill connections may have been given up; whoever goes on needs a moment for new ones."""


class Standstill:
    """Stops and continues processes of a bed; at its end all of them run.

    Args:
        pids: of those that may be stopped.
    """

    def __init__(self, pids: Collection[int]) -> None:
        self._pids: Final = frozenset(pids)
        self._stopped: Set[int] = frozenset()

    def but_for(self, pids: Collection[int]) -> None:
        """Stop all others, and let these go on."""
        awake = self._stopped & set(pids)
        self._continue(awake)
        self._stopped = self._pids - set(pids)
        for pid in self._stopped:
            os.kill(pid, signal.SIGSTOP)
        if awake:
            time.sleep(SETTLE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Whoever has ended meanwhile fails the run elsewhere, and must not keep the others from ending.
        self._continue(self._stopped)
        self._stopped = frozenset()

    def _continue(self, pids: Collection[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
