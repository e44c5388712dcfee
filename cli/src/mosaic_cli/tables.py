"""The tables: one look for all commands."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mosaic_cli.output import readable
from mosaic_cli.times import absolute, relative

Cell = str | Text

# Wide enough for any row: a pipe has no width, and a UUID broken in two is found by no grep.
_PIPE_WIDTH: Final = 10_000
_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "active": ("●", "green"),
    "open": ("●", "green"),
    "ok": ("●", "green"),
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
    return Text(text, style="dim")


def when(moment: datetime | None, now: datetime, *, absent: str = "–") -> Text:
    return quiet(absent) if moment is None else Text(relative(moment, now))


def exactly(moment: datetime | None, now: datetime, *, absent: str = "–") -> Text:
    return quiet(absent) if moment is None else Text(absolute(moment, now))


def rows(headings: Iterable[str], lines: Iterable[Iterable[Cell]], *, empty: str, whole: Iterable[str] = ("ID",)) -> RenderableType:
    """A list; the columns in `whole` are never broken."""
    kept = frozenset(whole)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in kept, overflow="fold")
    for line in lines:
        table.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in line))
    return table if table.row_count else quiet(empty)


def details(title: Text, pairs: Iterable[tuple[str, Cell]]) -> RenderableType:
    """One thing, a line for each of its properties."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, value if isinstance(value, Text) else plain(value))
    return Group(title, grid)


def stacked(*parts: RenderableType | None) -> RenderableType:
    """Parts under one another, an empty line between them."""
    present = [part for part in parts if part is not None]
    spaced = [item for part in present for item in (part, Text())]
    return Group(*spaced[:-1])


def section(title: str, content: RenderableType) -> RenderableType:
    return Group(Text(title, style="bold"), content)
