"""What a user's rows and a scope come to: counted, or looked for by id, and never shown."""

from typing import Final
from uuid import UUID

import asyncpg
from mosaic_common.db.sqlstates import REFUSALS
from mosaic_common.errors import MosaicError
from mosaic_common.resources import REGISTRY
from mosaic_common.scope import Scope

from mosaic_grants.adapters.ledger.statements import Row, Statements
from mosaic_grants.domain.model import Counts, Whereabouts

COUNT_SECONDS: Final = 2


class Sight:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def locate(self, resource: str, user_id: UUID, scope: Scope, row_id: UUID) -> Whereabouts:
        """Return what a get of this row would meet.

        Raises:
            MosaicError: SUBJECT_INACTIVE.
        """
        row = await self._asked(
            f"SELECT federation.locate_{_known(resource)}(:user, CAST(:scope AS jsonb), :row) AS whereabouts",
            user=user_id,
            scope=scope.to_json(),
            row=row_id,
        )
        return Whereabouts(row.whereabouts)

    async def count(self, resource: str, user_id: UUID, scope: Scope, against: Scope | None) -> Counts | None:
        """Return how many rows the user sees through each scope; None when that takes too long, and the transaction is over then.

        Raises:
            MosaicError: SUBJECT_INACTIVE.
        """
        await self._sql.execute(f"SET LOCAL statement_timeout = '{COUNT_SECONDS}s'")
        try:
            row = await self._asked(
                f"""SELECT visible, visible_against, visible_in_both
                    FROM federation.count_{_known(resource)}(:user, CAST(:scope AS jsonb), CAST(:against AS jsonb))""",  # noqa: S608 - the registry's
                user=user_id,
                scope=scope.to_json(),
                against=against.to_json() if against else None,
            )
        except asyncpg.QueryCanceledError:
            return None
        return Counts(row.visible, row.visible_against, row.visible_in_both)

    async def _asked(self, sql: str, **values: object) -> Row:
        try:
            return await self._sql.one(sql, **values)
        except asyncpg.PostgresError as error:
            refusal = REFUSALS.get(error.sqlstate or "")
            if refusal is None:
                raise
            raise MosaicError(refusal.reason, "The user is not active: no row is visible.", layer=refusal.layer) from error


def _known(resource: str) -> str:
    """The name as part of a function's: never a text that came from elsewhere."""
    return REGISTRY[resource].name
