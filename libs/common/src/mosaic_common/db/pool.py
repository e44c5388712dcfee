"""A few held connections of one role, through asyncpg."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from mosaic_common.errors import ConfigurationError, Layer, Reason, Unavailable

CONNECT_SECONDS: Final = 2.0
# How long a call waits for a connection that others hold.
ACQUIRE_SECONDS: Final = 3.0

NO_SCHEMA: Final = frozenset({"42883", "3F000", "42501"})
"""SQLSTATEs of a schema that is not there for this role: undefined function or schema, no privilege (PostgreSQL, appendix A)."""

_NO_ANSWER: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Pool:
    """Connects when it is first asked, so that a process starts while its database is down, and finds it again.

    Args:
        command_seconds: above the role's own statement_timeout: only a server that says nothing at all meets this one.
        statement_seconds: what the server lets a statement take; None for the role's own limit.
        record_class: how rows look.
        prepare: run on each new connection.
    """

    def __init__(
        self,
        url: str,
        *,
        application: str,
        connections: int,
        command_seconds: float,
        statement_seconds: float | None = None,
        record_class: Any = asyncpg.Record,
        prepare: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self._url: Final = url
        self._options: Final[dict[str, Any]] = {
            "max_size": connections,
            "command_timeout": command_seconds,
            "record_class": record_class,
            "init": prepare,
            "server_settings": {"application_name": application}
            | ({} if statement_seconds is None else {"statement_timeout": str(round(statement_seconds * 1000))}),
        }
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
                timeout=CONNECT_SECONDS,
                # What we run leaves nothing behind in a session, and a reset is a round trip per call.
                reset=_leave_as_it_is,
                max_queries=0x7FFFFFFF,
                max_inactive_connection_lifetime=0,
                **self._options,
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
    async def connection(self) -> AsyncIterator[Any]:
        """Hold a connection for a block.

        Raises:
            Unavailable: no answer; nobody knows whether what was asked last took effect.
            asyncpg.PostgresError: what the database answered, as it is.
        """
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                yield connection
        except _NO_ANSWER as error:
            # Giving a connection back to a database that says nothing fails too, and must not take a cancellation's place.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from error
            if isinstance(error, ValueError):
                raise  # the driver cannot encode a value: a defect of ours, not an outage
            raise database_unavailable() from error


def database_unavailable() -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        "The database does not answer.",
        layer=Layer.DEPENDENCY,
        remedy="Check that PostgreSQL runs and that DATABASE_URL leads to it.",
        metadata={"dependency": "postgres"},
    )


async def _leave_as_it_is(_connection: object) -> None:
    """In place of DISCARD and its like."""
