"""The last guard: what the read functions give, and to whom."""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
import pytest
from mosaic_common.db.sqlstates import CALL_OUT_OF_BOUNDS, REFUSALS
from mosaic_common.errors import Layer, Reason
from mosaic_common.resources import REGISTRY
from mosaic_federation_edge.domain.pages import MAX_PAGE_BYTES
from mosaic_grants.adapters.schema.functions import PAGE_BYTES
from psycopg.rows import dict_row

from tests.support.grant_states import OUT_OF_SCOPE, REFUSED, Change, revoked, superseded
from tests.support.postgres import Database, edge
from tests.support.rows import Rows, WrittenGrant
from tests.support.written import NOW, Written, draw_rule, draw_scope, draw_world, newest_first, seen_by, within_filter

OF_A_RESOURCE: Final = [
    "list_tasks(%s, %s, 50, NULL, NULL, 0)",
    "get_tasks(%s, %s, gen_random_uuid())",
    "search_tasks(%s, %s, 'title', 50)",
]


@pytest.fixture(scope="module")
def rows(module_database: Database) -> Iterator[Rows]:
    with module_database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
def inbound(module_database: Database) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with edge(module_database, "mosaic_edge_inbound") as connection:
        yield connection


@pytest.fixture(scope="module")
def outbound(module_database: Database) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with edge(module_database, "mosaic_edge_outbound") as connection:
        yield connection


@pytest.fixture(scope="module")
def ledger(module_database: Database) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with module_database.connect("mosaic_grants") as connection:
        yield connection


def get_row(
    connection: psycopg.Connection[dict[str, Any]], grant: WrittenGrant, row_id: UUID, resource: str = "tasks"
) -> dict[str, Any]:
    statement = f"SELECT * FROM federation.get_{resource}(%s, %s, %s)"
    (answer,) = connection.execute(statement, (grant.id, grant.fingerprint, row_id)).fetchall()
    return answer


def absent() -> Written:
    return Written(uuid4(), uuid4(), None, NOW)


def locate(ledger: psycopg.Connection[tuple[Any, ...]], resource: str, user: UUID, scope: dict[str, Any], row_id: UUID) -> object:
    row = ledger.execute(f"SELECT federation.locate_{resource}(%s, %s, %s)", (user, json.dumps(scope), row_id)).fetchone()
    assert row is not None
    return row[0]


def count(
    ledger: psycopg.Connection[tuple[Any, ...]],
    resource: str,
    user: UUID,
    scope: dict[str, Any],
    against: dict[str, Any] | None = None,
) -> tuple[Any, ...] | None:
    statement = f"SELECT * FROM federation.count_{resource}(%s, %s, %s)"
    documents = json.dumps(scope), None if against is None else json.dumps(against)
    return ledger.execute(statement, (user, *documents)).fetchone()


def list_rows(
    connection: psycopg.Connection[dict[str, Any]],
    grant: WrittenGrant,
    resource: str = "tasks",
    *,
    limit: int = 50,
    after: tuple[int, str] | None = None,
    served: int = 0,
) -> list[dict[str, Any]]:
    statement = f"SELECT * FROM federation.list_{resource}(%s, %s, %s, %s, %s, %s)"
    position = after or (None, None)
    return connection.execute(statement, (grant.id, grant.fingerprint, limit, *position, served)).fetchall()


def walk(connection: psycopg.Connection[dict[str, Any]], grant: WrittenGrant, resource: str, limit: int) -> tuple[list[str], bool]:
    """All pages of one query as the edge walks them: the ids, and whether the cap hid a row."""
    ids: list[str] = []
    after: tuple[int, str] | None = None
    while True:
        got = list_rows(connection, grant, resource, limit=limit, after=after, served=len(ids))
        if not got:
            return ids, False
        found, budget = got[0]["found"], got[0]["budget"]
        assert found is None or found > len(got)
        assert budget is None or budget <= limit
        page = got[: limit if budget is None else budget]
        ids += [row["id"] for row in page]
        if (len(got) if found is None else found) == len(page):
            return ids, False
        if len(page) == budget:
            return ids, True
        after = page[-1]["updated_at_us"], page[-1]["id"]


