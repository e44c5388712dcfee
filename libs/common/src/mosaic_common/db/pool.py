"""A few held connections of one role, through asyncpg."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from types import MappingProxyType
from typing import Any, Final, NoReturn

import asyncpg

from mosaic_common.deadlines import Deadlines
from mosaic_common.errors import ConfigurationError, Layer, Reason, Unavailable

CONNECT_SECONDS: Final = 2.0
# How long a call waits for a connection that others hold.
ACQUIRE_SECONDS: Final = 3.0

NO_SCHEMA: Final = frozenset({"42883", "3F000", "42501"})
"""SQLSTATEs of a schema that is not there for this role: undefined function or schema, no privilege (PostgreSQL, appendix A)."""

_NO_ANSWER: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Pool:
    """Connects when it is first asked, so that a process starts while its database is down, and finds it again.

    asyncpg's own pool makes, checks and ends the connections. What it gave is held here between calls: its acquire and release cost
    a busy process more than the statement between them, and are paid once per connection instead of once per call.

    Args:
        command_seconds: above the role's own statement_timeout: only a server that says nothing at all meets this one.
        settings: of each session, by their names in PostgreSQL.
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
        settings: Mapping[str, str] = MappingProxyType({}),
        record_class: Any = asyncpg.Record,
        prepare: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        self._url: Final = url
        self._options: Final[dict[str, Any]] = {
            "max_size": connections,
            "command_timeout": command_seconds,
            "record_class": record_class,
            "init": prepare,
            # A commit that is answered is on disk. Said by each session, since a role may change its own defaults.
            "server_settings": {**settings, "application_name": application, "synchronous_commit": "on"},
        }
        self._pool: Any = None
        self._unused: Final[list[Any]] = []
        self._prepared: Final[dict[tuple[Any, str], Any]] = {}
        self._not_acquired = connections
        self._waiting: Final[deque[asyncio.Future[Any]]] = deque()
        self._deadlines: Final = Deadlines()
        self._returning: Final[set[asyncio.Task[None]]] = set()
        self._is_closing = False

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
                # What we run leaves nothing behind in a session, and a reset is a round trip.
                reset=_leave_as_it_is,
                max_queries=0x7FFFFFFF,
                max_inactive_connection_lifetime=0,
                **self._options,
            )
        except asyncpg.InterfaceError as error:
            raise ConfigurationError(f"DATABASE_URL cannot be used: {error}.") from None

    async def close(self) -> None:
        self._is_closing = True
        while self._unused:
            self._give_back(self._unused.pop())
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
            connection = await self._acquire()
            try:
                yield connection
            except asyncpg.PostgresError:
                self._keep(connection)  # a statement was refused; the session is as it was
                raise
            except BaseException:
                self._give_back(connection)
                raise
            self._keep(connection)
        except _NO_ANSWER as error:
            _raise_no_answer(error)

    async def fetch(self, statement: str, *arguments: object) -> Any:
        """Run one statement and return its rows. Raises as ``connection``; without the cost of a context manager."""
        try:
            connection = self._take() or await self._acquire()
            try:
                # Prepared here: asyncpg's own search for a statement that it knows is a fiftieth of a list (decision 23).
                prepared = self._prepared.get((connection, statement)) or await self._prepare(connection, statement)
                try:
                    rows = await prepared.fetch(*arguments)
                except asyncpg.InvalidCachedStatementError:  # a migration changed what it returns; it was refused unrun
                    rows = await (await self._prepare(connection, statement)).fetch(*arguments)
            except asyncpg.PostgresError:
                self._keep(connection)
                raise
            except BaseException:
                self._give_back(connection)
                raise
            # One statement leaves no transaction open; whether the connection lives is looked at when it is taken.
            if self._is_closing:
                self._give_back(connection)
            else:
                self._hand_over(connection)
            return rows
        except _NO_ANSWER as error:
            _raise_no_answer(error)

    async def _prepare(self, connection: Any, statement: str) -> Any:
        prepared = self._prepared[connection, statement] = await connection.prepare(statement)
        return prepared

    async def _acquire(self) -> Any:
        while True:
            connection = self._take()
            if connection is not None:
                return connection
            if self._not_acquired:
                self._not_acquired -= 1
                try:
                    return await self._pool.acquire(timeout=ACQUIRE_SECONDS)
                except BaseException:
                    self._not_acquired += 1
                    self._hand_over(None)
                    raise
            connection = await self._wait()
            if connection is not None:
                if not _is_dead(connection):
                    return connection
                self._give_back(connection)

    def _take(self) -> Any:
        """A connection that nobody uses and that lives, as far as one can see, or None."""
        while self._unused:
            connection = self._unused.pop()
            if not _is_dead(connection):
                return connection
            self._give_back(connection)
        return None

    async def _wait(self) -> Any:
        """A connection from whoever is done with one, or None: there is room for another."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            with self._deadlines.at(asyncio.get_running_loop().time() + ACQUIRE_SECONDS):
                return await waiting
        except BaseException:
            if waiting.done() and not waiting.cancelled():
                # It was handed over in the very moment in which nobody wanted it any more.
                self._hand_over(waiting.result())
            raise

    def _keep(self, connection: Any) -> None:
        if self._is_closing or _is_dead(connection) or connection.is_in_transaction():
            self._give_back(connection)
        else:
            self._hand_over(connection)

    def _give_back(self, connection: Any) -> None:
        """Let asyncpg's pool see to it: it waits for what is being cancelled, and ends what cannot be used again."""
        for known in [each for each in self._prepared if each[0] is connection]:
            del self._prepared[known]
        returning = asyncio.create_task(self._pool.release(connection), context=Context())
        self._returning.add(returning)
        returning.add_done_callback(self._returned)
        self._not_acquired += 1
        self._hand_over(None)

    def _returned(self, returning: asyncio.Task[None]) -> None:
        self._returning.discard(returning)
        if not returning.cancelled():
            returning.exception()  # looked at: the connection is ended, and nobody waits for more

    def _hand_over(self, connection: Any) -> None:
        """Give a connection, or with None the room for one, to whoever has waited longest."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(connection)
                return
        if connection is not None:
            self._unused.append(connection)


def _is_dead(connection: Any) -> bool:
    try:
        dead: bool = connection.is_closed()
    except asyncpg.InterfaceError:
        return True  # the server ended it while it lay here, and asyncpg's pool has taken it back already
    return dead


def _raise_no_answer(error: Exception) -> NoReturn:
    # Giving a connection back to a database that says nothing fails too, and must not take a cancellation's place.
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError from error
    if isinstance(error, ValueError):
        raise error  # the driver cannot encode a value: a defect of ours, not an outage
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
