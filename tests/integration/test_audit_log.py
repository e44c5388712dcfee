"""The record from append to proof: rounds, heads of grants, exports, the ends of months, retention. Real PostgreSQL, real roles."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic import command
from mosaic_common.audit import Chain, Event, HeadSigner
from mosaic_common.audit_export import ExportBroken
from mosaic_common.audit_heads import GrantHead
from mosaic_common.errors import Unavailable
from mosaic_common.keys import private_pem
from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.audit_rounds import _AWAKE
from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.adapters.retention import retain
from mosaic_grants.adapters.upgrade import _alembic, bootstrap, upgrade
from sqlalchemy import NullPool, create_engine, make_url
from structlog.testing import capture_logs

from tests.support.audit_bed import AUDIT_KEY, AuditBed, Edge, add_month, kinds, read_row, told_of, verified
from tests.support.postgres import PASSWORDS, Database, PostgresServer

NOW: Final = datetime.now(UTC)
LAST_MONTH: Final = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
BEFORE_LAST: Final = LAST_MONTH.replace(day=1) - timedelta(days=1)
ONE, OTHER = UUID(int=1), UUID(int=2)


@pytest.fixture
async def bed(database: Database, tmp_path: Path) -> AsyncIterator[AuditBed]:
    """Two months ago, at its last minute but one."""
    with database.connect() as owner:
        for month in (BEFORE_LAST, LAST_MONTH):
            add_month(owner, month)
    async with AuditBed.open(database, tmp_path, BEFORE_LAST.replace(hour=23, minute=58)) as opened:
        yield opened


async def test_an_export_holds_what_was_written(bed: AuditBed) -> None:
    """Rows of two edges in several rounds: the export verifies, counts them, and calls unsealed what nobody countersigned yet."""
    first, second = await bed.edge(), await bed.edge()
    for _ in range(3):
        first.write(bed.read(ONE), bed.read(OTHER))
        second.write(bed.read(ONE), bed.read())
        assert len(await bed.countersign()) == 2
    second.write(bed.read(ONE))
    account = verified(await bed.export())
    assert (account.chains, account.rows, account.heads, account.grant_heads) == (2, 13, 6, 2)
    assert [(each.chain_number, each.first_seq, each.last_seq) for each in account.unsealed] == [(2, 7, 7)]
    assert account.last_head_us > 0


async def test_small_pages_are_the_same_export(bed: AuditBed) -> None:
    """However it is cut into pages, every record comes once and in its place."""
    first, second = await bed.edge(), await bed.edge()
    for _ in range(4):
        first.write(*(bed.read(uuid4()) for _ in range(3)))
        second.write(bed.read(ONE))
        await bed.countersign()
    whole = await bed.export()
    for size in (1, 2, 5):
        assert await bed.export(page_size=size) == whole


async def test_an_export_is_whole_although_others_write(bed: AuditBed) -> None:
    """Rows, rounds and chains that come while it runs leave an export that verifies, with all that was there when it began."""
    edge = await bed.edge()
    edge.write(*(bed.read(ONE) for _ in range(10)))
    await bed.countersign()

    async def meanwhile() -> None:
        edge.write(bed.read(ONE), bed.read(uuid4()))
        (await bed.edge()).write(bed.read(ONE))
        await bed.countersign()

    lines = await bed.export(page_size=3, meanwhile=meanwhile)
    assert verified(lines).rows >= 10


async def test_a_grants_head_counts_its_own_rows_only(bed: AuditBed) -> None:
    """What a peer is told moves with its own grant's rows, and says nothing about anybody else's."""
    edge = await bed.edge()
    edge.write(bed.read(ONE), bed.read(OTHER), bed.read(ONE))
    await bed.countersign()
    [one] = [each.head for each in told_of(await bed.export()) if each.head.grant_id == ONE]
    edge.write(*(bed.read(OTHER) for _ in range(5)))
    await bed.countersign()
    [still] = [each.head for each in told_of(await bed.export()) if each.head.grant_id == ONE]
    assert (one.rows, still) == (2, one)


async def test_a_grants_head_is_what_its_rows_amount_to(bed: AuditBed) -> None:
    """Whoever has the rows recomputes the head: round after round, in each by chain number and seq."""
    first, second = await bed.edge(), await bed.edge()
    second.write(bed.read(ONE))
    first.write(bed.read(ONE), bed.read(OTHER))
    [round_1, _] = await bed.countersign()
    first.write(bed.read(ONE))
    [round_2] = await bed.countersign()
    hashes = {(line["chain_id"], line["seq"]): bytes.fromhex(line["hash"]) for line in await bed.export() if line["kind"] == "row"}
    a, b = first.chain.chain_id.hex(), second.chain.chain_id.hex()
    expected = GrantHead.beginning(ONE).after([hashes[a, 1], hashes[b, 1]], round_1.head.time_us)
    expected = expected.after([hashes[a, 3]], round_2.head.time_us)
    assert [each.head for each in told_of(await bed.export()) if each.head.grant_id == ONE] == [expected]


async def test_two_replicas_countersign_in_turns(bed: AuditBed) -> None:
    """Replicas that sign at the same time, with clocks that disagree, make one history: each round is later than the one before."""
    edge = await bed.edge()
    behind = PostgresLedger(
        bed.database.url("mosaic_grants"), AuditLog(HeadSigner(private_pem(AUDIT_KEY)), type(bed.clock)(NOW - timedelta(days=400)))
    )
    await behind.open()
    try:
        for _ in range(5):
            edge.write(bed.read(ONE))
            await asyncio.gather(bed.countersign(), behind.countersign())
            edge.write(bed.read(ONE))
            await behind.countersign()
    finally:
        await behind.close()
    lines = await bed.export()
    times = [line["time_us"] for line in lines if line["kind"] == "head"]
    assert times == sorted(set(times))
    assert verified(lines).rows == 10


async def test_a_grant_with_a_history_from_before_heads_of_grants(bed: AuditBed) -> None:
    """After an upgrade a grant's first head counts what was countersigned before there were any."""
    edge = await bed.edge()
    for _ in range(3):
        edge.write(bed.read(ONE), bed.read(OTHER))
        await bed.countersign()
    with bed.database.connect() as owner:
        owner.execute("DELETE FROM federation.federation_audit_grant_heads")
    edge.write(bed.read(ONE))
    await bed.countersign()
    lines = await bed.export()
    assert [(line["grant_id"], line["rows"]) for line in lines if line["kind"] == "grant_head"] == [(str(ONE), 4)]
    verified(lines)


