"""Rows of the database as messages."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from mosaic.federation.v1.federation_pb2 import ListResourcesResponse
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_common.resources import REGISTRY, Column, ColumnType
from mosaic_federation_edge.adapters.read_functions import _LIST, _LOCAL_LIST
from mosaic_federation_edge.api.rows import add_rows, fitting_rows, set_row
from mosaic_federation_edge.domain.pages import MAX_PAGE_BYTES

Message = Callable[[list[Any], str], Resource]

ID, OWNER, TEAM = (str(UUID(int=number)) for number in (1, 2, 3))


def of_a_list(row: list[Any], resource: str) -> Resource:
    response = ListResourcesResponse()
    add_rows(response.resources, [row], resource, "work")
    return response.resources[0]


def of_a_get(row: list[Any], resource: str) -> Resource:
    message = Resource()
    set_row(message, row, resource, "work")
    return message


either = pytest.mark.parametrize("message", [of_a_list, of_a_get])


def field_of(column: Column) -> str:
    return f"{column.name}_us" if column.type is ColumnType.TIMESTAMPTZ else column.name


def values(resource: str) -> dict[str, Any]:
    """A distinct value for each column that is returned."""
    return {
        field_of(column): number if column.type is ColumnType.TIMESTAMPTZ else f"the {column.name}"
        for number, column in enumerate(REGISTRY[resource].returned, start=1_900_000_000_000_000)
    }


@either
@pytest.mark.parametrize("resource", REGISTRY)
def test_every_returned_column_has_its_field(message: Message, resource: str) -> None:
    """What the registry returns, in its order, arrives in the field of the same name; the message has no field beyond that."""
    expected = values(resource)
    row = message([ID, 5, OWNER, TEAM, *expected.values()], resource)
    kind = row.WhichOneof("resource")
    assert kind is not None
    own = getattr(row, kind)
    assert {field.name: value for field, value in own.ListFields()} == expected
    assert {field.name for field in own.DESCRIPTOR.fields} == set(expected)
    assert (row.id, row.updated_at_us, row.owner_id, row.team_id, row.source) == (ID, 5, OWNER, TEAM, "work")


@either
@pytest.mark.parametrize("resource", REGISTRY)
def test_what_is_null_is_absent(message: Message, resource: str) -> None:
    """A personal row has no team and an open end is no time; a text that the application left null is empty."""
    row = message([ID, 5, OWNER, None, *([None] * len(REGISTRY[resource].returned))], resource)
    kind = row.WhichOneof("resource")
    assert kind is not None
    assert not row.HasField("team_id")
    assert all(not value for _, value in getattr(row, kind).ListFields())


@pytest.mark.parametrize("statements", [_LIST, _LOCAL_LIST], ids=["granted", "local"])
def test_no_statement_names_a_secret_column(statements: dict[str, str]) -> None:
    """Every resource has its statement, and none asks for a secret."""
    assert list(statements) == list(REGISTRY)
    for resource, statement in statements.items():
        assert not any(column.name in statement for column in REGISTRY[resource].secret)


def test_an_answer_holds_at_most_a_mebibyte_but_at_least_one_row() -> None:
    """Rows are counted until the limit; one that is larger than an answer goes alone."""
    half = [ID, 5, OWNER, None, "title", "x" * (MAX_PAGE_BYTES // 2 - 1000)]
    whole = [ID, 5, OWNER, None, "title", "x" * (MAX_PAGE_BYTES + 1)]
    for rows, fitting in (([], 0), ([half] * 2, 2), ([half] * 3, 2), ([whole], 1), ([whole, half], 1), ([half, whole], 1)):
        response = ListResourcesResponse()
        add_rows(response.resources, rows, "notes", "work")
        assert fitting_rows(response, response.resources) == fitting
