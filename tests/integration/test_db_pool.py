"""Held connections: no more than there may be, none lost, and none that is dead given to anybody."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from mosaic_common.db.pool import Pool
from mosaic_common.errors import Reason, Unavailable

from tests.support.postgres import Database

CONNECTIONS = 3
APPLICATION = "pool under test"


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    opened = Pool(database.url("mosaic_edge_inbound"), application=APPLICATION, connections=CONNECTIONS, command_seconds=5.0)
    await opened.open()
    yield opened
    await opened.close()


def backends(database: Database) -> list[int]:
    with database.connect() as owner:
        found = owner.execute(b"SELECT pid FROM pg_stat_activity WHERE application_name = %s", (APPLICATION,)).fetchall()
    return [pid for (pid,) in found]


async def whole(pool: Pool) -> None:
    """Every connection can be had at once, and answers."""
    answers = await asyncio.gather(*(pool.fetch("SELECT $1::int FROM pg_sleep(0.01)", number) for number in range(4 * CONNECTIONS)))
    assert [row[0][0] for row in answers] == list(range(4 * CONNECTIONS))


async def test_a_crowd_shares_a_few(pool: Pool, database: Database) -> None:
    """Whoever comes later waits for his turn, first come first served; no further connection is made."""
    order: list[int] = []

    async def ask(number: int) -> None:
        await pool.fetch("SELECT pg_sleep(0.02)")
        order.append(number)

    await asyncio.gather(*(ask(number) for number in range(5 * CONNECTIONS)))
    assert [number // CONNECTIONS for number in order] == sorted(number // CONNECTIONS for number in order)
    assert len(backends(database)) == CONNECTIONS


@pytest.mark.parametrize("waits", [False, True], ids=["while it asks", "while it waits for a connection"])
async def test_a_call_that_is_given_up_takes_nothing_with_it(pool: Pool, database: Database, waits: bool) -> None:
    """Cancelled in the middle, again and again: the statement ends, and every connection is there for the next one."""
    holding = [asyncio.create_task(pool.fetch("SELECT pg_sleep(0.2)")) for _ in range(CONNECTIONS if waits else 0)]
    for _ in range(2 * CONNECTIONS):
        asking = asyncio.create_task(pool.fetch("SELECT pg_sleep(5)"))
        await asyncio.sleep(0.03)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    await asyncio.gather(*holding)
    await whole(pool)
    assert len(backends(database)) <= CONNECTIONS


async def test_a_refused_statement_leaves_the_connection_as_it_was(pool: Pool, database: Database) -> None:
    """What the database says is passed on, and costs no connection."""
    await pool.fetch("SELECT 1")
    before = backends(database)
    for _ in range(2 * CONNECTIONS):
        with pytest.raises(asyncpg.DivisionByZeroError):
            await pool.fetch("SELECT 1 / 0")
    assert backends(database) == before


async def test_a_connection_that_was_ended_is_given_to_nobody(pool: Pool, database: Database) -> None:
    """The server ends all of them: whoever asks next gets an answer, from new ones."""
    await whole(pool)
    ended = backends(database)
    with database.connect_superuser() as superuser:
        for pid in ended:
            superuser.execute(b"SELECT pg_terminate_backend(%s)", (pid,))
    await asyncio.sleep(0.1)
    await whole(pool)
    assert not set(backends(database)) & set(ended)


async def test_a_transaction_that_was_left_open_is_not_anothers(pool: Pool) -> None:
    """Such a connection is ended; nobody goes on in somebody else's transaction."""
    async with pool.connection() as connection:
        await connection.execute("BEGIN")
        left = connection.get_server_pid()
    for _ in range(CONNECTIONS):
        async with pool.connection() as connection:
            assert not connection.is_in_transaction()
    await whole(pool)
    assert left


async def test_a_block_that_fails_gives_its_connection_back(pool: Pool) -> None:
    """Whatever is raised in it."""
    for _ in range(2 * CONNECTIONS):
        with pytest.raises(KeyError):
            async with pool.connection():
                raise KeyError("anything")
    await whole(pool)


