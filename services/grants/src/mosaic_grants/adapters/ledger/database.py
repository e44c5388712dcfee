"""Opens the ledger's transactions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mosaic_common.audit import SignedHead
from mosaic_common.errors import Layer, Reason, Unavailable
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ledger.transaction import LedgerTransaction
from mosaic_grants.adapters.upgrade import Missing, missing_privileges


class PostgresLedger:
    """Adapter of ports.Ledger."""

    def __init__(self, engine: AsyncEngine, audit: AuditLog) -> None:
        self._engine = engine
        self._audit = audit

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[LedgerTransaction]:
        """Run a block in one transaction; audit rows that it adds are appended and committed with it.

        Raises:
            Unavailable: the database does not answer. Whether the block took effect is then unknown; every step that
                matters is safe to repeat.
        """
        try:
            async with self._engine.connect() as connection, connection.begin() as outer:
                now = (await connection.execute(text("SELECT now()"))).scalar_one()
                tx = LedgerTransaction(connection, now)
                yield tx
                if tx.audit_rows:
                    # Taken last and held for an append and a commit only: nobody waits for a row while holding it.
                    async with self._audit.lock:
                        sealed = await self._audit.append(connection, tx.audit_rows)
                        await outer.commit()
                        self._audit.committed(sealed)
        except IntegrityError:
            raise  # a constraint has said no to a rule that the domain should have refused: a bug, reported as such
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable() from error

    async def ping(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def find_schema_version(self) -> str | None:
        """Return the schema's version, None where there is none that this role may read.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            async with self._engine.connect() as connection:
                return str((await connection.execute(text("SELECT federation.schema_version()"))).scalar_one())
        except ProgrammingError:
            return None
        except (SQLAlchemyError, OSError) as error:
            raise _unavailable() from error

    async def open_chain(self, writer: str) -> SignedHead:
        """Open an audit chain for another writer process and return its countersigned opening.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            async with self._engine.begin() as connection:
                return await self._audit.open(connection, writer)
        except SQLAlchemyError as error:
            raise _unavailable() from error

    async def countersign(self) -> list[SignedHead]:
        """Sign every head that moved. Raises Unavailable."""
        try:
            async with self._engine.begin() as connection:
                return await self._audit.countersign(connection)
        except SQLAlchemyError as error:
            raise _unavailable() from error

    async def missing(self) -> tuple[Missing, ...]:
        """Return what the owner of the application's tables has still to allow."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(missing_privileges)

    async def close(self) -> None:
        await self._engine.dispose()


def engine(database_url: str) -> AsyncEngine:
    """Return a pool for a ``postgresql://`` URL. Statement texts may reach a log, their values never do."""
    return create_async_engine(
        database_url.replace("postgresql://", "postgresql+psycopg://", 1),
        pool_size=8,
        max_overflow=4,
        pool_timeout=3,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"connect_timeout": 3},
    )


def _unavailable() -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        "The database does not answer.",
        layer=Layer.DEPENDENCY,
        remedy="Check PostgreSQL and DATABASE_URL.",
        metadata={"dependency": "postgres"},
    )
