"""Rows of several gateways, and an account of every source that was asked.

Everything here may come from another gateway, so every cell goes through `plain`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from mosaic.federation.v1.federation_pb2 import SearchHit, Verb
from mosaic.federation.v1.query_pb2 import QueryResponse, SourceResult
from mosaic.federation.v1.resources_pb2 import Resource
from rich.console import Group, RenderableType
from rich.text import Text

from mosaic_cli.documents import state_of
from mosaic_cli.output import readable
from mosaic_cli.tables import Cell, identifier, plain, quiet, rows, stacked, state, when
from mosaic_cli.times import length, moment

_WIDE: Final = 60
# Two passages of twenty words each.
_LONGEST_MATCH: Final = 400
_MARK: Final = "**"
_NOBODY: Final = "No source answered."
_SPACE: Final = re.compile(r"\s+")


def answer_view(answer: QueryResponse, now: datetime) -> RenderableType:
    found = _hit_list(answer.hits, now) if answer.hits else _row_list(answer.rows, now, empty=_nothing_of(answer))
    # A search has one page, and says so when more matched; a list goes on from page to page until the cap.
    cut = "there is more" if answer.hits else "cut at the grant's row limit: there is more"
    return stacked(found, _account(answer, cut))


def _nothing_of(answer: QueryResponse) -> str:
    return "No rows." if any(state_of(each, "status") == "ok" for each in answer.sources) else _NOBODY


def capabilities_view(answer: QueryResponse, now: datetime) -> RenderableType:
    return stacked(
        rows(
            ("SOURCE", "RESOURCES", "ROWS PER QUERY", "VERBS", "UNTIL"),
            (_capabilities(each, now) for each in answer.sources if each.HasField("capabilities")),
            empty=_NOBODY,
            whole=("ROWS PER QUERY", "UNTIL"),
        ),
        _account(answer),
    )


def _capabilities(source: SourceResult, now: datetime) -> Sequence[Cell]:
    found = source.capabilities
    until = moment(found.grant_expires_at_us) if found.HasField("grant_expires_at_us") else None
    return (
        source.source,
        ", ".join(found.resources),
        f"{found.max_rows_per_query:,}" if found.max_rows_per_query else "no limit",
        ", ".join(Verb.Name(each).removeprefix("VERB_").lower() for each in found.supported_verbs),
        when(until, now, absent="no end"),
    )


def _hit_list(hits: Sequence[SearchHit], now: datetime) -> RenderableType:
    """Best first; the source of each, since their ranks cannot be compared."""
    return rows(
        ("SOURCE", "KIND", "WHAT", "MATCH", "UPDATED", "ID"),
        (
            (
                hit.resource.source,
                _kind(hit.resource),
                _summary(hit.resource, now),
                _match(hit),
                when(moment(hit.resource.updated_at_us), now),
                identifier(hit.resource.id),
            )
            for hit in hits
        ),
        empty="No rows.",
        whole=("KIND", "UPDATED", "ID"),
    )


def _match(hit: SearchHit) -> Text:
    """The snippet, what matched in it in bold; or how near the embedding is."""
    if not hit.snippet:
        return quiet(f"distance {hit.distance:.3f}" if hit.HasField("distance") else "–")
    snippet = _SPACE.sub(" ", hit.snippet)
    cut = "…" if len(snippet) > _LONGEST_MATCH else ""
    parts = snippet[:_LONGEST_MATCH].split(_MARK)
    return Text.assemble(*((readable(part), "bold" if number % 2 else "") for number, part in enumerate(parts)), cut)


def _row_list(found: Sequence[Resource], now: datetime, *, empty: str) -> RenderableType:
    kinds = {_kind(row) for row in found}
    own = _COLUMNS.get(kinds.pop(), _ANY_KIND) if len(kinds) == 1 else _ANY_KIND
    return rows(
        ("SOURCE", *own, "UPDATED", "ID"),
        (
            (row.source, *(cell(row, now) for cell in own.values()), when(moment(row.updated_at_us), now), identifier(row.id))
            for row in found
        ),
        empty=empty,
        whole=("STATUS", "DUE", "EXPIRES", "LAST USED", "UPDATED", "ID"),
    )


def _account(answer: QueryResponse, cut: str | None = None) -> RenderableType:
    """What became of every source that was asked.

    Args:
        cut: how to say of rows that there are more; None where no rows were asked for.
    """
    return Group(*(_source_line(each, cut) for each in answer.sources))


def _source_line(source: SourceResult, cut: str | None) -> Text:
    took = f"{source.latency_us / 1000:.0f} ms"
    told = took if cut is None else f"{source.row_count} row{'' if source.row_count == 1 else 's'}, {took}"
    parts: list[Cell | tuple[str, str]] = [state(state_of(source, "status")), "  ", plain(source.source), "  ", quiet(told)]
    if source.HasField("age_us"):
        parts.append(f"  as of {length(timedelta(microseconds=source.age_us))} ago")
    if source.truncated and cut is not None:
        parts.append((f"  {cut}", "yellow"))
    if source.reason:
        parts.append((f"  {plain(source.reason)}", "red"))
    if source.message:
        parts.append(Text.assemble("  ", plain(source.message)))
    return Text.assemble(*parts)


def _kind(row: Resource) -> str:
    return row.WhichOneof("resource") or "row"


def _text(kind: str, name: str, limit: int = _WIDE) -> Callable[[Resource, datetime], Cell]:
    return lambda row, _: plain(getattr(getattr(row, kind), name), limit=limit)


def _time(kind: str, name: str, absent: str = "–") -> Callable[[Resource, datetime], Cell]:
    def cell(row: Resource, now: datetime) -> Cell:
        own: Any = getattr(row, kind)
        field = own.DESCRIPTOR.fields_by_name[name]
        there = not field.has_presence or own.HasField(name)
        return when(moment(getattr(own, name)) if there else None, now, absent=absent)

    return cell


_COLUMNS: Final[Mapping[str, Mapping[str, Callable[[Resource, datetime], Cell]]]] = {
    "task": {"TITLE": _text("task", "title"), "STATUS": _text("task", "status"), "DUE": _time("task", "due_at_us")},
    "note": {"TITLE": _text("note", "title"), "BODY": _text("note", "body")},
    "memory": {"KIND": _text("memory", "kind"), "CONTENT": _text("memory", "content", 80)},
    "credential": {
        "LABEL": _text("credential", "label"),
        "PROVIDER": _text("credential", "provider"),
        "EXPIRES": _time("credential", "expires_at_us", "never"),
    },
    "api_key": {
        "LABEL": _text("api_key", "label"),
        "PROVIDER": _text("api_key", "provider"),
        "LAST USED": _time("api_key", "last_used_at_us", "never"),
    },
}
_SHORT: Final = {"task": "title", "note": "title", "memory": "content", "credential": "label", "api_key": "label"}


def _summary(row: Resource, _: datetime) -> Cell:
    kind = row.WhichOneof("resource")
    return plain(getattr(getattr(row, kind), _SHORT[kind]), limit=_WIDE) if kind else quiet("–")


_ANY_KIND: Final[Mapping[str, Callable[[Resource, datetime], Cell]]] = {
    "KIND": lambda row, _: plain(_kind(row)),
    "WHAT": _summary,
}
