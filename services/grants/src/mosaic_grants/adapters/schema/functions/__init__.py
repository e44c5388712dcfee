"""The functions in schema federation, rendered from the registry of resources.

The SQL stands in the files beside this one, to be read as SQL; what differs between resources is filled in here. Nothing that is
filled in comes from outside the code.
"""

from dataclasses import dataclass
from textwrap import indent
from typing import Final

from mosaic_common.resources import REGISTRY, Resource

from mosaic_grants.adapters.schema.functions import columns, templates
from mosaic_grants.adapters.schema.functions.columns import PAGE_BYTES
from mosaic_grants.adapters.schema.functions.searches import search_parts
from mosaic_grants.adapters.schema.functions.templates import part
from mosaic_grants.adapters.schema.functions.visibility import (
    DATED,
    filtered,
    first_page_of,
    found_rows,
    included,
    native,
    next_page_of,
    rows_of,
    shown,
)
from mosaic_grants.adapters.schema.names import AUDIT_DEFINER, READ_DEFINER, SCHEMA

__all__ = ["AUDIT_COLUMNS", "PAGE_BYTES", "Function", "render_functions"]

AUDIT_COLUMNS: Final = (
    "request_id",
    "time_us",
    "event",
    "actor",
    "source_address",
    "peer_id",
    "grant_id",
    "subject_user_id",
    "token_id",
    "verb",
    "resource",
    "outcome",
    "denied_layer",
    "denied_reason",
    "status_code",
    "result_count",
    "bytes_out",
    "query_hash",
    "latency_us",
    "repeated",
    "chain_id",
    "seq",
    "prev_hash",
    "hash",
)
_PLACE: Final = ("chain_id", "seq", "prev_hash")


@dataclass(frozen=True, slots=True)
class Function:
    """A function as it must be.

    Attributes:
        identity: schema, name and argument types, as DROP FUNCTION takes them.
        owner: the role as which it runs.
        statement: CREATE OR REPLACE.
    """

    identity: str
    owner: str
    statement: str


def render_functions() -> tuple[Function, ...]:
    """Every function of the schema; what else stands there is stale."""
    families = (_list, _get, _search, _local_list, _local_get, _local_search, _count, _locate)
    return (
        *(family(resource) for family in families for resource in REGISTRY.values()),
        _reading("capabilities", "uuid, bytea", "capabilities", live=_live("capabilities")),
        _reading("schema_version", "", "schema_version"),
        _append_audit(),
    )


def _append_audit() -> Function:
    return _function(
        "append_audit",
        "bytea, bigint, bytea, federation.audit_entry[]",
        AUDIT_DEFINER,
        "append_audit",
        columns=", ".join(AUDIT_COLUMNS),
        placed=_inline(part("audit_placed", entry=", ".join(column for column in AUDIT_COLUMNS if column not in _PLACE)), spaces=8),
        hash=_inline(part("audit_hash"), spaces=8),
    )


def _inline(text: str, *, spaces: int) -> str:
    return indent(text, " " * spaces).lstrip()


def _list(resource: Resource) -> Function:
    name = f"list_{resource.name}"
    teams = f"{included(spaces=4)},\n"
    return _reading(
        name,
        "uuid, bytea, integer, bigint, uuid, integer",
        "list",
        resource=resource.name,
        live=_live(name, resource),
        table=resource.table,
        result=columns.result(resource),
        keyset=part("keyset"),
        first_native=_page(resource, native(first_page_of(resource.table)), beside=", remaining"),
        next_native=_page(resource, native(next_page_of(resource.table)), beside=", remaining"),
        # A row is in one team or in none, so no two branches of a filter give the same.
        first_filtered=_page(resource, filtered(first_page_of(resource.table)), beside=", remaining", teams=teams, distinct=""),
        next_filtered=_page(resource, filtered(next_page_of(resource.table)), beside=", remaining", teams=teams, distinct=""),
    )


def _local_list(resource: Resource) -> Function:
    return _reading(
        f"local_list_{resource.name}",
        "uuid, integer, bigint, uuid",
        "local_list",
        table=resource.table,
        result=columns.result(resource),
        local_user=part("local_user"),
        keyset=part("keyset"),
        first_native=_page(resource, native(first_page_of(resource.table))),
        next_native=_page(resource, native(next_page_of(resource.table))),
    )


