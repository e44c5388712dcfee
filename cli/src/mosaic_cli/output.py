"""What a command says: its result on stdout as a table or as JSON, everything else on stderr.

Text that comes from elsewhere reaches a terminal only through `readable` or `json_text`: control characters would move its cursor,
bidirectional ones would show one thing and mean another.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mosaic_cli.paging import Page

T = TypeVar("T")

# C0 and C1 controls, separators, whatever sets direction or is invisible (all but the joiners, which scripts and emoji need), lone
# surrogates, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


def readable(text: str) -> str:
    """The text with every character that a terminal might obey written as an escape."""
    return _UNSAFE.sub(lambda unsafe: unsafe[0].encode("unicode_escape").decode("ascii"), text)


def json_text(document: object) -> str:
    """JSON for people and programs: letters as they are, what a terminal might obey as JSON escapes."""
    # json.dumps writes its own line breaks as \n: the only unescaped control character, and never inside a string.
    return "\n".join(_UNSAFE.sub(_json_escape, line) for line in json.dumps(document, indent=2, ensure_ascii=False).split("\n"))


def json_line(document: object) -> str:
    """The same on one line, for what has no end."""
    return _UNSAFE.sub(_json_escape, json.dumps(document, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where one command's output goes, in the format that was asked for."""

    format: Format

    @property
    def is_watched(self) -> bool:
        """Whether somebody sees what is printed while it is printed."""
        return self.format is Format.TABLE and sys.stdout.isatty()

    def show(self, document: Mapping[str, object], render: Callable[[], "RenderableType"]) -> None:
        """Print the result: the document as JSON, or what `render` makes of it."""
        if self.format is Format.JSON:
            print(json_text(document))
        else:
            from mosaic_cli.tables import print_table  # noqa: PLC0415  rich is not paid for by those who want JSON

            print_table(render())

    def show_list(
        self,
        name: str,
        pages: "Iterable[Page[T]]",
        document: Callable[[T], Mapping[str, object]],
        render: Callable[[Sequence[T]], "RenderableType"],
    ) -> None:
        """Print a list: tables as its pages come; as JSON one document once all are there, for half of one is none."""
        documents: list[Mapping[str, object]] = []
        count, more = 0, False
        for page in pages:
            count, more = count + len(page.items), page.more
            if self.format is Format.JSON:
                documents += map(document, page.items)
            elif page.items or not (count or more):
                self.show({}, partial(render, page.items))
        if self.format is Format.JSON:
            print(json_text({name: documents, "truncated": more}))
        if more:
            self.note(f"There are more than these {count:,}: raise --limit, or leave it out.")

    def show_text(self, document: Mapping[str, object], text: str) -> None:
        """Print a result that is one bare text, for `$(…)` and pipes."""
        print(json_text(document) if self.format is Format.JSON else text)

    def note(self, text: str) -> None:
        typer.secho(readable(text), err=True, dim=True)

    def heading(self, text: str) -> None:
        typer.secho(f"\n{readable(text)}", err=True, bold=True)

    def done(self, text: str) -> None:
        typer.secho(f"✓ {readable(text)}", err=True, fg=typer.colors.GREEN)

    def warn(self, text: str) -> None:
        typer.secho(f"! {readable(text)}", err=True, fg=typer.colors.YELLOW, bold=True)


def survive_narrow_encodings() -> None:
    """A terminal that cannot show a character gets its escape instead of a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _json_escape(unsafe: re.Match[str]) -> str:
    units = unsafe[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
