"""Ctrl-C, SIGTERM and a closed terminal all mean: stop in order, once."""

import signal
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_once_on_signals() -> None:
    """The first signal raises SystemExit(128 + number) in the main thread; the next ones no longer disturb the stopping."""
    for number in SIGNALS:
        signal.signal(number, _exit_once)


def _exit_once(number: int, _frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
