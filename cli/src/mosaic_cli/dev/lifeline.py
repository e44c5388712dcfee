"""Kill this process group once standard input ends. Run by path, `python -I -S lifeline.py`: standard library only.

The supervisor holds the other end of standard input and starts every child in this process's group. The kernel closes that end
however the supervisor dies, so nothing has to be registered, and the group's number cannot be reused while this process is in it.
It is the second of two locks: the kernel's parent-death signal is the first, and reaches no grandchildren.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 3.0


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