@pytest.mark.parametrize("seed", range(12))
def test_gives_exactly_what_the_model_allows(
    rows: Rows,
    inbound: psycopg.Connection[dict[str, Any]],
    outbound: psycopg.Connection[dict[str, Any]],
    ledger: psycopg.Connection[tuple[Any, ...]],
    seed: int,
) -> None:
    """Whatever the owners, teams, filters, caps, page sizes and equal times: native visibility ∩ filter, capped, in order.

    A row by its id, its whereabouts and the counts of preview agree with what is listed.
    """
    choose = random.Random(seed)
    world = draw_world(rows, choose)
    resource = world.resource
    for _ in range(12):
        subject = choose.choice(world.people)
        visible = seen_by(rows, world, subject)
        rule = draw_rule(world, choose)
        scope = draw_scope(world, rule, choose)
        cap = scope["max_rows_per_query"]
        shown = within_filter(visible, subject, rule)
        expected = newest_first(shown)

        grant = rows.grant(subject, scope)
        ids, truncated = walk(inbound, grant, resource, limit=choose.choice([1, 3, 10, 50]))
        assert ids == expected[:cap]
        assert truncated == (len(expected) > cap)

        local = outbound.execute(f"SELECT * FROM federation.local_list_{resource}(%s, 500, NULL, NULL)", (subject,)).fetchall()
        assert [row["id"] for row in local] == newest_first(visible)

        for row in (*choose.sample(world.written, min(8, len(world.written))), absent()):
            expected_visibility = "visible" if row in shown else "out_of_scope" if row in visible else "not_visible"
            got = get_row(inbound, grant, row.id, resource)
            assert (got["visibility"], got["id"]) == (expected_visibility, str(row.id) if row in shown else None)
            assert row in shown or {*got.values()} == {None, expected_visibility}
            assert locate(ledger, resource, subject, scope, row.id) == expected_visibility
            at_home = outbound.execute(f"SELECT * FROM federation.local_get_{resource}(%s, %s)", (subject, row.id)).fetchone()
            assert at_home is not None
            assert (at_home["visibility"], at_home["id"]) == (("visible", str(row.id)) if row in visible else ("not_visible", None))

        other_rule = draw_rule(world, choose)
        others = within_filter(visible, subject, other_rule)
        both = [row for row in shown if row in others]
        assert count(ledger, resource, subject, scope) == (len(shown), None, None)
        against = draw_scope(world, other_rule, choose)
        assert count(ledger, resource, subject, scope, against) == (len(shown), len(others), len(both))


@pytest.mark.parametrize(("change", "sqlstate"), REFUSED)
@pytest.mark.parametrize("function", [*OF_A_RESOURCE, "capabilities(%s, %s)"])
def test_gives_nothing_without_a_live_grant(
    rows: Rows,
    inbound: psycopg.Connection[dict[str, Any]],
    function: str,
    change: Change,
    sqlstate: str,
) -> None:
    """Whoever has anything but a live grant and its live certificate gets a refusal that says why, in the contract's order."""
    grant = rows.grant(rows.user())
    assert inbound.execute(f"SELECT * FROM federation.{function}", (grant.id, grant.fingerprint)) is not None

    asked = change(rows, grant)
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(f"SELECT * FROM federation.{function}", (asked.id, asked.fingerprint))
    assert refused.value.sqlstate == sqlstate
    assert sqlstate in REFUSALS


