"""One supervisor a folder, and who it is."""

import fcntl
import os
import select
import signal
from pathlib import Path
from typing import Final

LOCK_FILE: Final = "lock"
END_SECONDS: Final = 30.0


class FolderInUse(Exception):
    """Another supervisor works in this folder. One sentence."""


class FolderLock:
    """Held for a supervisor's life. The kernel drops it with its holder, however that ends: a held lock names a living process."""

    def __init__(self, folder: Path) -> None:
        self._file: Final = folder / LOCK_FILE
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        if not _try_lock(self._descriptor):
            os.close(self._descriptor)
            raise FolderInUse(f"Something runs in {folder} already: `mosaic dev status` shows it, `mosaic dev down` ends it.")
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    @property
    def lost(self) -> bool:
        """Whether somebody removed the folder, and with it what all this works on."""
        try:
            return not os.path.samestat(self._file.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def release(self) -> None:
        os.close(self._descriptor)


def end_holder(folder: Path) -> bool:
    """Ask the supervisor of this folder to end, then insist. Returns once it has ended; False when there was none."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        if _try_lock(descriptor):
            return False
        # The lock may be let go a moment before its holder has ended; the pidfd says when that is.
        holder = os.pidfd_open(int(os.pread(descriptor, 32, 0)))
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)
    try:
        signal.pidfd_send_signal(holder, signal.SIGTERM)
        if not _ends_within(holder, END_SECONDS):
            signal.pidfd_send_signal(holder, signal.SIGKILL)
            _ends_within(holder, END_SECONDS)
    except ProcessLookupError:
        pass
    finally:
        os.close(holder)
    return True


def _ends_within(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