def _get(resource: Resource) -> Function:
    name = f"get_{resource.name}"
    return _reading(
        name, "uuid, bytea, uuid", "get", live=_live(name, resource), filter=_filter(resource, "granted"), **_row(resource)
    )


def _local_get(resource: Resource) -> Function:
    return _reading(f"local_get_{resource.name}", "uuid, uuid", "local_get", local_user=part("local_user"), **_row(resource))


def _search(resource: Resource) -> Function:
    name = f"search_{resource.name}"
    embedding = "real[], " if resource.embedding else ""
    return _reading(
        name,
        f"uuid, bytea, text, {embedding}integer",
        "search",
        live=_live(name, resource),
        filter=_filter(resource, "granted"),
        **search_parts(resource),
    )


def _local_search(resource: Resource) -> Function:
    embedding = "real[], " if resource.embedding else ""
    return _reading(
        f"local_search_{resource.name}",
        f"uuid, text, {embedding}integer",
        "local_search",
        resource=resource.name,
        local_user=part("local_user"),
        **search_parts(resource),
    )


def _count(resource: Resource) -> Function:
    every_row = rows_of(resource.table, "t.id", DATED)
    return _reading(
        f"count_{resource.name}",
        "uuid, jsonb, jsonb",
        "count",
        table=resource.table,
        local_user=part("local_user"),
        granted=_granted(resource, "scope"),
        granted_against=_granted(resource, "against"),
        filter=_filter(resource, "scope"),
        filter_against=_filter(resource, "against", of="_against"),
        included=included(spaces=4),
        included_against=included("_against", spaces=4),
        shown=indent(shown(every_row), " " * 12),
        shown_against=indent(shown(every_row, of="_against"), " " * 12),
    )


def _locate(resource: Resource) -> Function:
    return _reading(
        f"locate_{resource.name}",
        "uuid, jsonb, uuid",
        "locate",
        resource=resource.name,
        local_user=part("local_user"),
        granted=_granted(resource, "scope"),
        filter=_filter(resource, "scope"),
        row_by_id=_row_by_id(resource),
        visibility=indent(part("row_visibility"), " " * 8),
    )


def _reading(name: str, arguments: str, template: str, **values: str) -> Function:
    return _function(name, arguments, READ_DEFINER, template, fresh_snapshot=part("fresh_snapshot"), **values)


def _function(name: str, arguments: str, owner: str, template: str, **values: str) -> Function:
    return Function(f"{SCHEMA}.{name}({arguments})", owner, templates.function(template, function=name, **values))


def _live(function: str, resource: Resource | None = None) -> str:
    """The check that a grant is live, and shows the resource where there is one."""
    check = "\n" + _granted(resource, "g.scope") if resource else ""
    return part("live", function=function, resource_check=check)


def _granted(resource: Resource, scope: str) -> str:
    return indent(part("granted", resource=resource.name, scope=scope), " " * 12)


def _filter(resource: Resource, scope: str, of: str = "") -> str:
    return part("filter", resource=resource.name, scope=scope, of=of)


def _page(resource: Resource, seen: str, *, beside: str = "", teams: str = "", distinct: str = "DISTINCT ") -> str:
    """The statement that returns a page.

    Args:
        seen: the branches.
        beside: what else stands in every row, with a comma before it.
        teams: the query of those that the branches name, with a comma behind it.
        distinct: for branches that may give the same row.
    """
    page = part(
        "page",
        table=resource.table,
        seen=indent(seen, " " * 8),
        stored=columns.stored(resource),
        values=columns.values(resource),
        text_bytes=columns.text_bytes(resource.returned),
        page_bytes=str(PAGE_BYTES),
        beside=beside,
        teams=teams,
        distinct=distinct,
    )
    return indent(page, " " * 4)


def _row(resource: Resource) -> dict[str, str]:
    """What every get of a resource shares."""
    return {
        "table": resource.table,
        "result": columns.result(resource),
        "row": part(
            "row",
            table=resource.table,
            names=columns.names(resource),
            columns=columns.values(resource),
            row_by_id=_row_by_id(resource),
            visibility=indent(part("row_visibility"), " " * 8),
        ),
    }


def _row_by_id(resource: Resource) -> str:
    one_row = found_rows("asked")
    return part(
        "row_by_id",
        table=resource.table,
        dated=DATED,
        native=indent(native(one_row), " " * 8),
        included=included(spaces=4),
        filtered=indent(filtered(one_row), " " * 8),
    )