@pytest.mark.parametrize("change", OUT_OF_SCOPE)
@pytest.mark.parametrize("function", OF_A_RESOURCE)
def test_gives_nothing_of_a_resource_that_the_grant_does_not_show(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], function: str, change: Change
) -> None:
    """A resource outside the scope, or excluded from it, is refused though the grant lives; capabilities are answered."""
    subject = rows.user()
    rows.resource("tasks", subject)
    grant = change(rows, rows.grant(subject))
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(f"SELECT * FROM federation.{function}", (grant.id, grant.fingerprint))
    refusal = REFUSALS[str(refused.value.sqlstate)]
    assert (refusal.layer, refusal.reason) == (Layer.SCOPE, Reason.RESOURCE_NOT_GRANTED)
    assert inbound.execute("SELECT * FROM federation.capabilities(%s, %s)", (grant.id, grant.fingerprint)).rowcount == 1


def test_a_superseded_certificate_reads_for_a_day(rows: Rows, inbound: psycopg.Connection[dict[str, Any]]) -> None:
    """A renewal cuts off nobody who still presents the certificate before."""
    subject = rows.user()
    task = rows.resource("tasks", subject)
    grant = superseded(23.99)(rows, rows.grant(subject))
    assert [row["id"] for row in list_rows(inbound, grant)] == [str(task)]


def test_every_refusal_is_an_entry_of_the_denial_table() -> None:
    """What the database says, the edge can say to the peer."""
    assert {param.values[1] for param in REFUSED} | {"MF009"} == set(REFUSALS)


def test_a_revocation_holds_on_a_connection_with_an_old_snapshot(rows: Rows, module_database: Database) -> None:
    """A broken edge cannot outlive a revocation by keeping a transaction open: an older snapshot does not read."""
    subject = rows.user()
    rows.resource("tasks", subject)
    grant = rows.grant(subject)
    with psycopg.connect(module_database.url("mosaic_edge_inbound"), row_factory=dict_row) as holding:
        assert len(list_rows(holding, grant)) == 1
        revoked(rows, grant)
        with pytest.raises(psycopg.Error) as refused:
            list_rows(holding, grant)
        assert refused.value.sqlstate == "MF003"
        holding.rollback()

        holding.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with pytest.raises(psycopg.Error) as refused:
            list_rows(holding, grant)
        assert refused.value.sqlstate == CALL_OUT_OF_BOUNDS


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param("0, NULL, NULL, 0", id="no rows"),
        pytest.param("-1, NULL, NULL, 0", id="negative limit"),
        pytest.param("501, NULL, NULL, 0", id="more than a page may hold"),
        pytest.param("NULL, NULL, NULL, 0", id="no limit is not every row"),
        pytest.param("50, NULL, NULL, -1", id="fewer than no rows served would raise the cap"),
        pytest.param("50, NULL, NULL, NULL", id="an unknown number served"),
        pytest.param("50, 1, NULL, 0", id="half a keyset"),
        pytest.param("50, 9223372036854775807, gen_random_uuid(), 0", id="a time past year 9999"),
    ],
)
def test_refuses_bounds_that_no_caller_may_use(rows: Rows, inbound: psycopg.Connection[dict[str, Any]], arguments: str) -> None:
    """A limit, a keyset or a count out of bounds is an error, never a different amount of rows."""
    grant = rows.grant(rows.user())
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(f"SELECT * FROM federation.list_tasks(%s, %s, {arguments})", (grant.id, grant.fingerprint))
    assert refused.value.sqlstate == CALL_OUT_OF_BOUNDS


@pytest.mark.parametrize("resource", REGISTRY)
def test_answers_hold_text_and_integers_and_no_secret(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], resource: str
) -> None:
    """Every column that a message has, none that is secret, and nothing that Python has to decode."""
    subject = rows.user()
    team = rows.team(subject)
    row = rows.resource(resource, subject, team, NOW + timedelta(microseconds=7))
    (answer,) = list_rows(inbound, rows.grant(subject), resource)
    own = {f"{each.name}_us" if each.type == "timestamptz" else each.name for each in REGISTRY[resource].returned}
    assert set(answer) == {"id", "updated_at_us", "owner_id", "team_id", "found", "budget"} | own
    assert all(isinstance(value, str | int | None) for value in answer.values())
    assert not {column.name for column in REGISTRY[resource].secret} & set(answer.values())
    assert (answer["id"], answer["owner_id"], answer["team_id"]) == (str(row), str(subject), str(team))
    assert answer["updated_at_us"] == int(NOW.timestamp()) * 1_000_000 + 7


