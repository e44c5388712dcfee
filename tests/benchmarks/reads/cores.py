"""One core for the server that is measured, the others for everything that it needs and for who asks.

Threads and processes that are started later stay where those were that started them.
"""

import contextlib
import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Attributes:
    server: what a measured server may use.
    rest: what everything else may use; the same where there is only one.
    """

    server: Set[int]
    rest: Set[int]

    @classmethod
    def divided(cls) -> "Cores":
        server, *rest = sorted(os.sched_getaffinity(0))
        return cls(frozenset({server}), frozenset(rest or {server}))


def pin(pid: int, cores: Set[int]) -> None:
    """Bind a process and its children, with every thread that they have now.

    Raises:
        FileNotFoundError: there is no such process.
    """
    threads = Path("/proc", str(pid), "task")
    for thread in threads.iterdir():
        _bind(int(thread.name), cores)
    # Bound first, so that a child that is born from here on is bound by its birth.
    for task in threads.iterdir():
        for child in (task / "children").read_text().split():
            # A session of PostgreSQL may end at any moment.
            with contextlib.suppress(FileNotFoundError):
                pin(int(child), cores)


def _bind(thread: int, cores: Set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(thread, cores)
