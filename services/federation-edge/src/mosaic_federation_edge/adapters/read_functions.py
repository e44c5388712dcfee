"""The read functions of schema federation, as the two edges may execute them."""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from mosaic_common.resources import REGISTRY, Column, ColumnType, Resource

from mosaic_federation_edge.adapters.database import Database
from mosaic_federation_edge.domain.reads import (
    Capabilities,
    FoundRow,
    GrantedRows,
    Grantee,
    Keyset,
    LocalRows,
    MatchedRow,
    Matches,
    Row,
    Visibility,
)
from mosaic_federation_edge.domain.search import Search


class GrantReadFunctions:
    """What a grant shows. The database looks grant and certificate up itself and takes nothing else on our word.

    Args:
        searches: connections with a short statement timeout, apart from the others: what takes long keeps only its like waiting.
    """

    def __init__(self, database: Database, searches: Database) -> None:
        self._database: Final = database
        self._searches: Final = searches

    async def list_rows(self, grantee: Grantee, resource: str, *, limit: int, after: Keyset | None, served: int) -> GrantedRows:
        rows = await self._database.fetch(
            _LIST[resource],
            grantee.grant_id,
            grantee.fingerprint,
            limit,
            after.updated_at_us if after else None,
            after.row_id if after else None,
            served,
        )
        found, budget = rows[0][-2:] if rows else (0, 0)
        return GrantedRows(rows, _all_if_null(found, rows), limit + 1 if budget is None else budget)

    async def get_row(self, grantee: Grantee, resource: str, row_id: UUID) -> FoundRow:
        return _found_row(await self._database.fetch(_GET[resource], grantee.grant_id, grantee.fingerprint, row_id))

    async def search_rows(self, grantee: Grantee, resource: str, search: Search, *, limit: int) -> Matches:
        arguments = (grantee.grant_id, grantee.fingerprint, *_search_arguments(resource, search), limit)
        return _matches(await self._searches.fetch(_SEARCH[resource], *arguments))

    async def get_capabilities(self, grantee: Grantee) -> Capabilities:
        rows = await self._database.fetch(_CAPABILITIES, grantee.grant_id, grantee.fingerprint)
        scope_json, expires_at_us = rows[0]
        return Capabilities(scope_json, expires_at_us)


class LocalReadFunctions:
    """What a local user natively sees; ``searches`` as in GrantReadFunctions."""

    def __init__(self, database: Database, searches: Database) -> None:
        self._database: Final = database
        self._searches: Final = searches

    async def list_rows(self, user_id: UUID, resource: str, *, limit: int, after: Keyset | None) -> LocalRows:
        rows = await self._database.fetch(
            _LOCAL_LIST[resource],
            user_id,
            limit,
            after.updated_at_us if after else None,
            after.row_id if after else None,
        )
        return LocalRows(rows, _all_if_null(rows[0][-1] if rows else 0, rows))

    async def get_row(self, user_id: UUID, resource: str, row_id: UUID) -> FoundRow:
        return _found_row(await self._database.fetch(_LOCAL_GET[resource], user_id, row_id))

    async def search_rows(self, user_id: UUID, resource: str, search: Search, *, limit: int) -> Matches:
        arguments = (user_id, *_search_arguments(resource, search), limit)
        return _matches(await self._searches.fetch(_LOCAL_SEARCH[resource], *arguments))


def _all_if_null(found: int | None, rows: Sequence[Row]) -> int:
    return len(rows) if found is None else found


def _found_row(rows: Sequence[Row]) -> FoundRow:
    visibility = Visibility(rows[0][-1])
    return FoundRow(visibility, rows[0] if visibility is Visibility.VISIBLE else None)


def _search_arguments(resource: str, search: Search) -> tuple[object, ...]:
    text = search.text or None
    return (text,) if REGISTRY[resource].embedding is None else (text, search.embedding)


def _matches(rows: Sequence[Row]) -> Matches:
    found, budget = rows[0][-2:] if rows else (0, 0)
    return Matches([MatchedRow(row, row[-5], row[-4] or "", row[-3]) for row in rows], found, budget)


def _returned(resource: Resource) -> str:
    return ", ".join(("id", "updated_at_us", "owner_id", "team_id", *map(_result_name, resource.returned)))


def _result_name(column: Column) -> str:
    return f"{column.name}_us" if column.type is ColumnType.TIMESTAMPTZ else column.name


def _numbered(resource: Resource, parameters: int) -> str:
    """So many parameters, and one more for an embedding."""
    count = parameters + (resource.embedding is not None)
    return ", ".join(f"${number}" for number in range(1, count + 1))


# Every name comes from the registry, which is code.
_LIST: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, found, budget FROM federation.list_{name}($1, $2, $3, $4, $5, $6)"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_LOCAL_LIST: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, found FROM federation.local_list_{name}($1, $2, $3, $4)"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_SEARCHED: Final = "rank, snippet, distance, found"
_GET: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, visibility FROM federation.get_{name}($1, $2, $3)"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_LOCAL_GET: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, visibility FROM federation.local_get_{name}($1, $2)"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_SEARCH: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, {_SEARCHED}, budget FROM federation.search_{name}({_numbered(resource, 4)})"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_LOCAL_SEARCH: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, {_SEARCHED}, found FROM federation.local_search_{name}({_numbered(resource, 3)})"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_CAPABILITIES: Final = "SELECT scope, expires_at_us FROM federation.capabilities($1, $2)"
