"""Opens the ledger's transactions."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
from mosaic_common.audit import SignedHead
from mosaic_common.db.sqlstates import AUDIT_CHAIN_NOT_OPEN, AUDIT_NOT_CONTINUOUS
from mosaic_common.errors import ConfigurationError, InvalidInput, Layer, Reason, Unavailable

from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ledger.statements import Row
from mosaic_grants.adapters.ledger.transaction import LedgerTransaction
from mosaic_grants.adapters.upgrade import Missing, missing_at

CONNECTIONS: Final = 16
CONNECT_SECONDS: Final = 3.0
# Above the role's own statement_timeout: only a server that says nothing at all meets this one.
COMMAND_SECONDS: Final = 10.0
ACQUIRE_SECONDS: Final = 3.0

# Undefined function, undefined schema, no privilege on it (PostgreSQL, appendix A).
_NO_SCHEMA: Final = (
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
)
_NO_ANSWER: Final = (asyncpg.InterfaceError, OSError, TimeoutError)
# Connection, rollback, resources and operator intervention: it may answer the next time. Any other class is a defect of ours, and
# must not look like an outage.
_PASSING: Final = ("08", "25P03", "40", "53", "55", "57", AUDIT_NOT_CONTINUOUS, AUDIT_CHAIN_NOT_OPEN)


class PostgresLedger:
    """Adapter of ports.Ledger. Nothing is connected before the first statement: a process starts while its database is down."""

    def __init__(self, database_url: str, audit: AuditLog) -> None:
        self._url: Final = database_url
        self._audit: Final = audit
        self._pool: Any = None

    async def open(self) -> None:
        """Make the pool; connects to nothing.

        Raises:
            ConfigurationError: the URL is none that the driver can use.
        """
        try:
            self._pool = await asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=CONNECTIONS,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                record_class=Row,
                init=_use_own_types,
                max_queries=0x7FFFFFFF,
                # A transaction leaves nothing behind in a session, and a reset is a round trip per call.
                reset=_leave_as_it_is,
                max_inactive_connection_lifetime=0,
                server_settings={"application_name": "grants"},
            )
        except asyncpg.InterfaceError as error:
            raise ConfigurationError(f"DATABASE_URL cannot be used: {error}.") from None

    async def close(self) -> None:
        try:
            async with asyncio.timeout(ACQUIRE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[LedgerTransaction]:
        """Run a block in one transaction; audit rows that it adds are appended and committed with it.

        Raises:
            Unavailable: the database does not answer. Whether the block took effect is then unknown; every step that
                matters is safe to repeat.
        """
        async with self._connected() as connection:
            begun = connection.transaction()
            try:
                await begun.start()
                tx = LedgerTransaction(connection, await connection.fetchval("SELECT now()"))
                yield tx
                if not tx.audit_rows:
                    await self._commit(begun)
                    return
                # Taken last and held for an append and a commit only: nobody waits for a row while holding it.
                async with self._audit.lock:
                    sealed = await self._audit.append(connection, tx.audit_rows)
                    await self._commit(begun)
                    self._audit.committed(sealed)
            except BaseException:
                await _roll_back(begun, connection)
                raise

    async def ping(self) -> None:
        async with self._connected() as connection:
            await connection.fetchval("SELECT 1")

    async def find_schema_version(self) -> str | None:
        """Return the schema's version, None where there is none that this role may read.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._connected() as connection:
            try:
                return str(await connection.fetchval("SELECT federation.schema_version()"))
            except _NO_SCHEMA:
                return None

    async def open_chain(self, writer: str) -> SignedHead:
        """Open an audit chain for another writer process and return its countersigned opening. Raises Unavailable."""
        async with self._connected() as connection, connection.transaction():
            return await self._audit.open(connection, writer)

    async def countersign(self) -> list[SignedHead]:
        """Sign every head that moved. Raises Unavailable."""
        async with self._connected() as connection, connection.transaction():
            return await self._audit.countersign(connection)

    async def missing(self) -> tuple[Missing, ...]:
        """Return what the owner of the application's tables has still to allow."""
        return await asyncio.to_thread(missing_at, self._url)

    async def _commit(self, begun: Any) -> None:
        """The one place where what was done becomes so: whatever is tried before and after it is tried here."""
        await begun.commit()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                yield connection
        except asyncpg.CharacterNotInRepertoireError as error:
            raise InvalidInput(
                Reason.REQUEST_INVALID, "A text holds a character that no text here can have.", layer=Layer.REQUEST
            ) from error
        except asyncpg.PostgresError as error:
            if not (error.sqlstate or "08").startswith(_PASSING):
                raise
            raise _unavailable() from error
        except _NO_ANSWER as error:
            # Giving a connection back to a database that says nothing fails too, and must not take a cancellation's place.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from error
            if isinstance(error, ValueError):
                raise  # the driver cannot encode a value: a defect of ours, not an outage
            raise _unavailable() from error


async def _roll_back(begun: Any, connection: Any) -> None:
    if connection.is_closed() or not connection.is_in_transaction():
        return
    try:
        await begun.rollback()
    except (asyncpg.PostgresError, *_NO_ANSWER):
        connection.terminate()  # in an unknown state, it must not be given to anybody else


async def _use_own_types(connection: Any) -> None:
    """Have jsonb read as a document, and UUIDs as everybody else's."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=json.loads)
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=_uuid_bytes, decoder=_uuid_of, format="binary")


def _uuid_bytes(value: object) -> bytes:
    return UUID(str(value)).bytes


def _uuid_of(data: bytes) -> UUID:
    return UUID(bytes=bytes(data))


async def _leave_as_it_is(_connection: Any) -> None:
    """In place of DISCARD and its like."""


def _unavailable() -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        "The database does not answer.",
        layer=Layer.DEPENDENCY,
        remedy="Check PostgreSQL and DATABASE_URL.",
        metadata={"dependency": "postgres"},
    )
