"""PostgreSQL through asyncpg: one statement per call, its refusals typed."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from mosaic_common.db.sqlstates import CALL_OUT_OF_BOUNDS, REFUSALS
from mosaic_common.db.version import SCHEMA_VERSION
from mosaic_common.decision import Denied
from mosaic_common.errors import ConfigurationError, Layer, Reason, Unavailable
from mosaic_common.log import logger

CONNECT_SECONDS: Final = 2.0
# Above the role's own statement_timeout: only a server that says nothing at all meets this one.
COMMAND_SECONDS: Final = 3.0
# Undefined function, undefined schema, no privilege on it (PostgreSQL, appendix A).
_NO_SCHEMA: Final = frozenset({"42883", "3F000", "42501"})
_NO_ANSWER: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Database:
    """A few held connections of one role.

    Nothing is connected before the first statement, so a process starts while its database is down, and finds it again.
    """

    def __init__(self, url: str, *, application: str, connections: int) -> None:
        self._url: Final = url
        self._application: Final = application
        self._connections: Final = connections
        self._pool: Any = None
        self._log: Final = logger("database")

    async def open(self) -> None:
        """Make the pool; connects to nothing.

        Raises:
            ConfigurationError: the URL is none that the driver can use.
        """
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=self._connections,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                # The functions that we may call leave nothing behind in a session, and a reset is a round trip per call.
                reset=_leave_as_it_is,
                max_queries=0x7FFFFFFF,
                max_inactive_connection_lifetime=0,
                server_settings={"application_name": self._application},
            )
        except asyncpg.InterfaceError as error:
            raise ConfigurationError(f"DATABASE_URL cannot be used: {error}.") from None

    async def close(self) -> None:
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def fetch(self, statement: str, *arguments: object) -> Sequence[Sequence[Any]]:
        """Run a statement that only reads.

        Raises:
            AccessDenied, CertificateRefused: what a read function refused with.
            Unavailable: no answer.
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
            self._log.error("statement_failed", sqlstate=error.sqlstate)
            raise database_unavailable() from error

    async def fetch_raw(self, statement: str, *arguments: object) -> Sequence[Sequence[Any]]:
        """Run any statement.

        Raises:
            asyncpg.PostgresError: what the database answered.
            Unavailable: no answer; nobody knows whether the statement ran.
        """
        try:
            async with self._pool.acquire() as connection:
                rows: Sequence[Sequence[Any]] = await connection.fetch(statement, *arguments)
                return rows
        except _NO_ANSWER as error:
            raise database_unavailable() from error

    async def verify_schema(self) -> None:
        """Compare the schema with the one that this release reads; also tells whether the database answers at all.

        Raises:
            ConfigurationError: another one, or none.
            Unavailable: no answer.
        """
        try:
            found = f"stands at {(await self.fetch_raw('SELECT federation.schema_version()'))[0][0]}"
        except asyncpg.PostgresError as error:
            if error.sqlstate not in _NO_SCHEMA:
                raise database_unavailable() from error
            found = "is not there for this role"
        if found != f"stands at {SCHEMA_VERSION}":
            raise ConfigurationError(
                f"The database's schema {found}, and this release needs {SCHEMA_VERSION}: run `mosaic db upgrade`."
            )


def database_unavailable() -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        "The database cannot be reached.",
        layer=Layer.DEPENDENCY,
        remedy="Check that PostgreSQL runs and that DATABASE_URL leads to it.",
        metadata={"dependency": "postgres"},
    )


async def _leave_as_it_is(_connection: object) -> None:
    return None
