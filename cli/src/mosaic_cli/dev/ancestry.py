"""End with the job that started us.

`make demo` is make, then a shell, then this process: killing make alone would leave the other two at work. The parent-death signal
sees the next parent only, so every ancestor in our process group, which is what a shell calls a job, is watched by its pidfd.
"""

import os
import select
import signal
import threading
from pathlib import Path


def end_with_ancestors() -> None:
    """From now on this process gets SIGTERM as soon as one of its ancestors in the job ends (Linux; nothing happens elsewhere)."""
    if not hasattr(os, "pidfd_open"):
        return
    try:
        watched = _open_ancestors()
    except ProcessLookupError:
        signal.raise_signal(signal.SIGTERM)
        return
    if watched:
        threading.Thread(target=_terminate_after_any, args=(watched,), name="ancestry", daemon=True).start()


def _open_ancestors() -> list[int]:
    """Raises: ProcessLookupError when one ended while we looked."""
    pidfds = []
    pid = os.getppid()
    while pid > 1 and os.getpgid(pid) == os.getpgrp():
        pidfds.append(os.pidfd_open(pid))
        pid = _parent(pid)
    return pidfds


def _terminate_after_any(pidfds: list[int]) -> None:
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)


def _parent(pid: int) -> int:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    # The program's name stands in parentheses and may hold anything, so count from the last one.
    return int(stat.rpartition(")")[2].split()[1])
