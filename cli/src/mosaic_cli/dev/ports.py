"""Loopback ports: choosing free ones, and asking the kernel who has one.

A port that answers proves nothing: it may belong to yesterday's server, or to somebody else's.
"""

import contextlib
import secrets
import socket
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
LISTEN_STATE: Final = "0A"


# Below what the kernel hands out for outgoing connections: a port from there is taken by a passer-by before its server is up.
CHOSEN_FROM: Final = range(15_000, 32_000)


def choose_free_ports(count: int) -> list[int]:
    """Distinct ports that nobody has at this moment; all are held until the last is chosen."""
    chosen: list[int] = []
    with contextlib.ExitStack() as held:
        while len(chosen) < count:
            port = secrets.choice(CHOSEN_FROM)
            candidate = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                candidate.bind((LOOPBACK, port))
                chosen.append(port)
    return chosen


def listens(pid: int, port: int) -> bool:
    """Whether the process itself, or a child of it, listens on this loopback port (Linux)."""
    inodes = _listening_inodes(port)
    return bool(inodes) and any(inodes & _socket_inodes(each) for each in (pid, *_children(pid)))


def is_taken(port: int) -> bool:
    """Whether anybody listens on this loopback port."""
    return bool(_listening_inodes(port))


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN_STATE and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(fields[9])
    return inodes


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    return inodes


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        threads = list(Path("/proc", str(pid), "task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return []
