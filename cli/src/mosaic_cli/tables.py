"""The tables: one look for all commands."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mosaic_cli.output import readable
from mosaic_cli.times import absolute, brief

Cell = str | Text

# Wide enough for any row: a pipe has no width, and a UUID broken in two is found by no grep.
_PIPE_WIDTH: Final = 10_000
# Narrower than this a column that may fold is no pleasure to read.
_READABLE_WIDTH: Final = 16
_GAP: Final = 2
_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "active": ("●", "green"),
    "open": ("●", "green"),
    "ok": ("●", "green"),
    "allowed": ("✓", "green"),
    "passed": ("✓", "green"),
    "not reached": ("·", "dim"),
    "reported": ("·", "cyan"),
    "pending": ("○", "yellow"),
    "claimed": ("○", "yellow"),
    "unfinished": ("○", "yellow"),
    "suspended": ("◌", "yellow"),
    "superseded": ("◌", "dim"),
    "stale": ("◌", "yellow"),
    "used": ("✓", "dim"),
    "expired": ("✗", "dim"),
    "voided": ("✗", "dim"),
}
_BAD: Final = ("✗", "red")


def print_table(content: RenderableType) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(content)


def state(name: str) -> Text:
    """A status with the mark and colour of its kind."""
    mark, style = _STATES.get(name, _BAD)
    return Text(f"{mark} {readable(name)}", style=style)


def plain(text: str, *, limit: int | None = None) -> Text:
    """Text from elsewhere on one line, made safe, cut at a limit."""
    line = " ".join(text.split()) if limit else text
    return Text(readable(line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…"))


def identifier(text: str) -> Text:
    """A UUID or hash: whole, so that it can be copied."""
    return Text(readable(text), style="cyan")


def quiet(text: str) -> Text:
    return Text(readable(text), style="dim")


def when(moment: datetime | None, now: datetime, *, absent: str = "–") -> Text:
    return quiet(absent) if moment is None else Text(brief(moment, now))


def exactly(moment: datetime | None, now: datetime, *, absent: str = "–") -> Text:
    return quiet(absent) if moment is None else Text(absolute(moment, now))


@dataclass(frozen=True, slots=True)
class Rows:
    """A list: a table where it fits, else an entry per row, like psql's expanded display. No value is ever cut off.

    Attributes:
        whole: headings of the columns that are not broken; the others may fold, down to a readable width.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence[Text]]
    whole: Collection[str]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table() if self._width() <= options.max_width else self._entries()

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", show_edge=False)
        for heading in self.headings:
            table.add_column(heading, no_wrap=heading in self.whole, overflow="fold")
        for line in self.lines:
            table.add_row(*line)
        return table

    def _width(self) -> int:
        return sum(self._column_width(at, heading) + _GAP for at, heading in enumerate(self.headings)) - _GAP

    def _column_width(self, at: int, heading: str) -> int:
        widest = max(len(heading), *(line[at].cell_len for line in self.lines))
        return widest if heading in self.whole else min(widest, _READABLE_WIDTH)

    def _entries(self) -> RenderableType:
        return stacked(*(self._entry(line) for line in self.lines))

    def _entry(self, line: Sequence[Text]) -> RenderableType:
        return properties((heading.lower(), cell) for heading, cell in zip(self.headings, line, strict=True))


def rows(
    headings: Sequence[str], lines: Iterable[Iterable[Cell]], *, empty: str, whole: Collection[str] = ("ID",)
) -> RenderableType:
    """A list, or the sentence that there is nothing to list."""
    cells = [[cell if isinstance(cell, Text) else plain(cell) for cell in line] for line in lines]
    return Rows(headings, cells, whole) if cells else quiet(empty)


def details(title: Text, pairs: Iterable[tuple[str, Cell]]) -> RenderableType:
    """One thing, a line for each of its properties."""
    return Group(title, properties(pairs))


def properties(pairs: Iterable[tuple[str, Cell]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, value if isinstance(value, Text) else plain(value))
    return grid


def warnings(sentences: Iterable[str]) -> RenderableType | None:
    """What a reader has to see first, a paragraph each; None where there is nothing."""
    paragraphs = [(Text("!", style="bold yellow"), Text(readable(sentence), style="yellow")) for sentence in sentences]
    if not paragraphs:
        return None
    grid = Table.grid(padding=(0, 1))
    for mark, text in paragraphs:
        grid.add_row(mark, text)
    return grid


def stacked(*parts: RenderableType | None) -> RenderableType:
    """Parts under one another, an empty line between them."""
    present = [part for part in parts if part is not None]
    spaced = [item for part in present for item in (part, Text())]
    return Group(*spaced[:-1])


def section(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(title, style="bold"), content)
