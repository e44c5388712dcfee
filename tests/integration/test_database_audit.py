"""append_audit: a chain grows at its head, by its writer, and in no other way."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import pytest
from mosaic_common.audit import AuditRow, Chain, Event, Outcome, SealedRow, row_hash
from mosaic_common.db.sqlstates import AUDIT_CHAIN_NOT_OPEN, AUDIT_HASH_WRONG, AUDIT_NOT_CONTINUOUS, AUDIT_ROW_NOT_PERMITTED
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, Reason
from mosaic_federation_edge.adapters.audit_store import PostgresAuditStore
from mosaic_federation_edge.adapters.audit_writer import RowsRefused
from mosaic_federation_edge.adapters.database import Database as EdgeDatabase
from mosaic_grants.adapters.migrations.versions import r0007_audit_words
from mosaic_grants.adapters.schema.functions import AUDIT_COLUMNS

from tests.support.audit_rows import APPEND, rows_json
from tests.support.postgres import Database, PostgresServer


@pytest.fixture(scope="module")
def owner(module_database: Database) -> Iterator[psycopg.Connection]:
    with module_database.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def inbound(module_database: Database) -> Iterator[psycopg.Connection]:
    with module_database.connect("mosaic_edge_inbound") as connection:
        yield connection


@pytest.fixture
def chain(module_database: Database) -> Chain:
    return open_chain(module_database, "edge-inbound")


def open_chain(database: Database, writer: str) -> Chain:
    """As grants opens one."""
    with database.connect("mosaic_grants") as grants:
        row = grants.execute("SELECT coalesce(max(chain_number), 0) + 1 FROM federation.federation_audit_chains").fetchone()
        assert row is not None
        opened = Chain.opened(secrets.token_bytes(16), row[0], 0)
        grants.execute(
            "INSERT INTO federation.federation_audit_chains"
            " (chain_id, chain_number, writer, opened_at_us, opening_hash, opening_signature, head_hash)"
            " VALUES (%s, %s, %s, 0, %s, %s, %s)",
            (opened.chain_id, row[0], writer, opened.head, bytes(64), opened.head),
        )
    return opened


def seal(chain: Chain, amount: int, *, time_us: int | None = None, step_us: int = 1, event: Event = Event.READ) -> list[SealedRow]:
    sealed = []
    begun_us = time.time_ns() // 1000 if time_us is None else time_us
    for number in range(amount):
        row = AuditRow(
            request_id=uuid4(),
            time_us=begun_us + number * step_us,
            event=event,
            actor="home",
            source_address="127.0.0.1:5000",
            outcome=Outcome.ALLOWED,
            status_code=0,
            query_hash=secrets.token_bytes(32),
        )
        sealed.append(chain.append(row))
        chain = chain.after(sealed[-1])
    return sealed


def append(connection: psycopg.Connection, batch: list[SealedRow]) -> None:
    first = batch[0]
    connection.execute(APPEND, (first.chain_id, first.seq, first.prev_hash, rows_json(batch)))


def stored(owner: psycopg.Connection, chain: Chain) -> list[tuple[int, bytes]]:
    return owner.execute(
        "SELECT seq, hash FROM federation.federation_audit_log WHERE chain_id = %s ORDER BY seq", (chain.chain_id,)
    ).fetchall()


def test_columns_stand_in_the_order_in_which_they_are_hashed(owner: psycopg.Connection) -> None:
    """The hash covers the columns in table order: table, function and canonical row agree on it."""
    names = owner.execute(
        "SELECT attname FROM pg_attribute"
        " WHERE attrelid = 'federation.federation_audit_log'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ).fetchall()
    assert tuple(name for (name,) in names) == AUDIT_COLUMNS
    hashed = [*AuditRow.__dataclass_fields__, *list(SealedRow.__dataclass_fields__)[1:]]
    assert tuple(hashed) == AUDIT_COLUMNS


def test_batches_continue_one_another(owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain) -> None:
    """Rows are stored as sealed, and the head moves with them."""
    batch = seal(chain, 5)
    append(inbound, batch[:3])
    append(inbound, batch[3:])
    assert stored(owner, chain) == [(row.seq, row.hash) for row in batch]
    head = owner.execute(
        "SELECT head_seq, head_hash FROM federation.federation_audit_chains WHERE chain_id = %s", (chain.chain_id,)
    )
    assert head.fetchone() == (5, batch[-1].hash)


def test_what_was_committed_may_be_sent_again(owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain) -> None:
    """A COMMIT whose answer was lost is retried: identical rows are accepted again, also when others followed, and stand once."""
    batch = seal(chain, 4)
    append(inbound, batch[:2])
    append(inbound, batch[:2])
    append(inbound, batch[2:])
    append(inbound, batch[:2])
    assert len(stored(owner, chain)) == 4


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(lambda batch: batch[1:], id="a gap"),
        pytest.param(lambda _: [], id="nothing"),
    ],
)
def test_refuses_rows_that_do_not_continue_the_head(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain, rows: Callable[[list[SealedRow]], list[SealedRow]]
) -> None:
    """A gap, a repetition or an empty batch writes nothing."""
    batch = seal(chain, 3)
    chosen = rows(batch)
    first = chosen[0] if chosen else batch[0]
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(APPEND, (chain.chain_id, first.seq, first.prev_hash, rows_json(chosen)))
    assert refused.value.sqlstate == AUDIT_NOT_CONTINUOUS
    assert stored(owner, chain) == []


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(lambda batch: [batch[0], batch[2]], id="a gap"),
        pytest.param(lambda batch: [batch[0], batch[0]], id="one row twice"),
        pytest.param(lambda batch: [batch[0], batch[2], batch[1]], id="another order"),
    ],
)
def test_refuses_rows_whose_hashes_are_not_of_their_place(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain, rows: Callable[[list[SealedRow]], list[SealedRow]]
) -> None:
    """Chain, number and previous hash are the database's own, and a row's hash covers them."""
    batch = seal(chain, 3, step_us=0)
    with pytest.raises(psycopg.Error) as refused:
        append(inbound, rows(batch))
    assert refused.value.sqlstate == AUDIT_HASH_WRONG
    assert stored(owner, chain) == []


def test_refuses_rows_that_go_back_in_time(owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain) -> None:
    """Within a batch as between two: a row dated before the one before it is not taken, rightly hashed or not."""
    (first,) = seal(chain, 1)
    earlier = Chain(chain.chain_id, 1, first.hash).append(replace(first.row, time_us=first.row.time_us - 1))
    with pytest.raises(psycopg.Error, match="dated before the one before it") as refused:
        append(inbound, [first, earlier])
    assert refused.value.sqlstate == AUDIT_ROW_NOT_PERMITTED
    assert stored(owner, chain) == []


def test_refuses_numbers_that_do_not_continue_the_head(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain
) -> None:
    """The right hash of the row before, and a number further on."""
    with pytest.raises(psycopg.Error) as refused:
        append(inbound, seal(Chain(chain.chain_id, 5, chain.head), 2))
    assert refused.value.sqlstate == AUDIT_NOT_CONTINUOUS
    assert stored(owner, chain) == []


def test_a_retry_commits_something_of_its_own(module_database: Database, chain: Chain) -> None:
    """It waits for whatever a commit waits for: where the first attempt still waits for a standby, so does the retry."""
    batch = seal(chain, 1)
    with psycopg.connect(module_database.url("mosaic_edge_inbound")) as retrying:
        append(retrying, batch)
        retrying.commit()
        append(retrying, batch)
        assert retrying.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL").fetchone() == (True,)


def test_rows_that_came_before_their_turn_are_not_called_too_old(
    module_database: Database, inbound: psycopg.Connection, chain: Chain
) -> None:
    """What continues a row that is committed while it waits may be sent again on another chain; MF032 would give it up for ever."""
    batch = seal(chain, 2)
    with psycopg.connect(module_database.url("mosaic_edge_inbound")) as first, ThreadPoolExecutor(1) as threads:
        append(first, batch[:1])
        second = threads.submit(append, inbound, batch[1:])
        wait_for_lock(module_database, inbound)
        first.commit()
        with pytest.raises(psycopg.Error) as refused:
            second.result(10)
    assert refused.value.sqlstate == AUDIT_NOT_CONTINUOUS


def wait_for_lock(database: Database, waiting: psycopg.Connection) -> None:
    with database.connect_superuser() as connection:
        for _ in range(500):
            if connection.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (waiting.info.backend_pid,)).fetchone() == (
                True,
            ):
                return
            time.sleep(0.01)
    raise AssertionError("it waits for nothing")


def test_refuses_another_past(owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain) -> None:
    """Rows that differ from those already there, or overlap them and go on, are no retry: history has one version."""
    first, second = seal(chain, 2), seal(chain, 2)
    append(inbound, first)
    for rewriting in (second, [*first, *seal(chain.after(first[-1]), 1)]):
        with pytest.raises(psycopg.Error) as refused:
            append(inbound, rewriting)
        assert refused.value.sqlstate == AUDIT_NOT_CONTINUOUS
    assert stored(owner, chain) == [(row.seq, row.hash) for row in first]


def test_a_wrong_previous_hash_is_refused(inbound: psycopg.Connection, chain: Chain) -> None:
    """The caller's idea of the head must be the database's."""
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(APPEND, (chain.chain_id, 1, bytes(32), rows_json(seal(chain, 1))))
    assert refused.value.sqlstate == AUDIT_NOT_CONTINUOUS


def test_nobody_writes_into_anothers_chain(module_database: Database, inbound: psycopg.Connection) -> None:
    """A chain belongs to the service that it was opened for: not unknown ones, not another service's, not closed ones."""
    outbound_chain = open_chain(module_database, "edge-outbound")
    closed = open_chain(module_database, "edge-inbound")
    with module_database.connect("mosaic_grants") as grants:
        grants.execute("UPDATE federation.federation_audit_chains SET closed_at_us = 1 WHERE chain_id = %s", (closed.chain_id,))
    for chain in (outbound_chain, closed, Chain.opened(secrets.token_bytes(16), 1, 0)):
        with pytest.raises(psycopg.Error) as refused:
            append(inbound, seal(chain, 1))
        assert refused.value.sqlstate == AUDIT_CHAIN_NOT_OPEN


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("actor", "x" * 65, id="too long"),
        pytest.param("actor", "a\x1b[2Jb", id="a terminal escape"),
        pytest.param("resource", "Grüße", id="not ASCII"),
        pytest.param("outcome", "maybe", id="no outcome"),
        pytest.param("query_hash", b"\0", id="no hash of a query"),
    ],
)
def test_a_row_holds_short_printable_words_only(inbound: psycopg.Connection, chain: Chain, column: str, value: Any) -> None:
    """A broken writer cannot put a row's content, a query or an escape sequence into the record."""
    (sealed,) = seal(chain, 1)
    row = replace(sealed.row, **{column: value})
    spoilt = SealedRow(row, chain.chain_id, 1, chain.head, row_hash(chain.head, row, chain.chain_id, 1))
    with pytest.raises(psycopg.errors.IntegrityError):
        append(inbound, [spoilt])