@pytest.mark.parametrize("time", ["infinity", "-infinity", "12026-01-01"])
def test_one_row_with_an_impossible_time_spoils_no_list(rows: Rows, inbound: psycopg.Connection[dict[str, Any]], time: str) -> None:
    """A time that has no int64, or lies past year 9999, hides its row; everybody else's stay."""
    subject = rows.user()
    rows.resource("tasks", subject, updated_at=time)
    task = rows.resource("tasks", subject, updated_at=NOW)
    rows.owner.execute("UPDATE public.tasks SET due_at = 'infinity' WHERE id = %s", (task,))
    (answer,) = list_rows(inbound, rows.grant(subject))
    assert (answer["id"], answer["due_at_us"]) == (str(task), None)


KIB: Final = 1024
MIB: Final = 1024 * KIB


def large_tasks(rows: Rows, sizes: Sequence[int]) -> tuple[UUID, list[str]]:
    """A user with tasks whose texts have so many bytes, newest first; what they hold cannot be compressed."""
    subject, ids = rows.user(), []
    for age, size in enumerate(sizes):
        ids.append(str(rows.resource("tasks", subject, updated_at=NOW - timedelta(hours=age))))
        rows.owner.execute(
            "UPDATE public.tasks SET title = '', status = '', description = %s WHERE id = %s",
            (random.Random(age).randbytes(size // 2).hex(), ids[-1]),
        )
    return subject, ids


def text_bytes(got: Sequence[dict[str, Any]]) -> int:
    return sum(len(row[name] or "") for row in got for name in ("title", "description", "status"))


@pytest.mark.parametrize(
    ("sizes", "pages"),
    [
        pytest.param([512 * KIB] * 7, [2, 2, 2, 1], id="two rows make a mebibyte"),
        pytest.param([3 * MIB, 3 * MIB, 2], [1, 1, 1], id="a row above the bound comes alone"),
        pytest.param([2] * 5 + [MIB] + [2] * 3, [5, 1, 3], id="a large row among small ones"),
        pytest.param([MIB - 2, 2, 2], [2, 1], id="to the byte"),
        pytest.param([0, 0, MIB, 2], [3, 1], id="rows without text before a large one"),
    ],
)
def test_a_call_gives_a_mebibyte_of_text_but_at_least_one_row(
    rows: Rows,
    inbound: psycopg.Connection[dict[str, Any]],
    outbound: psycopg.Connection[dict[str, Any]],
    sizes: list[int],
    pages: list[int],
) -> None:
    """Rows that no page can hold never leave the database; the caller learns that they are there, and paging gives each once."""
    subject, ids = large_tasks(rows, sizes)
    grant, served, got = rows.grant(subject), 0, list[dict[str, Any]]()
    for length in pages:
        after = (got[-1]["updated_at_us"], got[-1]["id"]) if got else None
        got = list_rows(inbound, grant, limit=500, after=after, served=served)
        statement = "SELECT * FROM federation.local_list_tasks(%s, 500, %s, %s)"
        local = outbound.execute(statement, (subject, *(after or (None, None)))).fetchall()
        assert [row["id"] for row in got] == [row["id"] for row in local] == ids[served : served + length]
        left = len(sizes) - served
        assert {row["found"] for row in (*got, *local)} == {None if left == length else left}
        assert len(got) == 1 or text_bytes(got) <= MIB
        served += length
    assert served == len(sizes)
    assert walk(inbound, grant, "tasks", 500) == (ids, False)
    capped = rows.grant(subject, {"resources": ["tasks"], "max_rows_per_query": len(sizes) - 1})
    assert walk(inbound, capped, "tasks", 500) == (ids[:-1], True)


def test_rows_without_text_take_no_room_and_are_no_excuse(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], outbound: psycopg.Connection[dict[str, Any]]
) -> None:
    """A row larger than a page comes with the empty ones before it, alone of those that have any text."""
    subject, ids = large_tasks(rows, [0, MIB, 2])
    rows.owner.execute("UPDATE public.tasks SET title = description WHERE id = %s", (ids[1],))
    local = outbound.execute("SELECT * FROM federation.local_list_tasks(%s, 500, NULL, NULL)", (subject,)).fetchall()
    for got in (list_rows(inbound, rows.grant(subject), limit=500), local):
        assert [row["id"] for row in got] == ids[:2]
        assert {row["found"] for row in got} == {3}


def test_a_text_that_is_null_takes_no_room(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], outbound: psycopg.Connection[dict[str, Any]]
) -> None:
    """An application's own tables may leave a text null; a page of such rows is as long as any other."""
    rows.owner.execute("ALTER TABLE public.tasks ALTER COLUMN description DROP NOT NULL")
    subject = rows.user()
    ids = {str(rows.resource("tasks", subject, updated_at=NOW - timedelta(hours=age))) for age in range(20)}
    rows.owner.execute("UPDATE public.tasks SET title = 'Water the plants', description = NULL WHERE owner_id = %s", (subject,))
    grant = rows.grant(subject)
    assert {row["id"] for row in list_rows(inbound, grant, limit=500)} == ids
    for connection, statement, whose in (
        (outbound, "local_list_tasks(%s, 500, NULL, NULL)", (subject,)),
        (outbound, "local_search_tasks(%s, 'water', 500)", (subject,)),
        (inbound, "search_tasks(%s, %s, 'water', 500)", (grant.id, grant.fingerprint)),
    ):
        assert {row["id"] for row in connection.execute(f"SELECT * FROM federation.{statement}", whose).fetchall()} == ids


