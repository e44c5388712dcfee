"""What a grant would allow, and how much it shows, as a person reads it."""

from collections.abc import Iterator
from typing import Final, Literal

from mosaic.grants.v1 import types_pb2
from mosaic.grants.v1.grants_pb2 import ExplainGrantResponse, PreviewGrantResponse, ResourcePreview
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.documents import state_of
from mosaic_cli.output import readable
from mosaic_cli.tables import Cell, plain, quiet, rows, stacked, state, warnings

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
    counted = rows(
        headings,
        ((plain(each.resource), *_counts(each, compared=compared)) for each in answer.resources),
        empty="The scope shows no resource.",
        whole=headings,
    )
    return stacked(_reservation(answer), counted)


def _reservation(answer: PreviewGrantResponse) -> RenderableType | None:
    """What an active grant shows it shows now; of the others that has to be said."""
    if answer.grant_status in {types_pb2.GRANT_STATUS_UNSPECIFIED, types_pb2.GRANT_STATUS_ACTIVE}:
        return None
    status = state_of(answer, "grant_status")
    return warnings([f"This grant is {status} and shows nothing: counted is what it would show if it were active."])


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