def test_a_word_is_printable_ascii(database: Database) -> None:
    """Of all characters below 256 the printable ones of ASCII, wherever they stand, 64 at most; none at all is a word too."""

    def is_word(text: str | None) -> bool:
        try:
            connection.execute("SELECT %s::text::federation.audit_word", (text,))
        except psycopg.errors.CheckViolation:
            return False
        return True

    with database.connect_superuser() as connection:
        for form in ("{}", "a{}", "{}b", "a{}b", "x" * 62 + "{}"):
            assert [code for code in range(1, 256) if is_word(form.format(chr(code)))] == [*range(0x20, 0x7F)], form
        assert [length for length in (0, 1, 63, 64, 65, 1000) if is_word(" " * length)] == [0, 1, 63, 64]
        assert is_word(None)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_words_are_ascii_in_every_encoding(postgres_server: PostgresServer, encoding: str) -> None:
    """An application's own database may have one of a byte per character, and 0x9B is how some terminals read an escape."""
    database = postgres_server.unmigrated(f"mosaic_words_in_{encoding.lower()}")
    with psycopg.connect(postgres_server.superuser_url, autocommit=True) as server:
        server.execute(
            f"CREATE DATABASE {database.name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0".encode()
        )
    with database.connect_superuser() as connection:
        connection.execute(
            "CREATE SCHEMA federation; CREATE DOMAIN federation.audit_word AS text CONSTRAINT audit_word_check CHECK (true)"
        )
        connection.execute(r0007_audit_words._STATEMENTS.encode())
        taken = []
        for code in range(1, 256):
            with suppress(psycopg.errors.CheckViolation):
                connection.execute(f"SELECT convert_from('\\x{code:02x}', '{encoding}')::federation.audit_word".encode())
                taken.append(code)
    assert taken == [*range(0x20, 0x7F)]


