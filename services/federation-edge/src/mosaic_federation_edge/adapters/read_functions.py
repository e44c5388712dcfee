"""The read functions of schema federation, as the two edges may execute them."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from mosaic_common.resources import REGISTRY, Column, ColumnType, Resource

from mosaic_federation_edge.adapters.database import Database
from mosaic_federation_edge.domain.reads import Capabilities, GrantedRows, Grantee, Keyset, LocalRows


class GrantReadFunctions:
    """What a grant shows. The database looks grant and certificate up itself and takes nothing else on our word."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

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
        return GrantedRows(rows, found, budget)

    async def get_capabilities(self, grantee: Grantee) -> Capabilities:
        rows = await self._database.fetch(_CAPABILITIES, grantee.grant_id, grantee.fingerprint)
        scope_json, expires_at_us = rows[0]
        return Capabilities(scope_json, expires_at_us)


class LocalReadFunctions:
    """What a local user natively sees."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def list_rows(self, user_id: UUID, resource: str, *, limit: int, after: Keyset | None) -> LocalRows:
        rows = await self._database.fetch(
            _LOCAL_LIST[resource],
            user_id,
            limit,
            after.updated_at_us if after else None,
            after.row_id if after else None,
        )
        return LocalRows(rows, found=rows[0][-1] if rows else 0)


def _returned(resource: Resource) -> str:
    return ", ".join(("id", "updated_at_us", "owner_id", "team_id", *map(_result_name, resource.returned)))


def _result_name(column: Column) -> str:
    return f"{column.name}_us" if column.type is ColumnType.TIMESTAMPTZ else column.name


# Every name comes from the registry, which is code.
_LIST: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, found, budget FROM federation.list_{name}($1, $2, $3, $4, $5, $6)"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_LOCAL_LIST: Final[Mapping[str, str]] = {
    name: f"SELECT {_returned(resource)}, found FROM federation.local_list_{name}($1, $2, $3, $4)"  # noqa: S608
    for name, resource in REGISTRY.items()
}
_CAPABILITIES: Final = "SELECT scope, expires_at_us FROM federation.capabilities($1, $2)"