async def test_a_rewritten_history_contradicts_what_the_peer_kept(bed: AuditBed) -> None:
    """Whoever holds database and audit key and writes all anew makes a record that holds, until it meets the peer's heads."""
    edge = await bed.edge()
    edge.write(bed.read(ONE), bed.read(ONE, result_count=500))
    await bed.countersign()
    edge.write(bed.read(OTHER))
    await bed.countersign()
    kept = told_of(await bed.export())
    with bed.database.connect() as owner:
        owner.execute(
            "TRUNCATE federation.federation_audit_log, federation.federation_audit_chains, federation.federation_audit_heads,"
            " federation.federation_audit_grant_heads, federation.federation_audit_month_ends"
        )
    anew = await bed.edge()
    anew.write(bed.read(ONE), bed.read(ONE, result_count=0), bed.read(OTHER))
    await bed.countersign()
    bed.clock.advance(timedelta(minutes=1))
    lines = await bed.export()
    assert verified(lines).rows == 3
    with pytest.raises(ExportBroken, match="rewritten, although its signatures hold") as broken:
        verified(lines, peers=kept)
    assert broken.value.grant_id in {ONE, OTHER}


async def over_two_months(bed: AuditBed) -> None:
    """Two chains that cross a month's end, one that ends before it and one that begins after it."""
    first, second, ending = await bed.edge(), await bed.edge(), await bed.edge()
    for edge in (first, second, ending):
        edge.write(bed.read(ONE), bed.read(OTHER))
    await bed.countersign()
    # One round with rows from both sides of midnight, and a row of the old month that is committed after those of the new one.
    first.write(bed.read(ONE))
    late = bed.read(ONE)
    bed.clock.advance(timedelta(minutes=3))
    first.write(bed.read(ONE))
    await bed.countersign()
    second.write(late, bed.read(ONE))
    (await bed.edge()).write(bed.read(ONE))
    await bed.countersign()