def now_us(owner: psycopg.Connection) -> int:
    row = owner.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("off", "accepted"),
    [
        pytest.param(timedelta(minutes=4, seconds=50), True, id="a clock that is a little fast"),
        pytest.param(timedelta(minutes=5, seconds=10), False, id="more than five minutes ahead"),
        pytest.param(timedelta(days=3650), False, id="the newest row for years to come"),
        pytest.param(timedelta(hours=-23, minutes=-59), True, id="a queue that waited for the database"),
        pytest.param(timedelta(hours=-24, minutes=-1), False, id="more than a day behind"),
        pytest.param(timedelta(days=-3650), False, id="a month long over"),
    ],
)
def test_only_what_is_of_now_is_recorded(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain, off: timedelta, accepted: bool
) -> None:
    """By the database's clock: a broken edge cannot put a row in front of every row that comes later, nor one into an old month."""
    batch = seal(chain, 1, time_us=now_us(owner) + off // timedelta(microseconds=1))
    if accepted:
        append(inbound, batch)
    else:
        with pytest.raises(psycopg.Error, match="the database's clock") as refused:
            append(inbound, batch)
        assert refused.value.sqlstate == AUDIT_ROW_NOT_PERMITTED
    partitions = owner.execute(
        "SELECT tableoid::regclass::text FROM federation.federation_audit_log WHERE chain_id = %s", (chain.chain_id,)
    ).fetchall()
    assert len(partitions) == accepted
    assert all("default" not in name for (name,) in partitions)


def test_one_row_of_another_time_is_found_among_honest_ones(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain
) -> None:
    """At either end of a batch; nothing of it is written."""
    now, day = now_us(owner), timedelta(days=1) // timedelta(microseconds=1)
    for first_us, second_us in ((now - 2 * day, now), (now, now + day)):
        first = seal(chain, 1, time_us=first_us)
        with pytest.raises(psycopg.Error) as refused:
            append(inbound, [*first, *seal(chain.after(first[-1]), 1, time_us=second_us)])
        assert refused.value.sqlstate == AUDIT_ROW_NOT_PERMITTED
    assert stored(owner, chain) == []


def full(chain: Chain) -> SealedRow:
    """A row with something in every column."""
    row = AuditRow(
        request_id=uuid4(),
        time_us=time.time_ns() // 1000,
        event=Event.READ,
        actor="home ~ \\x41",
        source_address="127.0.0.1:5000",
        peer_id=uuid4(),
        grant_id=uuid4(),
        subject_user_id=uuid4(),
        token_id=secrets.token_bytes(32),
        verb=Verb.LIST,
        resource="tasks",
        outcome=Outcome.DENIED,
        denied_layer=Layer.SCOPE,
        denied_reason=Reason.RESOURCE_NOT_GRANTED,
        status_code=-7,
        result_count=2**62,
        bytes_out=1,
        query_hash=secrets.token_bytes(32),
        latency_us=3,
        repeated=4,
    )
    return chain.append(row)


EDITED: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("request_id", "peer_id", "grant_id", "subject_user_id"), str(UUID(int=9))),
    **dict.fromkeys(("token_id", "query_hash", "hash"), f"\\x{'ab' * 32}"),
    **dict.fromkeys(("status_code", "result_count", "bytes_out", "latency_us", "repeated"), 5),
    **dict.fromkeys(("actor", "source_address", "verb", "resource", "denied_layer", "denied_reason"), "x"),
    "outcome": "allowed",
}
NULLABLE: Final = ("peer_id", "grant_id", "subject_user_id", "token_id", "verb", "denied_layer", "denied_reason", "query_hash")


