"""What a grant would allow, and how much it shows, as a person reads it."""

from collections.abc import Iterator
from typing import Final, Literal

from mosaic.grants.v1.grants_pb2 import ExplainGrantResponse, PreviewGrantResponse, ResourcePreview
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.documents import state_of
from mosaic_cli.output import readable
from mosaic_cli.tables import Cell, plain, quiet, rows, stacked, state

_Counted = Literal["visible", "per_query", "visible_against", "per_query_against", "gained", "lost"]
_CHANGES: Final = ("VISIBLE THEN", "PER QUERY THEN", "GAINED", "LOST")


def explanation_sheet(answer: ExplainGrantResponse) -> RenderableType:
    """Lock by lock, in the order in which a call passes them."""
    verdict = state("allowed") if answer.allowed else state(state_of(answer, "reason").upper())
    title = Text.assemble(("This call would be ", "bold"), verdict if answer.allowed else Text.assemble("refused  ", verdict))
    layers = rows(
        ("LAYER", "VERDICT", "FOUND"),
        ((each.layer, state(state_of(each, "verdict").replace("_", " ")), each.sentence) for each in answer.layers),
        empty="The gateway names no layer.",
        whole=("LAYER", "VERDICT"),
    )
    return stacked(title, layers, Text(f"→ {readable(answer.remedy)}", style="cyan") if answer.remedy else None)


def preview_table(answer: PreviewGrantResponse, *, compared: bool) -> RenderableType:
    """Counts of each resource; compared, with what another scope would change."""
    headings = ("RESOURCE", "VISIBLE", "PER QUERY", *(_CHANGES if compared else ()))
    return rows(
        headings,
        ((plain(each.resource), *_counts(each, compared=compared)) for each in answer.resources),
        empty="The scope shows no resource.",
        whole=headings,
    )


def _counts(preview: ResourcePreview, *, compared: bool) -> Iterator[Cell]:
    yield _count(preview, "visible")
    yield _count(preview, "per_query")
    if compared:
        yield _count(preview, "visible_against")
        yield _count(preview, "per_query_against")
        yield _count(preview, "gained", style="green")
        yield _count(preview, "lost", style="red")


def _count(preview: ResourcePreview, field: _Counted, *, style: str = "") -> Text:
    if not preview.HasField(field):
        return quiet("–")
    count: int = getattr(preview, field)
    return Text(f"{count:,}", style=style if count else "dim")