async def test_a_month_is_dropped_after_its_signed_end(bed: AuditBed) -> None:
    """Nothing goes before every chain's end of it is signed; then the rest verifies, and the account says where it begins."""
    await over_two_months(bed)
    kept = told_of(await bed.export())
    url = bed.database.url("mosaic_owner")

    [refused] = retain(url, 1)
    assert refused.month == f"{BEFORE_LAST:%Y-%m}"
    assert "nobody has signed" in refused.cause
    assert not await bed.ledger.close_months()  # rows may still be on their way

    bed.clock.advance(timedelta(minutes=30))
    assert sorted((end.chain_number, end.seq) for end in await bed.ledger.close_months()) == [(1, 3), (2, 3), (3, 2)]
    assert not await bed.ledger.close_months()
    before = await bed.export()
    assert verified(before).shortened == []

    assert retain(url, 1) == ()
    lines = await bed.export()
    account = verified(lines, peers=kept)
    assert sorted((each.chain_number, each.after_seq) for each in account.shortened) == [(1, 3), (2, 3), (3, 2)]
    assert (account.rows, account.shortened_grants) == (kinds(before)["row"] - 8, 2)
    assert account.peers.held == len(kept)
    assert retain(url, 1) == ()


async def test_heads_go_on_after_retention(bed: AuditBed) -> None:
    """What a grant's history amounts to after retention continues what it was before: the peer sees no difference."""
    await over_two_months(bed)
    bed.clock.advance(timedelta(minutes=30))
    await bed.ledger.close_months()
    assert retain(bed.database.url("mosaic_owner"), 1) == ()
    edge = await bed.edge()
    edge.write(bed.read(ONE), bed.read(OTHER))
    await bed.countersign()
    lines = await bed.export()
    latest = {
        line["grant_id"]: line["rows"]
        for line in sorted(lines, key=lambda line: line.get("rows") or 0)
        if line["kind"] == "grant_head"
    }
    assert latest == {str(ONE): 9, str(OTHER): 4}
    verified(lines)


async def test_months_are_dropped_one_after_the_other(bed: AuditBed) -> None:
    """A grant's history begins where the last dropped month ended, however many were dropped."""
    earlier = BEFORE_LAST.replace(day=1) - timedelta(days=1)
    with bed.database.connect() as owner:
        add_month(owner, earlier)
    edge = await bed.edge()
    begun = bed.clock.now()
    bed.clock.advance(earlier - begun)
    edge.write(bed.read(ONE), bed.read(ONE))
    await bed.countersign()
    bed.clock.advance(begun - bed.clock.now())
    edge.write(bed.read(ONE))
    await bed.countersign()
    bed.clock.advance(timedelta(minutes=30))
    edge.write(bed.read(ONE))
    await bed.countersign()
    await bed.ledger.close_months()
    url = bed.database.url("mosaic_owner")
    for months, after_seq in ((2, 2), (1, 3)):
        assert retain(url, months) == ()
        account = verified(await bed.export())
        assert [each.after_seq for each in account.shortened] == [after_seq]
        assert (account.rows, account.shortened_grants) == (4 - after_seq, 1)