def test_the_database_computes_the_hash_that_verification_computes(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain
) -> None:
    """Rows with every column filled, and with every column empty that may be, go through: both hash the same bytes."""
    whole = full(chain)
    nothing: dict[str, Any] = {**dict.fromkeys(NULLABLE), "actor": "", "source_address": "", "resource": ""}
    bare = chain.after(whole).append(replace(whole.row, **nothing))
    append(inbound, [whole, bare])
    assert len(stored(owner, chain)) == 2


@pytest.mark.parametrize(
    ("column", "value"), [*EDITED.items(), *((name, None) for name in NULLABLE)], ids=lambda value: None if value else "null"
)
def test_a_hash_that_is_not_the_rows_is_refused(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain, column: str, value: Any
) -> None:
    """A broken edge, or one that hashes otherwise, writes nothing that a verification would call altered."""
    whole = full(chain)
    rows = json.loads(rows_json([whole, *seal(chain.after(whole), 1)]))
    rows[0][column] = value
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(APPEND, (chain.chain_id, 1, chain.head, json.dumps(rows)))
    assert refused.value.sqlstate == AUDIT_HASH_WRONG
    assert stored(owner, chain) == []


def test_grants_itself_writes_no_hash_that_is_not_the_rows(module_database: Database) -> None:
    """Its rows take the same way, and its role has no other."""
    chain = open_chain(module_database, "grants")
    [sealed] = seal(chain, 1, event=Event.GRANT_CREATED)
    with module_database.connect("mosaic_grants") as grants:
        with pytest.raises(psycopg.Error) as refused:
            append(grants, [replace(sealed, hash=bytes(32))])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            grants.execute("INSERT INTO federation.federation_audit_log SELECT * FROM federation.federation_audit_log")
    assert refused.value.sqlstate == AUDIT_HASH_WRONG


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize(
    ("writer", "own"),
    [
        pytest.param("edge-inbound", {Event.READ}, id="edge-inbound"),
        pytest.param("edge-outbound", {Event.QUERY}, id="edge-outbound"),
        pytest.param("grants", set(Event) - {Event.READ, Event.QUERY}, id="grants"),
    ],
)
def test_each_writer_records_its_own_deeds_only(module_database: Database, writer: str, own: set[Event], event: Event) -> None:
    """A broken edge cannot make it look as if an operator had created a grant, nor grants as if a peer had read."""
    chain = open_chain(module_database, writer)
    with module_database.connect(f"mosaic_{writer.replace('-', '_')}") as connection:
        batch = seal(chain, 1, event=event)
        if event in own:
            append(connection, batch)
        else:
            with pytest.raises(psycopg.Error) as refused:
                append(connection, batch)
            assert refused.value.sqlstate == AUDIT_ROW_NOT_PERMITTED


