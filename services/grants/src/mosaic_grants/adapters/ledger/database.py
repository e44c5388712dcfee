"""Opens the ledger's transactions."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
from mosaic_common.audit import SignedHead
from mosaic_common.audit_heads import MonthEnd
from mosaic_common.db.pool import NO_SCHEMA, Pool, database_unavailable
from mosaic_common.db.sqlstates import AUDIT_CHAIN_NOT_OPEN, AUDIT_NOT_CONTINUOUS
from mosaic_common.errors import InvalidInput, Layer, Reason

from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ledger.statements import Row
from mosaic_grants.adapters.ledger.transaction import LedgerTransaction
from mosaic_grants.adapters.upgrade import Missing, missing_at

CONNECTIONS: Final = 16
COMMAND_SECONDS: Final = 10.0

# Connection, rollback, resources and operator intervention: it may answer the next time. Any other class is a defect of ours, and
# must not look like an outage.
_PASSING: Final = ("08", "25P03", "40", "53", "55", "57", AUDIT_NOT_CONTINUOUS, AUDIT_CHAIN_NOT_OPEN)


class PostgresLedger:
    """Adapter of ports.Ledger."""

    def __init__(self, database_url: str, audit: AuditLog) -> None:
        self._url: Final = database_url
        self._audit: Final = audit
        self._pool: Final = Pool(
            database_url,
            application="grants",
            connections=CONNECTIONS,
            command_seconds=COMMAND_SECONDS,
            record_class=Row,
            prepare=_use_own_types,
        )
        self.open: Final = self._pool.open
        self.close: Final = self._pool.close

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
            except asyncpg.PostgresError as error:
                if error.sqlstate not in NO_SCHEMA:
                    raise
                return None

    async def open_chain(self, writer: str) -> SignedHead:
        """Open an audit chain for another writer process and return its countersigned opening. Raises Unavailable."""
        async with self._connected() as connection, connection.transaction():
            return await self._audit.open(connection, writer)

    async def countersign(self) -> list[SignedHead]:
        """Sign every head that moved. Raises Unavailable."""
        async with self._connected() as connection, connection.transaction():
            return await self._audit.rounds.countersign(connection)

    async def close_months(self) -> list[MonthEnd]:
        """Sign where chains stood at the end of months that are over. Raises Unavailable."""
        async with self._connected() as connection, connection.transaction():
            return await self._audit.rounds.close_months(connection)

    async def missing(self) -> tuple[Missing, ...]:
        """Return what the owner of the application's tables has still to allow."""
        return await asyncio.to_thread(missing_at, self._url)

    async def _commit(self, begun: Any) -> None:
        """The one place where what was done becomes so: whatever is tried before and after it is tried here."""
        await begun.commit()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except asyncpg.CharacterNotInRepertoireError as error:
            raise InvalidInput(
                Reason.REQUEST_INVALID, "A text holds a character that no text here can have.", layer=Layer.REQUEST
            ) from error
        except asyncpg.PostgresError as error:
            if not (error.sqlstate or "08").startswith(_PASSING):
                raise
            raise database_unavailable() from error


async def _roll_back(begun: Any, connection: Any) -> None:
    if connection.is_closed() or not connection.is_in_transaction():
        return
    try:
        await begun.rollback()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        connection.terminate()  # in an unknown state, it must not be given to anybody else


async def _use_own_types(connection: Any) -> None:
    """Have jsonb read as a document, and UUIDs as everybody else's."""
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=json.loads)
    await connection.set_type_codec("uuid", schema="pg_catalog", encoder=_uuid_bytes, decoder=_uuid_of, format="binary")


def _uuid_bytes(value: object) -> bytes:
    return UUID(str(value)).bytes


def _uuid_of(data: bytes) -> UUID:
    return UUID(bytes=bytes(data))