async def test_a_month_with_a_row_that_came_too_late_stays(bed: AuditBed) -> None:
    """A row that was written into a month after its end was signed keeps it, until that row too is signed for.

    A round that covered it hours after the month had ended is not excused by that end, so the month goes with the next one.
    """
    edge = await bed.edge()
    edge.write(bed.read(ONE))
    late = bed.read(ONE)
    await bed.countersign()
    told = told_of(await bed.export())
    bed.clock.advance(timedelta(hours=20))
    await bed.ledger.close_months()
    edge.write(late)
    signed = await bed.countersign()
    told += told_of(await bed.export())
    url = bed.database.url("mosaic_owner")
    [refused] = retain(url, 1)
    assert "seq 2" in refused.cause
    await bed.ledger.close_months()
    [refused] = retain(url, 1)
    assert "goes together with the next month" in refused.cause
    # The next month is empty as yet: no chain ends in it.
    [refused, _] = retain(url, 0)
    assert (refused.month, "goes together" in refused.cause) == (f"{BEFORE_LAST:%Y-%m}", True)

    edge.write(bed.read(ONE))
    signed += await bed.countersign()
    bed.clock.advance(NOW - bed.clock.now())
    edge.write(bed.read(ONE))
    await bed.countersign()
    bed.clock.advance(timedelta(minutes=30))
    await bed.ledger.close_months()
    assert retain(url, 0) == ()
    lines = await bed.export()
    account = verified(lines, peers=told, witness=[(each.head, each.signature) for each in signed])
    assert (account.rows, account.peers.too_old, account.witness.held) == (1, 2, 2)


async def test_a_round_of_both_months_is_where_a_grant_begins(bed: AuditBed) -> None:
    """grants did not run over a month's end, and a clock was minutes behind: what the peer was told holds before and after."""
    edge, slow = await bed.edge(), await bed.edge()
    told = []
    edge.write(bed.read(ONE))
    slow.write(bed.read(ONE))
    await bed.countersign()
    told += told_of(await bed.export())
    behind = bed.clock.now()
    bed.clock.advance(timedelta(minutes=5))
    edge.write(bed.read(ONE))
    slow.write(read_row(behind, ONE), read_row(behind, ONE))
    await bed.countersign()
    told += told_of(await bed.export())
    bed.clock.advance(timedelta(minutes=30))
    slow.write(bed.read(ONE))
    await bed.countersign()
    told += told_of(await bed.export())
    await bed.ledger.close_months()
    assert verified(await bed.export(), peers=told).shortened == []
    assert retain(bed.database.url("mosaic_owner"), 1) == ()
    account = verified(await bed.export(), peers=told)
    assert sorted((each.chain_number, each.after_seq) for each in account.shortened) == [(1, 1), (2, 3)]
    assert (account.peers.too_old, account.peers.held) == (1, 2)


async def test_a_chain_whose_rows_lie_in_no_order_keeps_its_months(bed: AuditBed) -> None:
    """Before time could not go back within a chain, it did: what stays must continue what goes."""
    edge = await bed.edge()
    edge.write(replace(bed.read(ONE), time_us=-1), bed.read(ONE))
    await bed.countersign()
    bed.clock.advance(timedelta(minutes=30))
    await bed.ledger.close_months()
    [refused] = retain(bed.database.url("mosaic_owner"), 1)
    assert "earlier rows of chain 1 lie in a later month, or in none" in refused.cause


async def test_a_row_that_lay_in_no_month_goes_after_an_upgrade(bed: AuditBed) -> None:
    """A row of a month that nobody had made a partition for keeps what follows it, until the next upgrade makes one."""
    edge = await bed.edge()
    edge.write(read_row(BEFORE_LAST - timedelta(days=400), ONE), bed.read(ONE))
    await bed.countersign()
    bed.clock.advance(timedelta(minutes=30))
    await bed.ledger.close_months()
    url = bed.database.url("mosaic_owner")
    assert len(retain(url, 1)) == 1
    upgrade(url)
    await bed.ledger.close_months()
    assert retain(url, 1) == ()
    assert verified(await bed.export()).rows == 0


async def test_rows_that_nobody_countersigned_stay(bed: AuditBed) -> None:
    """A month whose rows no round has covered is not dropped: no head of a grant counts them yet."""
    (await bed.edge()).write(bed.read(ONE))
    bed.clock.advance(timedelta(minutes=30))
    await bed.ledger.close_months()
    [refused] = retain(bed.database.url("mosaic_owner"), 1)
    assert "not countersigned" in refused.cause


async def test_only_months_before_the_last_whole_ones_go(bed: AuditBed) -> None:
    """Two whole months are kept when two are asked for."""
    await over_two_months(bed)
    bed.clock.advance(timedelta(minutes=30))
    await bed.ledger.close_months()
    before = await bed.export()
    assert retain(bed.database.url("mosaic_owner"), 2) == ()
    assert kinds(await bed.export()) == kinds(before)