@pytest.mark.parametrize(
    ("hours_off", "edit", "cause"),
    [
        pytest.param(1, {}, r"MF032: .* more than 5 minutes ahead", id="a fast clock"),
        pytest.param(-25, {}, r"MF032: .* more than a day behind", id="a slow clock"),
        pytest.param(0, {"hash": bytes(32)}, r"MF033: a hash is not that of its row", id="another way to hash"),
    ],
)
async def test_the_edge_gives_up_such_a_row_and_keeps_its_chain(
    owner: psycopg.Connection, module_database: Database, chain: Chain, hours_off: int, edit: dict[str, Any], cause: str
) -> None:
    """No repetition and no new chain makes it acceptable: such a replica withholds answers, opens no chains, and says why."""
    edge = EdgeDatabase(module_database.url("mosaic_edge_inbound"), application="test", connections=1)
    await edge.open()
    try:
        [sealed] = seal(chain, 1, time_us=now_us(owner) + hours_off * 3_600_000_000)
        with pytest.raises(RowsRefused, match=cause):
            await PostgresAuditStore(edge).append(chain, [replace(sealed, **edit)])
    finally:
        await edge.close()


@pytest.mark.parametrize(("seconds", "limit"), [(None, "2s"), (1.0, "1s")])
async def test_an_edges_sessions_plan_once_and_commit_to_disk(module_database: Database, seconds: float | None, limit: str) -> None:
    """What each session says of itself: the planner knows no better after it has looked at one grant's values than before."""
    edge = EdgeDatabase(module_database.url("mosaic_edge_inbound"), application="test", connections=1, statement_seconds=seconds)
    await edge.open()
    try:
        settings = ("plan_cache_mode", "synchronous_commit", "statement_timeout", "application_name")
        (said,) = await edge.fetch(f"SELECT {', '.join(f'current_setting({name!r})' for name in settings)}")
    finally:
        await edge.close()
    assert tuple(said) == ("force_generic_plan", "on", limit, "test")