async def test_who_waits_too_long_is_told(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unavailable, after a bounded time, and the place in the line is gone with it."""
    monkeypatch.setattr("mosaic_common.db.pool.ACQUIRE_SECONDS", 0.05)
    holding = [asyncio.create_task(pool.fetch("SELECT pg_sleep(0.3)")) for _ in range(CONNECTIONS)]
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable) as refused:
        await pool.fetch("SELECT 1")
    assert refused.value.reason is Reason.DEPENDENCY_UNAVAILABLE
    await asyncio.gather(*holding)
    monkeypatch.undo()
    await whole(pool)


async def test_what_cannot_be_encoded_is_a_defect_and_no_outage(pool: Pool) -> None:
    """It is raised as it is, and costs no connection."""
    with pytest.raises(asyncpg.DataError):
        await pool.fetch("SELECT $1::int", "one")
    await whole(pool)


async def test_a_statement_whose_columns_changed_is_prepared_anew(pool: Pool, database: Database) -> None:
    """A migration replaces a table's column under a connection that knows the statement: the next call reads what is there now."""
    with database.connect_superuser() as superuser:
        superuser.execute("CREATE TABLE public.changing AS SELECT 1 AS value")
        superuser.execute("GRANT SELECT ON public.changing TO mosaic_edge_inbound")
        for _ in range(2 * CONNECTIONS):
            assert [tuple(row) for row in await pool.fetch("SELECT * FROM public.changing")] == [(1,)]
        superuser.execute("ALTER TABLE public.changing ALTER value TYPE text, ADD more text DEFAULT 'more'")
        before = backends(database)
        for _ in range(2 * CONNECTIONS):
            assert [tuple(row) for row in await pool.fetch("SELECT * FROM public.changing")] == [("1", "more")]
        assert backends(database) == before


async def test_no_statement_outlives_its_connection(pool: Pool, database: Database) -> None:
    """Connections end and others come, for as long as a process runs: what was prepared on them is forgotten."""
    for _ in range(3):
        await whole(pool)
        assert len(pool._prepared) <= CONNECTIONS
        with database.connect_superuser() as superuser:
            for pid in backends(database):
                superuser.execute("SELECT pg_terminate_backend(%s)", (pid,))
        await asyncio.sleep(0.1)
    await whole(pool)
    assert len(pool._prepared) <= CONNECTIONS


async def test_a_commit_is_on_disk_when_it_is_answered(pool: Pool, database: Database) -> None:
    """Whatever a role, which may change its own defaults, or the database says about it."""
    try:
        with database.connect("mosaic_edge_inbound") as edge:
            edge.execute("ALTER ROLE mosaic_edge_inbound SET synchronous_commit = off")
        [row] = await pool.fetch("SELECT current_setting('synchronous_commit')")
        assert row[0] == "on"
    finally:
        with database.connect("mosaic_edge_inbound") as edge:
            edge.execute("ALTER ROLE mosaic_edge_inbound RESET synchronous_commit")


class Ending:
    """A connection that the server ends with its first answer."""

    def __init__(self) -> None:
        self.answers = 0

    async def prepare(self, _statement: str) -> "Ending":
        return self

    async def fetch(self) -> list[int]:
        self.answers += 1
        await asyncio.sleep(0)
        return [self.answers]

    def is_closed(self) -> bool:
        return self.answers > 0


class Endings:
    """In place of asyncpg's pool."""

    async def acquire(self, **_: object) -> Ending:
        return Ending()

    async def release(self, _connection: Ending) -> None:
        return None


async def test_who_waits_is_given_no_connection_that_ended_meanwhile() -> None:
    """Another one is made for him."""
    pool = Pool("postgresql://", application=APPLICATION, connections=1, command_seconds=5.0)
    pool._pool = Endings()
    assert await asyncio.gather(*(pool.fetch("SELECT 1") for _ in range(3))) == [[1]] * 3


async def test_a_call_that_ends_while_the_pool_is_closed_keeps_nothing(pool: Pool) -> None:
    """Its connection is given back: closing waits for it, and nothing is held for a next call."""
    asking = asyncio.create_task(pool.fetch("SELECT pg_sleep(0.2)"))
    await asyncio.sleep(0.1)
    await pool.close()
    await asking
    assert pool._unused == []
