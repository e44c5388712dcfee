"""^C, also where a shell runs the tests in its background: there SIGINT is ignored, by whatever they start too."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT mean what it means in a terminal, for this process and for those that it starts meanwhile."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