OF_TWO_ROWS: Final = """
    SELECT federation.append_audit(%s, 1, %s, {})
    FROM (SELECT ARRAY(SELECT r FROM json_populate_recordset(NULL::federation.audit_entry, %s) r) AS rows) made"""


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param("('[0:1]=' || made.rows::text)::federation.audit_entry[]", id="numbered from zero"),
        pytest.param("ARRAY[made.rows, made.rows]", id="two arrays"),
        pytest.param("made.rows || NULL::federation.audit_entry", id="none at the end"),
        pytest.param("NULL::federation.audit_entry || made.rows", id="none at the beginning"),
        pytest.param("NULL", id="nothing at all"),
    ],
)
def test_rows_of_another_shape_do_not_move_the_head(
    owner: psycopg.Connection, inbound: psycopg.Connection, chain: Chain, rows: str
) -> None:
    """Where the last row is not the last element, or no row: the head never gets ahead of the rows."""
    batch = seal(chain, 2)
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(OF_TWO_ROWS.format(rows).encode(), (chain.chain_id, chain.head, rows_json(batch)))
    assert refused.value.sqlstate in {AUDIT_NOT_CONTINUOUS, AUDIT_HASH_WRONG, AUDIT_ROW_NOT_PERMITTED, "23502"}
    assert stored(owner, chain) == []
    inbound.execute(OF_TWO_ROWS.format("made.rows").encode(), (chain.chain_id, chain.head, rows_json(batch)))
    assert len(stored(owner, chain)) == 2


SIGN_HEAD: Final = (
    "INSERT INTO federation.federation_audit_heads (chain_id, chain_number, seq, hash, time_us, signature)"
    " SELECT chain_id, chain_number, head_seq, head_hash, 0, %s FROM federation.federation_audit_chains WHERE chain_id = %s"
)


def test_a_writer_that_keeps_its_transaction_open_delays_no_countersignature(module_database: Database, chain: Chain) -> None:
    """A broken edge that appends and does not commit holds up neither its own chain's head nor anybody else's."""
    others = open_chain(module_database, "edge-outbound")
    batch = seal(chain, 2)
    with (
        psycopg.connect(module_database.url("mosaic_edge_inbound")) as broken,
        module_database.connect("mosaic_grants") as grants,
    ):
        append(broken, batch[:1])
        broken.commit()
        append(broken, batch[1:])
        grants.execute("SET lock_timeout = '200ms'")
        for each in (chain, others):
            grants.execute(SIGN_HEAD, (bytes(64), each.chain_id))
        broken.rollback()
