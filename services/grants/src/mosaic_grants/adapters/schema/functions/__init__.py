"""The functions in schema federation, rendered from the registry of resources.

The SQL stands in the files beside this one, to be read as SQL; what differs between resources is filled in here. Nothing that is
filled in comes from outside the code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from textwrap import indent
from typing import Final

from mosaic_common.resources import REGISTRY, Column, ColumnType, Resource

from mosaic_grants.adapters.schema.names import AUDIT_DEFINER, READ_DEFINER, SCHEMA

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

PAGE_BYTES: Final = 1024 * 1024
"""What the texts of one call's rows may amount to together; the edge ends its pages there too."""

_UNION: Final = "\nUNION ALL\n"
_OWNER_BRANCH: Final = "t.owner_id = subject"
_PERSONAL_BRANCH: Final = "personal AND t.owner_id = subject AND t.team_id IS NULL"
_MEMBER_BRANCH: Final = "t.team_id = m.team_id"
_INCLUDED_BRANCH: Final = "t.team_id = i.team_id"
_LEFT_TEAM_BRANCH: Final = "t.team_id = i.team_id AND t.owner_id = subject"


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
    return (
        *(_list(resource) for resource in REGISTRY.values()),
        *(_local_list(resource) for resource in REGISTRY.values()),
        _reading("capabilities", "uuid, bytea", fresh_snapshot=_sql("_fresh_snapshot"), live=_live("capabilities")),
        _reading("schema_version", ""),
        _function("append_audit", "bytea, bigint, bytea, json", AUDIT_DEFINER, "append_audit", columns=", ".join(AUDIT_COLUMNS)),
    )


def _list(resource: Resource) -> Function:
    name = f"list_{resource.name}"
    return _function(
        name,
        "uuid, bytea, integer, bigint, uuid, integer",
        READ_DEFINER,
        "list",
        resource=resource.name,
        live=_live(name, resource),
        filtered=indent(_filtered(resource), "        "),
        **_keyset_pages(resource),
    )


def _local_list(resource: Resource) -> Function:
    return _function(
        f"local_list_{resource.name}", "uuid, integer, bigint, uuid", READ_DEFINER, "local_list", **_keyset_pages(resource)
    )


def _reading(name: str, arguments: str, **parts: str) -> Function:
    return _function(name, arguments, READ_DEFINER, name, **parts)


def _function(name: str, arguments: str, owner: str, template: str, **parts: str) -> Function:
    return Function(f"{SCHEMA}.{name}({arguments})", owner, _sql(template, function=name, **parts))


def _keyset_pages(resource: Resource) -> dict[str, str]:
    """What every list of a resource shares: its columns, its native visibility, one page of it."""
    return {
        "table": resource.table,
        "result": ", ".join(f"{name} {sql_type}" for name, sql_type, _ in _returned(resource)),
        "fresh_snapshot": _sql("_fresh_snapshot"),
        "keyset": _sql("_keyset"),
        "native": indent(_native(resource), "        "),
        "page": _sql("_page", names=", ".join(f"w.{name}" for name, _, _ in _returned(resource))),
        "rows": _sql(
            "_rows",
            table=resource.table,
            columns=", ".join(f"{value} AS {name}" for name, _, value in _returned(resource)),
            text_bytes=" + ".join(_text_bytes(resource)),
            page_bytes=str(PAGE_BYTES),
        ),
    }


def _live(function: str, resource: Resource | None = None) -> str:
    """The check that a grant is live, and shows the resource where there is one."""
    check = indent(_sql("_granted", resource=resource.name), " " * 12) if resource else ""
    return _sql("_live", function=function, resource_check=check and f"\n{check}")


def _native(resource: Resource) -> str:
    """What the subject natively sees: rows they own, rows of the teams they are in now. A row may come from both."""
    return _UNION.join(
        (
            _branch(resource, _OWNER_BRANCH),
            _each("public.team_members m", resource, _MEMBER_BRANCH, "m.user_id = subject"),
        )
    )


def _filtered(resource: Resource) -> str:
    """Native visibility ∩ the filter. Of a team that the subject has left only rows they own remain natively visible."""
    return _UNION.join(
        (
            _branch(resource, _PERSONAL_BRANCH),
            _each("included i", resource, _INCLUDED_BRANCH, "i.is_member"),
            _each("included i", resource, _LEFT_TEAM_BRANCH, "NOT i.is_member"),
        )
    )


def _branch(resource: Resource, visible: str) -> str:
    return _sql("_branch", table=resource.table, visible=visible)


def _each(source: str, resource: Resource, visible: str, where: str) -> str:
    return _sql("_each", source=source, branch=indent(_branch(resource, visible), "    "), where=where)


def _returned(resource: Resource) -> Iterator[tuple[str, str, str]]:
    """Name, SQL type and expression of each column of an answer: text and int64 only, so that Python decodes nothing."""
    yield "id", "text", "t.id::text"
    yield "updated_at_us", "bigint", _microseconds("t.updated_at")
    yield "owner_id", "text", "t.owner_id::text"
    yield "team_id", "text", "t.team_id::text"
    for column in resource.returned:
        yield _result_name(column), column.type.returned_as, _value(column)


def _text_bytes(resource: Resource) -> Iterator[str]:
    """The length of each text that can be of any length; ids and times are not."""
    for column in resource.returned:
        if column.type is ColumnType.TEXT:
            yield f"coalesce(octet_length({_value(column)}), 0)"


def _result_name(column: Column) -> str:
    return f"{column.name}_us" if column.type is ColumnType.TIMESTAMPTZ else column.name


def _value(column: Column) -> str:
    value = f"t.{column.name}"
    if column.type is ColumnType.TIMESTAMPTZ:
        # 'infinity' and years past 9999 have no int64, and one such row must not make every list that meets it fail.
        otherwise = "NULL" if column.nullable else "0"
        bounds = "timestamptz '0001-01-01 00:00:00+00' AND timestamptz '9999-12-31 23:59:59+00'"
        return f"CASE WHEN {value} BETWEEN {bounds} THEN {_microseconds(value)} ELSE {otherwise} END"
    return value if column.type is ColumnType.TEXT else f"{value}::text"


def _microseconds(expression: str) -> str:
    return f"(extract(epoch FROM {expression}) * 1000000)::bigint"


def _sql(template: str, **parts: str) -> str:
    text = resources.files(__name__).joinpath(f"{template}.sql").read_text(encoding="utf-8")
    return text.format(**parts).rstrip("\n")