async def test_a_round_looks_at_what_moved_only(bed: AuditBed) -> None:
    """However many chains were ever opened: one falls asleep once it is signed for, and wakes up with its next row."""
    edge, other = await bed.edge(), await bed.edge()
    with bed.database.connect() as owner:
        for awake in ([], [1], [1], [1, 2]):
            if awake:
                edge.write(bed.read(ONE))
            if 2 in awake:
                other.write(bed.read(ONE))
            assert moved(owner) == awake
            assert len(await bed.countersign()) == len(awake)
            assert await bed.countersign() == []
            assert moved(owner) == []
        verified(await bed.export())
        owner.execute(_EMPTY_CHAINS)
        owner.execute("ANALYZE federation.federation_audit_chains")
        [plan] = owner.execute(f"EXPLAIN (FORMAT JSON) {_AWAKE}".encode()).fetchall()
    assert "federation_audit_chains_moved" in str(plan)


_EMPTY_CHAINS: Final = """
    INSERT INTO federation.federation_audit_chains
           (chain_id, chain_number, writer, opened_at_us, opening_hash, opening_signature, head_hash)
    SELECT decode(md5(n::text), 'hex'), n + 2, 'edge-inbound', 0, sha256(''), decode(repeat('00', 64), 'hex'), sha256('')
    FROM generate_series(1, 5000) n"""


def moved(owner: psycopg.Connection) -> list[int]:
    found = owner.execute("SELECT chain_number FROM federation.federation_audit_chains WHERE moved ORDER BY 1").fetchall()
    return [number for (number,) in found]


async def test_a_writer_that_does_not_commit_delays_no_round_and_is_not_forgotten(bed: AuditBed) -> None:
    """Its chain cannot be put to sleep while it writes; what it commits in the end is countersigned."""
    bed.clock.advance(datetime.now(UTC) - bed.clock.now())
    edge, other = await bed.edge(), await bed.edge()
    edge.write(bed.read(ONE))
    assert len(await bed.countersign()) == 1
    with edge.connection.transaction():
        edge.write(bed.read(ONE))
        other.write(bed.read(ONE))
        async with asyncio.timeout(10):
            assert [each.head.chain_number for each in await bed.countersign()] == [2]
            assert await bed.countersign() == []
    assert [(each.head.chain_number, each.head.seq) for each in await bed.countersign()] == [(1, 2)]


async def test_no_service_drops_anything(bed: AuditBed) -> None:
    """Neither grants nor an edge can drop a month, or take back what is signed."""
    for role in ("mosaic_grants", "mosaic_edge_inbound"):
        with bed.database.connect(role) as connection:
            for statement in (
                f"DROP TABLE federation.federation_audit_log_{BEFORE_LAST:%Y_%m}",
                "DELETE FROM federation.federation_audit_month_ends",
                "DELETE FROM federation.federation_audit_heads",
                "DELETE FROM federation.federation_audit_grant_heads",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement.encode())


async def test_grants_says_why_its_own_row_was_refused(bed: AuditBed) -> None:
    """A clock that is days off: what was to be done is not, because it cannot be recorded; the log names clock and bound. It is an
    outage, not a defect, which in a sweep would end the process, and enrollments with it."""
    with capture_logs() as logs, pytest.raises(Unavailable, match="MF032"):
        async with bed.ledger.transaction() as tx:
            tx.audit(bed.read(event=Event.GRANT_CREATED))
    [cause] = [line["cause"] for line in logs if line["event"] == "audit_rows_refused"]
    assert cause.startswith(
        "MF032: the rows are dated more than 5 minutes ahead of the database's clock, or more than a day behind"
    )


async def test_a_row_dated_before_its_chains_last_is_refused(bed: AuditBed) -> None:
    """A broken edge cannot date a row back within its chain: a month's end would cut it at two places."""
    bed.clock.advance(datetime.now(UTC) - bed.clock.now())
    edge = await bed.edge()
    early, later = bed.read(), bed.read()
    edge.write(later)
    forged = Edge(edge.connection, Chain(edge.chain.chain_id, edge.chain.seq, edge.chain.head), edge.database)
    with pytest.raises(psycopg.Error) as refused:
        forged.write(early)
    assert refused.value.sqlstate == "MF032"
    edge.write(early)  # an honest one is dated like the one before it
    [first, second] = [line for line in await bed.export() if line["kind"] == "row"]
    assert second["time_us"] == first["time_us"] == later.time_us


