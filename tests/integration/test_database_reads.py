"""The last guard: what the read functions give, and to whom."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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

from tests.support.postgres import Database
from tests.support.rows import Rows, WrittenGrant

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def rows(module_database: Database) -> Iterator[Rows]:
    with module_database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
def inbound(module_database: Database) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(module_database.url("mosaic_edge_inbound"), autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture(scope="module")
def outbound(module_database: Database) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(module_database.url("mosaic_edge_outbound"), autocommit=True, row_factory=dict_row) as connection:
        yield connection


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
        page = got[: min(limit, budget)]
        ids += [row["id"] for row in page]
        if found == len(page):
            return ids, False
        if len(page) == budget:
            return ids, True
        after = page[-1]["updated_at_us"], page[-1]["id"]


@dataclass(frozen=True, slots=True)
class Written:
    id: UUID
    owner: UUID
    team: UUID | None
    updated_at: datetime


def newest_first(visible: Sequence[Written]) -> list[str]:
    return [str(row.id) for row in sorted(visible, key=lambda row: (-row.updated_at.timestamp(), row.id.bytes))]


def natively_visible(written: Sequence[Written], subject: UUID, teams: set[UUID]) -> list[Written]:
    """contracts.md, Native RBAC: a row they own, or of a team they are a member of now."""
    return [row for row in written if row.owner == subject or row.team in teams]


def within_filter(visible: Sequence[Written], subject: UUID, rule: dict[str, Any] | None) -> list[Written]:
    if rule is None:
        return list(visible)
    included = {UUID(team) for team in rule.get("include_teams", [])}
    personal = rule.get("include_personal", True)
    return [row for row in visible if (row.team is None and row.owner == subject and personal) or row.team in included]


@pytest.mark.parametrize("seed", range(12))
def test_gives_exactly_what_the_model_allows(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], outbound: psycopg.Connection[dict[str, Any]], seed: int
) -> None:
    """Whatever the owners, teams, filters, caps, page sizes and equal times: native visibility ∩ filter, capped, in order."""
    choose = random.Random(seed)
    resource = choose.choice(list(REGISTRY))
    people = [rows.user() for _ in range(4)]
    teams = [rows.team(*choose.sample(people, choose.randint(0, 4))) for _ in range(5)]
    times = [NOW - timedelta(microseconds=choose.randint(0, 3)) for _ in range(3)] + [NOW + timedelta(days=9, microseconds=1)]
    written = []
    for _ in range(choose.randint(0, 60)):
        owner, team, time = choose.choice(people), choose.choice([None, *teams]), choose.choice(times)
        written.append(Written(rows.resource(resource, owner, team, time), owner, team, time))

    for _ in range(12):
        subject = choose.choice(people)
        memberships = rows.owner.execute("SELECT team_id FROM public.team_members WHERE user_id = %s", (subject,)).fetchall()
        visible = natively_visible(written, subject, {team for (team,) in memberships})
        rule: dict[str, Any] | None = choose.choice(
            [None, {}, {"include_teams": [str(team) for team in choose.sample(teams, choose.randint(0, 5))]}]
        )
        if rule is not None and choose.random() < 0.5:
            rule["include_personal"] = choose.random() < 0.5
        cap = choose.choice([1, 2, 7, 20, 500])
        scope = {"resources": [resource], "max_rows_per_query": cap, "filters": {} if rule is None else {resource: rule}}
        expected = newest_first(within_filter(visible, subject, rule))

        ids, truncated = walk(inbound, rows.grant(subject, scope), resource, limit=choose.choice([1, 3, 10, 50]))
        assert ids == expected[:cap]
        assert truncated == (len(expected) > cap)

        local = outbound.execute(f"SELECT * FROM federation.local_list_{resource}(%s, 500, NULL, NULL)", (subject,)).fetchall()
        assert [row["id"] for row in local] == newest_first(visible)


def sql(statement: str) -> Callable[[Rows, WrittenGrant], WrittenGrant]:
    """A change of the ledger; %(grant)s, %(peer)s, %(subject)s are the grant's."""

    def change(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
        rows.owner.execute(statement, {"grant": grant.id, "peer": grant.peer_id, "subject": grant.subject})
        return grant

    return change


def in_turn(*changes: Callable[[Rows, WrittenGrant], WrittenGrant]) -> Callable[[Rows, WrittenGrant], WrittenGrant]:
    def change(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
        for each in changes:
            grant = each(rows, grant)
        return grant

    return change


def other_grant_id(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
    return WrittenGrant(uuid4(), grant.fingerprint, grant.peer_id, grant.subject)


def never_pinned(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
    return WrittenGrant(grant.id, bytes(32), grant.peer_id, grant.subject)


def pinned_for_another_grant(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
    return WrittenGrant(grant.id, rows.grant(grant.subject).fingerprint, grant.peer_id, grant.subject)


pending = sql("UPDATE federation.federation_grants SET status = 'pending' WHERE id = %(grant)s")
revoked = sql("UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %(grant)s")
expired = sql("UPDATE federation.federation_grants SET status = 'expired' WHERE id = %(grant)s")
past_its_end = sql("UPDATE federation.federation_grants SET expires_at = now() WHERE id = %(grant)s")
peer_suspended = sql("UPDATE federation.federation_peers SET state = 'suspended' WHERE id = %(peer)s")
peer_pending = sql("UPDATE federation.federation_peers SET state = 'pending' WHERE id = %(peer)s")
peer_revoked = sql("UPDATE federation.federation_peers SET state = 'revoked', revoked_at = now() WHERE id = %(peer)s")
certificate_revoked = sql(
    "UPDATE federation.federation_certificates SET state = 'revoked', revoked_at = now() WHERE grant_id = %(grant)s"
)
certificate_expired = sql("UPDATE federation.federation_certificates SET not_after = now() WHERE grant_id = %(grant)s")
user_disabled = sql("UPDATE public.users SET active = false WHERE id = %(subject)s")
user_gone = sql("DELETE FROM public.users WHERE id = %(subject)s")


def superseded(hours: float) -> Callable[[Rows, WrittenGrant], WrittenGrant]:
    return sql(
        "UPDATE federation.federation_certificates SET state = 'superseded',"
        f" superseded_at = now() - interval '{hours} hours' WHERE grant_id = %(grant)s"
    )


def scope(document: str) -> Callable[[Rows, WrittenGrant], WrittenGrant]:
    return sql(f"UPDATE federation.federation_grants SET scope = '{document}' WHERE id = %(grant)s")


REFUSED = [
    pytest.param(other_grant_id, "MF001", id="grant unknown"),
    pytest.param(pending, "MF001", id="grant pending"),
    pytest.param(in_turn(pending, never_pinned), "MF001", id="pending is said before anything about the certificate"),
    pytest.param(never_pinned, "MF002", id="certificate never pinned"),
    pytest.param(pinned_for_another_grant, "MF002", id="certificate of another grant"),
    pytest.param(in_turn(revoked, never_pinned), "MF002", id="a stranger does not learn that the grant was revoked"),
    pytest.param(revoked, "MF003", id="grant revoked"),
    pytest.param(expired, "MF004", id="grant expired"),
    pytest.param(past_its_end, "MF004", id="grant past its end by the database's clock, nobody has marked it yet"),
    pytest.param(in_turn(revoked, peer_suspended), "MF003", id="the grant's end is said before the peer's state"),
    pytest.param(peer_pending, "MF005", id="peer pending"),
    pytest.param(peer_suspended, "MF005", id="peer suspended"),
    pytest.param(peer_revoked, "MF005", id="peer revoked"),
    pytest.param(in_turn(peer_suspended, certificate_revoked), "MF005", id="the peer's state is said before the certificate's"),
    pytest.param(certificate_revoked, "MF006", id="certificate revoked"),
    pytest.param(superseded(24.01), "MF006", id="certificate superseded more than a day ago"),
    pytest.param(certificate_expired, "MF007", id="certificate expired on an open connection"),
    pytest.param(in_turn(certificate_expired, user_disabled), "MF007", id="the certificate is judged before the user"),
    pytest.param(user_disabled, "MF008", id="subject user disabled"),
    pytest.param(user_gone, "MF008", id="subject user gone"),
]
OUT_OF_SCOPE = [
    pytest.param(scope('{"resources": ["notes"], "max_rows_per_query": 5}'), id="not in scope"),
    pytest.param(scope('{"resources": ["tasks"], "excluded_resources": ["tasks"], "max_rows_per_query": 5}'), id="excluded"),
    pytest.param(
        scope('{"resources": ["tasks"], "filters": {"tasks": null}, "max_rows_per_query": 5}'), id="a filter that is none"
    ),
]


@pytest.mark.parametrize(("change", "sqlstate"), REFUSED)
@pytest.mark.parametrize("function", ["list_tasks(%s, %s, 50, NULL, NULL, 0)", "capabilities(%s, %s)"])
def test_gives_nothing_without_a_live_grant(
    rows: Rows,
    inbound: psycopg.Connection[dict[str, Any]],
    function: str,
    change: Callable[[Rows, WrittenGrant], WrittenGrant],
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
def test_gives_nothing_of_a_resource_that_the_grant_does_not_show(
    rows: Rows, inbound: psycopg.Connection[dict[str, Any]], change: Callable[[Rows, WrittenGrant], WrittenGrant]
) -> None:
    """A resource outside the scope, or excluded from it, is refused though the grant lives; capabilities are answered."""
    subject = rows.user()
    rows.resource("tasks", subject)
    grant = change(rows, rows.grant(subject))
    with pytest.raises(psycopg.Error) as refused:
        list_rows(inbound, grant)
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
        assert {row["found"] for row in (*got, *local)} == {len(sizes) - served}
        assert len(got) == 1 or text_bytes(got) <= MIB
        served += length
    assert served == len(sizes)
    assert walk(inbound, grant, "tasks", 500) == (ids, False)
    capped = rows.grant(subject, {"resources": ["tasks"], "max_rows_per_query": len(sizes) - 1})
    assert walk(inbound, capped, "tasks", 500) == (ids[:-1], True)


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


def test_the_edge_ends_its_pages_where_the_database_does() -> None:
    """One bound: a page that the database gave whole is at most cut by what the messages add."""
    assert PAGE_BYTES == MAX_PAGE_BYTES == MIB


def test_a_local_user_who_is_disabled_or_unknown_reads_nothing(rows: Rows, outbound: psycopg.Connection[dict[str, Any]]) -> None:
    """Local reads ask the same of their user as federated reads of their subject."""
    for user in (rows.user(active=False), uuid4()):
        with pytest.raises(psycopg.Error) as refused:
            outbound.execute("SELECT * FROM federation.local_list_tasks(%s, 50, NULL, NULL)", (user,))
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
