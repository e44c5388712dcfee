"""The columns of an answer, as SQL."""

from collections.abc import Iterable, Iterator
from typing import Final

from mosaic_common.resources import Column, ColumnType, Resource

TEXT_BYTES: Final = 1024 * 1024
"""What one text of an answer may amount to; a longer one is cut and ends with …"""
_MOST_BYTES_OF_A_CHARACTER: Final = 4

PAGE_BYTES: Final = 1024 * 1024
"""What the texts of one call's rows may amount to together; the edge ends its pages there too."""


def result(resource: Resource) -> str:
    """Name and type of each, for RETURNS TABLE."""
    return ", ".join(f"{name} {sql_type}" for name, sql_type, _ in _returned(resource))


def names(resource: Resource) -> str:
    """Each of a row that goes by w."""
    return ", ".join(f"w.{name}" for name, _, _ in _returned(resource))


def values(resource: Resource) -> str:
    """Each out of the table's row t."""
    return ", ".join(f"{value} AS {name}" for name, _, value in _returned(resource))


def stored(resource: Resource) -> str:
    """What `values` takes of the table's row t, as it is."""
    names = ("id", "updated_at", "owner_id", "team_id", *(each.name for each in resource.returned))
    return ", ".join(f"t.{name}" for name in names)


def text_bytes(columns: Iterable[Column]) -> str:
    """The length of all their texts that can be of any length; ids and times are not."""
    return " + ".join(
        f"least(coalesce(octet_length(t.{each.name}), 0), {TEXT_BYTES})" for each in columns if each.type is ColumnType.TEXT
    )


def _returned(resource: Resource) -> Iterator[tuple[str, str, str]]:
    """Name, SQL type and expression of each column of an answer: text and int64 only, so that Python decodes nothing."""
    yield "id", "text", "t.id::text"
    yield "updated_at_us", "bigint", _microseconds("t.updated_at")
    yield "owner_id", "text", "t.owner_id::text"
    yield "team_id", "text", "t.team_id::text"
    for column in resource.returned:
        yield _result_name(column), column.type.returned_as, _value(column)


def _result_name(column: Column) -> str:
    return f"{column.name}_us" if column.type is ColumnType.TIMESTAMPTZ else column.name


def _value(column: Column) -> str:
    value = f"t.{column.name}"
    if column.type is ColumnType.TIMESTAMPTZ:
        # 'infinity' and years past 9999 have no int64, and one such row must not make every list that meets it fail.
        otherwise = "NULL" if column.nullable else "0"
        bounds = "timestamptz '0001-01-01 00:00:00+00' AND timestamptz '9999-12-31 23:59:59+00'"
        return f"CASE WHEN {value} BETWEEN {bounds} THEN {_microseconds(value)} ELSE {otherwise} END"
    if column.type is ColumnType.TEXT:
        # A row that fits into no answer would end every list that comes to it, and anybody in a team can write one.
        cut = f"left({value}, {TEXT_BYTES // _MOST_BYTES_OF_A_CHARACTER - 1}) || '…'"
        return f"CASE WHEN octet_length({value}) > {TEXT_BYTES} THEN {cut} ELSE {value} END"
    return f"{value}::text"


def _microseconds(expression: str) -> str:
    return f"(extract(epoch FROM {expression}) * 1000000)::bigint"