def test_chains_of_the_release_before_go_on(postgres_server: PostgresServer) -> None:
    """After the upgrade from 0003 a chain knows when its last row was; an empty one takes any time."""
    database = postgres_server.unmigrated(f"mosaic_before_rounds_{uuid4().hex[:8]}")
    bootstrap(database.superuser_url, PASSWORDS)
    engine = create_engine(make_url(database.url("mosaic_owner")).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        command.upgrade(_alembic(connection), "0003")
        for number in (1, 2):
            connection.exec_driver_sql(_CHAIN_BEFORE, (bytes([number]) * 16, number, bytes(32), bytes(64), bytes(32)))
        for seq, time_us in ((1, 700), (2, 500)):
            connection.exec_driver_sql(_ROW_BEFORE, (str(uuid4()), time_us, bytes([1]) * 16, seq, bytes(32), bytes(32)))
    upgrade(database.url("mosaic_owner"))
    with database.connect() as owner:
        chains = owner.execute("SELECT chain_number, head_time_us FROM federation.federation_audit_chains ORDER BY 1").fetchall()
    assert chains == [(1, 700), (2, None)]


def test_chains_of_the_release_before_are_looked_at_once(postgres_server: PostgresServer) -> None:
    """After the upgrade from 0004 the first round looks at every chain, also at one that was empty in that moment."""
    database = postgres_server.unmigrated(f"mosaic_before_moved_{uuid4().hex[:8]}")
    bootstrap(database.superuser_url, PASSWORDS)
    engine = create_engine(make_url(database.url("mosaic_owner")).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        command.upgrade(_alembic(connection), "0004")
        for number in (1, 2):
            connection.exec_driver_sql(_CHAIN_BEFORE, (bytes([number]) * 16, number, bytes(32), bytes(64), bytes(32)))
        connection.exec_driver_sql("UPDATE federation.federation_audit_chains SET head_seq = 3 WHERE chain_number = 2")
    upgrade(database.url("mosaic_owner"))
    with database.connect() as owner:
        assert moved(owner) == [1, 2]


_CHAIN_BEFORE: Final = """
    INSERT INTO federation.federation_audit_chains
           (chain_id, chain_number, writer, opened_at_us, opening_hash, opening_signature, head_hash)
    VALUES (%s, %s, 'grants', 0, %s, %s, %s)"""
_ROW_BEFORE: Final = """
    INSERT INTO federation.federation_audit_log
           (request_id, time_us, event, actor, source_address, resource, outcome, status_code, result_count, bytes_out, latency_us,
            repeated, chain_id, seq, prev_hash, hash)
    VALUES (%s, %s, 'read', '', '', '', 'allowed', 0, 0, 0, 0, 1, %s, %s, %s, %s)"""


async def test_the_cli_drops_months_and_says_what_stays(bed: AuditBed) -> None:
    """`mosaic db retain`: exit code 1 and the cause while a month has to stay, then 0."""
    (await bed.edge()).write(bed.read(ONE))
    await bed.countersign()
    bed.clock.advance(timedelta(minutes=30))
    refused = await retained(bed)
    assert refused[0] == 1
    assert "RETENTION_REFUSED" in refused[1]
    assert "nobody has signed that chain 1 ended it at seq 1" in refused[1]
    await bed.ledger.close_months()
    code, told = await retained(bed)
    assert (code, f"{BEFORE_LAST:%Y-%m} is dropped" in told) == (0, True)


async def retained(bed: AuditBed) -> tuple[int | None, str]:
    environment = {**os.environ, "MOSAIC_ENV": "dev", "DATABASE_URL": bed.database.url("mosaic_owner")}
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mosaic_cli", "db", "retain", "--months", "1", env=environment, stderr=PIPE
    )
    _, told = await running.communicate()
    return running.returncode, told.decode()
