"""How far a long command is, on stderr: a bar where a person watches, a few plain lines where a log does."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from mosaic_cli.output import Terminal

_LINES: Final = 10


@contextmanager
def progress(total: int, what: str, output: Terminal) -> Iterator[Callable[[int], None]]:
    """Give a function that takes how much is done, out of `total`."""
    if not sys.stderr.isatty():
        yield _PlainLines(total, what, output).tell
        return
    from rich.console import Console  # noqa: PLC0415  not paid for by commands that finish at once
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


class _PlainLines:
    """One line for each tenth of the way."""

    def __init__(self, total: int, what: str, output: Terminal) -> None:
        self._total = total
        self._what = what
        self._output = output
        self._told = 0

    def tell(self, done: int) -> None:
        tenths = _LINES * done // max(self._total, 1)
        if tenths > self._told:
            self._told = tenths
            self._output.note(f"{self._what}: {done:,} of {self._total:,}")
