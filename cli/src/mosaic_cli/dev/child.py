"""Become another program that dies with its parent. Run by path, `python -I -S child.py …`: standard library only.

    child.py PARENT_PID DEATH_SIGNAL same-user|user-namespace PROGRAM [ARGUMENT …]

exec keeps the pid, so whoever started this holds the server's own pid and not a shell's.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
UNPRIVILEGED_ID = 1000

EXIT_ORPHANED = 111
EXIT_NO_USER_NAMESPACE = 112


def enter_user_namespace() -> None:
    """Stay the same user to the file system, but not root to a server that refuses root.

    Raises:
        OSError: the kernel, a container's seccomp profile or a sysctl forbids user namespaces.
    """
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{UNPRIVILEGED_ID} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{UNPRIVILEGED_ID} {group} 1")


def die_with(parent: int, death_signal: int) -> None:
    """Ask the kernel for `death_signal` at the parent's end. Elsewhere than on Linux the lifeline alone does it."""
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    # A parent that died before prctl sends no signal any more.
    if os.getppid() != parent:
        sys.exit(EXIT_ORPHANED)


def main(arguments: list[str]) -> None:
    parent, death_signal, identity, *command = arguments
    if identity == "user-namespace":
        try:
            enter_user_namespace()
        except OSError as error:
            print(f"user namespace refused: {error}", file=sys.stderr)
            sys.exit(EXIT_NO_USER_NAMESPACE)
    # Only after the credentials have changed: a change can clear it (prctl(2)).
    die_with(int(parent), signal.Signals(int(death_signal)))
    os.execv(command[0], command)  # noqa: S606 - exec is the purpose: the pid stays


if __name__ == "__main__":
    main(sys.argv[1:])