def test_what_a_call_leaves_out_is_not_fetched(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], module_database: Database
) -> None:
    """A peer of whom 100 rows of 512 kB are visible does not make the server read 50 MB to send one."""
    subject, _ = large_tasks(rows, [512 * KIB] * 100)
    grant = rows.grant(subject)
    with module_database.connect_superuser() as superuser:
        before = blocks_of_large_texts(inbound, superuser)
        assert len(list_rows(inbound, grant, limit=500)) == 2
        fetched = blocks_of_large_texts(inbound, superuser) - before
    assert 2 * MIB // 2 // (8 * KIB) <= fetched < 4 * MIB // (8 * KIB)


def blocks_of_large_texts(edge: psycopg.Connection[dict[str, Any]], superuser: psycopg.Connection) -> int:
    """Blocks (8 kB) of texts stored outside their rows that were read, from disk or memory, since the database is there."""
    edge.execute("SELECT pg_stat_force_next_flush()")
    superuser.execute("SELECT pg_stat_clear_snapshot()")
    row = superuser.execute(
        "SELECT toast_blks_read + toast_blks_hit FROM pg_statio_all_tables WHERE relid = 'public.tasks'::regclass"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("is_there", [True, False])
def test_a_get_costs_the_same_however_many_rows_there_are(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], module_database: Database, is_there: bool
) -> None:
    """By the row's key: 20,000 further rows of the subject's own and of their team are not looked through for it."""
    subject = rows.user()
    team = rows.team(subject)
    insert = """INSERT INTO public.tasks (owner_id, team_id, updated_at, title, description, status)
        SELECT %s, CASE WHEN n %% 2 = 0 THEN %s::uuid END, now(), '', '', '' FROM generate_series(1, 20000) n"""
    rows.owner.execute(insert, (subject, team))
    rows.owner.execute("VACUUM ANALYZE public.tasks")
    asked = rows.resource("tasks", subject, team) if is_there else uuid4()
    for scope in (
        {"resources": ["tasks"], "max_rows_per_query": 10},
        {"resources": ["tasks"], "filters": {"tasks": {"include_teams": [str(team)]}}, "max_rows_per_query": 10},
    ):
        grant = rows.grant(subject, scope)
        with module_database.connect_superuser() as superuser:
            before = index_entries(inbound, superuser)
            assert (get_row(inbound, grant, asked)["visibility"] == "visible") is is_there
            assert index_entries(inbound, superuser) - before <= 4


