"""Who used the processor, read from /proc."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CLIENT: Final = "client"
OTHERS: Final = "others on this machine"
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class ProcessorTime:
    """Processor seconds of named processes with their children, of this process, and of whatever else runs on the machine.

    Args:
        pids: name → pid.
    """

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids: Final = dict(pids)

    def read(self) -> dict[str, float]:
        """Return seconds since some moment long ago; only differences mean anything."""
        seconds = {name: _of_tree(pid) for name, pid in self._pids.items()}
        seconds[CLIENT] = time.process_time()
        seconds[OTHERS] = _of_machine() - sum(seconds.values())
        return seconds

    def since(self, before: Mapping[str, float]) -> dict[str, float]:
        return {name: max(0.0, seconds - before[name]) for name, seconds in self.read().items()}


def _of_tree(pid: int) -> float:
    # utime, stime, and both of the children that have ended; the name before them may hold spaces.
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / _TICKS
    children = [child for task in Path("/proc", str(pid), "task").iterdir() for child in (task / "children").read_text().split()]
    return own + sum(_of_child(int(child)) for child in children)


def _of_child(pid: int) -> float:
    try:
        return _of_tree(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it ended just now, as workers of a database do; from the next look on its time is its parent's


def _of_machine() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS
