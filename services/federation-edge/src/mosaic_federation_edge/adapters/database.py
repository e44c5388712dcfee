"""PostgreSQL through asyncpg: one statement per call, its refusals typed."""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from mosaic_common.db.pool import NO_SCHEMA, Pool, database_unavailable
from mosaic_common.db.sqlstates import CALL_OUT_OF_BOUNDS, QUERY_NOT_PARSED, REFUSALS
from mosaic_common.db.version import SCHEMA_VERSION
from mosaic_common.decision import Denied
from mosaic_common.errors import ConfigurationError, InvalidInput, Layer, Reason, Unavailable, Violation
from mosaic_common.log import logger

COMMAND_SECONDS: Final = 3.0
STATEMENT_TIMEOUT: Final = "57014"
"""query_canceled (PostgreSQL, appendix A)."""


class Database:
    """The functions of one role.

    Args:
        statement_seconds: what the server lets a statement take; None for the role's own limit.
    """

    def __init__(self, url: str, *, application: str, connections: int, statement_seconds: float | None = None) -> None:
        # Read functions are planned once per connection. Said once by the session: what a function says, it says in each call.
        settings = {"plan_cache_mode": "force_generic_plan"}
        if statement_seconds is not None:
            settings["statement_timeout"] = str(round(statement_seconds * 1000))
        self._pool: Final = Pool(
            url,
            application=application,
            connections=connections,
            command_seconds=COMMAND_SECONDS,
            settings=settings,
        )
        self.open: Final = self._pool.open
        self.close: Final = self._pool.close
        self._log: Final = logger("database")

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Sequence[Any]]:
        """Run a statement that only reads.

        Raises:
            AccessDenied, CertificateRefused: what a read function refused with.
            InvalidInput: a search that PostgreSQL cannot parse.
            Unavailable: no answer, or not in the time that a statement may take.
        """
        try:
            return await self.fetch_raw(statement, *arguments)
        except asyncpg.PostgresError as error:
            refusal = REFUSALS.get(error.sqlstate)
            if refusal is not None:
                metadata = {"grant_status": refusal.grant_status} if refusal.grant_status else {}
                raise Denied(refusal.reason, metadata=metadata).to_error() from None
            if error.sqlstate == CALL_OUT_OF_BOUNDS:
                raise
            if error.sqlstate == QUERY_NOT_PARSED:
                raise InvalidInput(
                    Reason.REQUEST_INVALID,
                    "There is no such search.",
                    layer=Layer.REQUEST,
                    violations=[Violation("query", "must be simpler")],
                ) from None
            if error.sqlstate == STATEMENT_TIMEOUT:
                raise Unavailable(
                    Reason.DEADLINE_EXCEEDED, "The database did not finish in time; ask for less.", layer=Layer.REQUEST
                ) from None
            self._log.error("statement_failed", sqlstate=error.sqlstate)
            raise database_unavailable() from error

    async def fetch_raw(self, statement: str, *arguments: object) -> Sequence[Sequence[Any]]:
        """Run any statement.

        Raises:
            asyncpg.PostgresError: what the database answered.
            Unavailable: no answer; nobody knows whether the statement ran.
        """
        rows: Sequence[Sequence[Any]] = await self._pool.fetch(statement, *arguments)
        return rows

    async def verify_schema(self) -> None:
        """Compare the schema with the one that this release reads; also tells whether the database answers at all.

        Raises:
            ConfigurationError: another one, or none.
            Unavailable: no answer.
        """
        try:
            found = f"stands at {(await self.fetch_raw('SELECT federation.schema_version()'))[0][0]}"
        except asyncpg.PostgresError as error:
            if error.sqlstate not in NO_SCHEMA:
                raise database_unavailable() from error
            found = "is not there for this role"
        if found != f"stands at {SCHEMA_VERSION}":
            raise ConfigurationError(
                f"The database's schema {found}, and this release needs {SCHEMA_VERSION}: run `mosaic db upgrade`."
            )