def index_entries(edge: psycopg.Connection[dict[str, Any]], superuser: psycopg.Connection) -> int:
    """Entries of the indexes of tasks that were read, since the database is there."""
    edge.execute("SELECT pg_stat_force_next_flush()")
    superuser.execute("SELECT pg_stat_clear_snapshot()")
    row = superuser.execute(
        "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relid = 'public.tasks'::regclass"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_the_edge_ends_its_pages_where_the_database_does() -> None:
    """One bound: a page that the database gave whole is at most cut by what the messages add."""
    assert PAGE_BYTES == MAX_PAGE_BYTES == MIB


@pytest.mark.parametrize(
    "function",
    [
        "local_list_tasks(%s, 50, NULL, NULL)",
        "local_get_tasks(%s, gen_random_uuid())",
        "local_search_tasks(%s, 'title', 50)",
        "local_search_memory(%s, 'title', NULL, 50)",
    ],
)
def test_a_local_user_who_is_disabled_or_unknown_reads_nothing(
    rows: Rows, outbound: psycopg.Connection[dict[str, Any]], function: str
) -> None:
    """Local reads ask the same of their user as federated reads of their subject."""
    for user in (rows.user(active=False), uuid4()):
        with pytest.raises(psycopg.Error) as refused:
            outbound.execute(f"SELECT * FROM federation.{function}", (user,))
        assert REFUSALS[str(refused.value.sqlstate)].reason is Reason.SUBJECT_INACTIVE


def test_capabilities_say_what_the_grant_row_says(rows: Rows, inbound: psycopg.Connection[dict[str, Any]]) -> None:
    """Scope as text, the end in microseconds, the cap: read from the grant, not from anything a caller gave."""
    grant = rows.grant(rows.user(), {"resources": ["notes"], "max_rows_per_query": 7})
    end = datetime(2099, 1, 2, 3, 4, 5, 600_007, tzinfo=UTC)
    rows.owner.execute("UPDATE federation.federation_grants SET expires_at = %s WHERE id = %s", (end, grant.id))
    (answer,) = inbound.execute("SELECT * FROM federation.capabilities(%s, %s)", (grant.id, grant.fingerprint)).fetchall()
    assert answer == {
        "scope": '{"resources": ["notes"], "max_rows_per_query": 7}',
        "expires_at_us": int(end.timestamp()) * 1_000_000 + 600_007,
        "cap": 7,
    }


def test_what_a_session_sets_does_not_change_what_a_function_reads(rows: Rows, module_database: Database) -> None:
    """Search path and temporary names of a broken edge stay outside: a definer function resolves nothing in them."""
    subject = rows.user()
    rows.resource("tasks", subject)
    grant = rows.grant(subject)
    with psycopg.connect(module_database.url("mosaic_edge_inbound"), autocommit=True, row_factory=dict_row) as edge:
        for setting in ("search_path = pg_temp, public", "standard_conforming_strings = off", "datestyle = 'German, DMY'"):
            edge.execute(f"SET {setting}")
        assert len(list_rows(edge, grant)) == 1


@pytest.mark.parametrize("time", ["infinity", "-infinity", "12026-01-01"])
def test_what_no_list_shows_nothing_else_shows(
    rows: Rows,
    inbound: psycopg.Connection[dict[str, Any]],
    ledger: psycopg.Connection[tuple[Any, ...]],
    time: str,
) -> None:
    """A row with an impossible time is not there by its id, not counted and not found: preview counts what paging gives."""
    subject = rows.user()
    row = rows.resource("tasks", subject, updated_at=time)
    scope = {"resources": ["tasks"], "max_rows_per_query": 5}
    grant = rows.grant(subject, scope)
    assert get_row(inbound, grant, row)["visibility"] == "not_visible"
    assert locate(ledger, "tasks", subject, scope, row) == "not_visible"
    assert count(ledger, "tasks", subject, scope, scope) == (0, 0, 0)
    assert inbound.execute("SELECT FROM federation.search_tasks(%s, %s, 'title', 5)", (grant.id, grant.fingerprint)).rowcount == 0


def test_the_cap_hides_no_row_from_get(rows: Rows, inbound: psycopg.Connection[dict[str, Any]]) -> None:
    """A cap of one row shows the newest in a list, and any by its id."""
    subject = rows.user()
    oldest = [rows.resource("tasks", subject, updated_at=NOW - timedelta(hours=age)) for age in range(3)][-1]
    grant = rows.grant(subject, {"resources": ["tasks"], "max_rows_per_query": 1})
    assert get_row(inbound, grant, oldest)["visibility"] == "visible"


@pytest.mark.parametrize("resource", REGISTRY)
def test_a_row_by_its_id_is_the_row_of_the_list(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], outbound: psycopg.Connection[dict[str, Any]], resource: str
) -> None:
    """The same columns with the same values, none of them secret."""
    subject = rows.user()
    row = rows.resource(resource, subject, rows.team(subject), NOW)
    grant = rows.grant(subject)
    (listed,) = list_rows(inbound, grant, resource)
    expected = {name: value for name, value in listed.items() if name not in {"found", "budget"}} | {"visibility": "visible"}
    assert get_row(inbound, grant, row, resource) == expected
    local = outbound.execute(f"SELECT * FROM federation.local_get_{resource}(%s, %s)", (subject, row)).fetchall()
    assert local == [expected]


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"resources": ["notes"], "max_rows_per_query": 5}, id="names another resource"),
        pytest.param({"resources": ["tasks"], "excluded_resources": ["tasks"], "max_rows_per_query": 5}, id="excludes it"),
        pytest.param({"resources": ["tasks"], "filters": {"tasks": None}, "max_rows_per_query": 5}, id="a filter that is none"),
        pytest.param({}, id="says nothing"),
    ],
)
def test_a_scope_that_does_not_show_the_resource_counts_nothing(
    rows: Rows, ledger: psycopg.Connection[tuple[Any, ...]], document: dict[str, Any]
) -> None:
    """Preview of it is zero, on either side, and the user's row is out of its scope."""
    subject = rows.user()
    row = rows.resource("tasks", subject)
    whole = {"resources": ["tasks"], "max_rows_per_query": 5}
    assert count(ledger, "tasks", subject, document, whole) == (0, 1, 0)
    assert count(ledger, "tasks", subject, whole, document) == (1, 0, 0)
    assert locate(ledger, "tasks", subject, document, row) == "out_of_scope"


@pytest.mark.parametrize("function", ["count_tasks(%s, '{}', NULL)", "locate_tasks(%s, '{}', gen_random_uuid())"])
def test_nothing_is_counted_for_a_user_who_is_not_active(
    rows: Rows, ledger: psycopg.Connection[tuple[Any, ...]], function: str
) -> None:
    """Preview says of a disabled or unknown user what a read would."""
    for user in (rows.user(active=False), uuid4()):
        with pytest.raises(psycopg.Error) as refused:
            ledger.execute(f"SELECT * FROM federation.{function}", (user,))
        assert refused.value.sqlstate == "MF008"
