"""The search functions: what matches, among what is visible, in which order and at what cost."""

import math
import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from operator import mul
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from mosaic_common.db.sqlstates import CALL_OUT_OF_BOUNDS, QUERY_NOT_PARSED
from mosaic_common.errors import InvalidInput
from mosaic_common.resources import MAX_QUERY_CHARACTERS, REGISTRY
from mosaic_federation_edge.domain.search import MAX_EXCLUSIONS, parse_search
from mosaic_grants.adapters.schema.functions import searches
from mosaic_grants.adapters.schema.names import OWNER
from mosaic_grants.adapters.upgrade import upgrade

from tests.support.postgres import Database, edge
from tests.support.rows import Rows, WrittenGrant
from tests.support.written import NOW, draw_rule, draw_scope, draw_world, seen_by, within_filter

Edge = psycopg.Connection[dict[str, Any]]

KIB: Final = 1024
MIB: Final = 1024 * KIB
DIMENSION: Final = 384


@pytest.fixture(scope="module")
def rows(module_database: Database) -> Iterator[Rows]:
    with module_database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
def inbound(module_database: Database) -> Iterator[Edge]:
    with edge(module_database, "mosaic_edge_inbound") as connection:
        yield connection


@pytest.fixture(scope="module")
def outbound(module_database: Database) -> Iterator[Edge]:
    with edge(module_database, "mosaic_edge_outbound") as connection:
        yield connection


def search(
    connection: Edge,
    grant: WrittenGrant,
    query: str | None,
    resource: str = "tasks",
    *,
    embedding: Sequence[float] | None = None,
    limit: int = 500,
) -> list[dict[str, Any]]:
    near = ", %s::real[]" if REGISTRY[resource].embedding else ""
    arguments = (grant.id, grant.fingerprint, query, *([embedding] if near else []), limit)
    return connection.execute(f"SELECT * FROM federation.search_{resource}(%s, %s, %s{near}, %s)", arguments).fetchall()


def local_search(
    connection: Edge, user: UUID, query: str | None, resource: str = "tasks", embedding: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    near = ", %s::real[]" if REGISTRY[resource].embedding else ""
    arguments = (user, query, *([embedding] if near else []))
    return connection.execute(f"SELECT * FROM federation.local_search_{resource}(%s, %s{near}, 500)", arguments).fetchall()


def ids(got: Sequence[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in got]


def write(rows: Rows, resource: str, row: UUID, **values: object) -> None:
    assignments = ", ".join(f"{name} = %s" for name in values)
    rows.owner.execute(f"UPDATE {REGISTRY[resource].table} SET {assignments} WHERE id = %s".encode(), (*values.values(), row))


# ── what matches ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

VOCABULARY: Final = ("water", "watering", "plants", "the", "of", "boiler", "repair", "re-fit", "Ölwanne", "https://a.example/b")
QUERIES: Final = (
    "water",
    "plants water",
    '"water plants"',
    '"boiler of the repair"',
    "re-fit",
    "water -plants",
    "-water",
    '-"water plants"',
    "boiler or repair",
    '"water plants" or boiler -repair',
    "the",
    "",
    '"',
    "' owner:00000000-0000-0000-0000-000000000000",
    "x') | !('y",
    "water & ! | <-> :*",
    "ölwanne https://a.example/b",
)


@pytest.mark.parametrize("seed", range(12))
def test_finds_exactly_what_is_visible_and_matches(rows: Rows, inbound: Edge, outbound: Edge, seed: int) -> None:
    """Whatever owners, teams, filters, texts and queries: native visibility ∩ filter ∩ what PostgreSQL's @@ says of each row."""
    choose = random.Random(seed)
    world = draw_world(rows, choose)
    resource = REGISTRY[world.resource]
    texts = {}
    for row in world.written:
        values = {column.name: " ".join(choose.choices(VOCABULARY, k=choose.randint(0, 6))) for column in resource.searchable}
        write(rows, resource.name, row.id, **values)
        texts[row] = " ".join(values.values())
    for _ in range(12):
        subject, query = choose.choice(world.people), choose.choice(QUERIES)
        visible = seen_by(rows, world, subject)
        rule = draw_rule(world, choose)
        scope = draw_scope(world, rule, choose)

        def matching(shown: Sequence[Any], query: str = query) -> set[str]:
            return {str(row.id) for row in shown if matches(rows, texts[row], query)}

        expected = matching(within_filter(visible, subject, rule))
        cap = scope["max_rows_per_query"]
        got = search(inbound, rows.grant(subject, scope), query, resource.name)
        assert len(got) == min(len(expected), cap + 1)
        assert set(ids(got)) <= expected
        assert {(row["found"], row["budget"]) for row in got} <= {(len(expected), cap)}
        assert [row["rank"] for row in got] == sorted((row["rank"] for row in got), reverse=True)

        local = local_search(outbound, subject, query, resource.name)
        assert set(ids(local)) == matching(visible)
        assert len(local) == len(set(ids(local)))


def matches(rows: Rows, text: str, query: str) -> bool:
    statement = """SELECT numnode(asked) > 0 AND to_tsvector('english', %s) @@ asked
        FROM websearch_to_tsquery('english', %s) asked"""
    found = rows.owner.execute(statement, (text, query)).fetchone()
    return found == (True,)


def test_the_best_come_first_and_of_equals_the_newest(rows: Rows, inbound: Edge) -> None:
    """Words near each other rank higher; between equals the order is that of a list, so that two answers agree."""
    subject = rows.user()
    times = [NOW, NOW - timedelta(hours=1), NOW - timedelta(hours=1)]
    near, *equals = [rows.resource("tasks", subject, updated_at=time) for time in (NOW - timedelta(days=1), *times)]
    write(rows, "tasks", near, title="boiler repair", description="boiler repair")
    for row in equals:
        write(rows, "tasks", row, title="boiler", description="and, much later, after many other words, its repair")
    newest, *same = equals
    got = search(inbound, rows.grant(subject), "boiler repair")
    assert ids(got) == [str(near), str(newest), *sorted(map(str, same))]


def test_a_snippet_shows_the_matches_in_a_few_words(rows: Rows, inbound: Edge) -> None:
    """Between ** and **, with some words around, however long the row."""
    subject = rows.user()
    row = rows.resource("notes", subject)
    write(rows, "notes", row, title="House", body=f"{'before ' * 500} the boiler needs repair {'after ' * 500}")
    (found,) = search(inbound, rows.grant(subject), "repairs", "notes")
    assert "**repair**" in found["snippet"]
    assert len(found["snippet"].split()) <= 50
    assert found["distance"] is None


@pytest.mark.parametrize("resource", REGISTRY)
def test_answers_carry_the_columns_of_a_list_and_no_secret(rows: Rows, inbound: Edge, outbound: Edge, resource: str) -> None:
    """Each resource is searched in its searchable columns, and shows of a row what a list shows."""
    subject = rows.user()
    row = rows.resource(resource, subject)
    grant = rows.grant(subject)
    (listed,) = inbound.execute(
        f"SELECT * FROM federation.list_{resource}(%s, %s, 1, NULL, NULL, 0)", (grant.id, grant.fingerprint)
    ).fetchall()
    for column in REGISTRY[resource].searchable:
        write(rows, resource, row, **{column.name: "uncommonly"})
        (got,) = search(inbound, grant, "uncommonly", resource)
        assert set(got) == {*listed, "rank", "snippet", "distance"}
        assert got[column.name] == "uncommonly"
        (local,) = local_search(outbound, subject, "uncommonly", resource)
        assert set(local) == {*got} - {"budget"}
        write(rows, resource, row, **{column.name: "else"})
    for column in REGISTRY[resource].secret:
        assert search(inbound, grant, column.name, resource) == []


def test_a_text_of_any_length_can_be_written_and_its_beginning_is_searched(rows: Rows, inbound: Edge) -> None:
    """The index never refuses the application's row: a tsvector is bounded, texts are not."""
    subject = rows.user()
    words = (f"{number:x}\N{CJK UNIFIED IDEOGRAPH-20000}-{number:x}" for number in range(400_000))
    row = rows.resource("notes", subject)
    write(rows, "notes", row, title="beginning", body=f"{' '.join(words)} ending")
    grant = rows.grant(subject)
    assert ids(search(inbound, grant, "beginning", "notes")) == [str(row)]
    assert search(inbound, grant, "ending", "notes") == []


def test_a_call_gives_a_mebibyte_of_text_but_at_least_one_row(rows: Rows, inbound: Edge) -> None:
    """What no page can hold does not leave the database, a text above 1 MiB is cut, and the caller learns what else is there."""
    subject = rows.user()
    for age, size in enumerate([3 * MIB, 512 * KIB, 512 * KIB, 512 * KIB]):
        row = rows.resource("tasks", subject, updated_at=NOW - timedelta(hours=age))
        write(rows, "tasks", row, title="boiler", description="y" * size, status="")
    grant = rows.grant(subject)
    (alone,) = search(inbound, grant, "boiler")
    assert (len(alone["description"]), alone["description"][-1], alone["found"]) == (MIB // 4, "…", 4)
    write(rows, "tasks", UUID(alone["id"]), title="")
    got = search(inbound, grant, "boiler")
    assert (len(got), {row["found"] for row in got}) == (1, {3})


def test_only_the_newest_thousand_are_ranked(rows: Rows, inbound: Edge) -> None:
    """A word that is everywhere costs no more; that there is more is said."""
    subject = rows.user()
    rows.owner.execute(
        """INSERT INTO public.tasks (owner_id, updated_at, title, description, status)
           SELECT %s, %s - n * interval '1 second', CASE WHEN n > 1000 THEN 'boiler boiler' ELSE 'boiler' END, '', ''
           FROM generate_series(1, 1200) n""",
        (subject, NOW),
    )
    got = search(inbound, rows.grant(subject), "boiler", limit=50)
    assert len(got) == 51
    assert {row["found"] for row in got} == {1001}
    assert {row["title"] for row in got} == {"boiler"}


# ── what it costs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def fetched(database: Database, connection: Edge) -> tuple[int, int]:
    """Rows of tasks read by any index, and whole scans of the table, since the database is there."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    with database.connect_superuser() as superuser:
        row = superuser.execute(
            "SELECT idx_tup_fetch, seq_scan FROM pg_stat_user_tables WHERE relid = 'public.tasks'::regclass"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


@pytest.mark.parametrize("query", ["boiler", '"boiler repair"', "repair -plants", "-plants"])
def test_a_search_reads_no_row_of_anybody_else(database: Database, query: str) -> None:
    """Others' 20,000 rows with the same words cost nothing, and neither do one's own 2,000 without: one index knows both."""
    with database.connect() as owner, edge(database, "mosaic_edge_outbound") as outbound:
        rows = Rows(owner)
        subject, others = rows.user(), [rows.user() for _ in range(20)]
        insert = """INSERT INTO public.tasks (owner_id, updated_at, title, description, status)
            SELECT (%s::uuid[])[1 + n %% %s], now(), %s, '', '' FROM generate_series(1, %s) n"""
        owner.execute(insert, (others, 20, "boiler repair", 20_000))
        owner.execute(insert, ([subject], 1, "water plants", 2_000))
        owner.execute(insert, ([subject], 1, "boiler repair", 10))
        owner.execute("VACUUM ANALYZE public.tasks")
        assert len(local_search(outbound, subject, query)) == 10
        before = fetched(database, outbound)
        assert len(local_search(outbound, subject, query)) == 10
        read, scans = (after - then for after, then in zip(fetched(database, outbound), before, strict=True))
        assert (read <= 60, scans) == (True, 0), f"{read} rows, {scans} scans"


@pytest.mark.parametrize(
    ("teams", "found"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param(["joined"], 10, id="a team joined"),
        pytest.param(["left"], 10, id="a team left"),
        pytest.param(["joined", "left"], 20, id="both"),
    ],
)
@pytest.mark.parametrize("query", ["boiler", '"boiler repair"'])
def test_a_search_reads_no_own_row_that_the_filter_hides(database: Database, query: str, teams: list[str], found: int) -> None:
    """Where the filter shows none of 2,000 own rows with the same words, they cost nothing: no time tells of them."""
    with database.connect() as owner, edge(database, "mosaic_edge_inbound") as inbound:
        rows = Rows(owner)
        subject, colleague = rows.user(), rows.user()
        places = {"joined": rows.team(subject, colleague), "left": rows.team(colleague)}
        insert = """INSERT INTO public.tasks (owner_id, team_id, updated_at, title, description, status)
            SELECT %s, %s, now(), 'boiler repair', '', '' FROM generate_series(1, %s) n"""
        owner.execute(insert, (subject, None, 2_000))
        owner.execute(insert, (colleague, places["joined"], 10))
        owner.execute(insert, (subject, places["left"], 10))
        owner.execute(insert, (colleague, places["left"], 2_000))
        owner.execute("VACUUM ANALYZE public.tasks")
        rule = {"include_personal": False, "include_teams": [str(places[team]) for team in teams]}
        grant = rows.grant(subject, {"resources": ["tasks"], "filters": {"tasks": rule}, "max_rows_per_query": 500})
        assert len(search(inbound, grant, query)) == found
        before = fetched(database, inbound)
        assert len(search(inbound, grant, query)) == found
        read, scans = (after - then for after, then in zip(fetched(database, inbound), before, strict=True))
        assert (read <= 6 * found, scans) == (True, 0), f"{read} rows, {scans} scans"


# ── embeddings ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def direction(choose: random.Random) -> list[float]:
    return [choose.gauss(0, 1) for _ in range(DIMENSION)]


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    product: float = sum(map(mul, one, other))
    return 1 - product / math.hypot(*one) / math.hypot(*other)


def remember(rows: Rows, owner: UUID, embedding: Sequence[float] | None, content: str = "", team: UUID | None = None) -> str:
    row = rows.resource("memory", owner, team, NOW)
    write(rows, "memory", row, content=content, embedding=None if embedding is None else str(list(embedding)))
    return str(row)


def test_the_nearest_come_first(rows: Rows, inbound: Edge, outbound: Edge) -> None:
    """By cosine distance, whatever the lengths; a row without an embedding, or with one of no direction, is near to nothing."""
    choose = random.Random(1)
    subject, stranger = rows.user(), rows.user()
    target = direction(choose)
    written = {}
    for _ in range(30):
        embedding = [choose.choice([0.01, 1, 100]) * value for value in direction(choose)]
        written[remember(rows, subject, embedding)] = embedding
    remember(rows, subject, None)
    remember(rows, subject, [0.0] * DIMENSION)
    remember(rows, stranger, target)
    expected = sorted(written, key=lambda row: distance(target, written[row]))
    for scale in (1e-30, 1, 1e30):
        got = search(inbound, rows.grant(subject), None, "memory", embedding=[scale * value for value in target])
        assert ids(got) == expected
        for row in got:
            assert row["distance"] == pytest.approx(distance(target, written[row["id"]]), abs=1e-5)
            assert (row["rank"], row["snippet"]) == (pytest.approx(1 - row["distance"]), None)
    assert ids(local_search(outbound, subject, None, "memory", target)) == expected


def test_words_and_embedding_count_both(rows: Rows, inbound: Edge) -> None:
    """Reciprocal rank fusion: what both find comes before what one finds; each is listed once, with its distance if it has one."""
    choose = random.Random(2)
    subject, target = rows.user(), direction(random.Random(3))
    near = remember(rows, subject, [value + choose.gauss(0, 0.1) for value in target], "something else")
    both = remember(rows, subject, [value + choose.gauss(0, 0.5) for value in target], "the boiler")
    worded = remember(rows, subject, None, "boiler, and boiler again")
    got = search(inbound, rows.grant(subject), "boiler", "memory", embedding=target)
    assert ids(got)[0] == both
    assert sorted(ids(got)) == sorted([near, both, worded])
    assert got[0]["rank"] == pytest.approx(1 / 62 + 1 / 62)
    assert {row["id"]: row["distance"] is None for row in got} == {near: False, both: False, worded: True}
    assert {row["found"] for row in got} == {3}
    # Words that are too common leave the embedding alone to count.
    assert ids(search(inbound, rows.grant(subject), "the", "memory", embedding=target)) == [near, both]


def test_many_embeddings_are_searched_by_an_index_that_finds_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the bound the index is asked, in a session that has not loaded it: visible rows only, and nearly all of the nearest."""
    monkeypatch.setattr(searches, "EXACT_ROWS", 100)
    monkeypatch.setattr(searches, "EXPLORED", 20)  # the index's first yield is not enough: it has to go on
    upgrade(database.url(OWNER))
    choose = random.Random(4)
    with database.connect() as owner:
        rows = Rows(owner)
        subject, stranger = rows.user(), rows.user()
        team = rows.team(subject)
        places = [(subject, None), (stranger, team), (stranger, None), (subject, rows.team())]
        written = {}
        for number in range(1200):
            embedding = direction(choose)
            written[remember(rows, places[number % 4][0], embedding, team=places[number % 4][1])] = (embedding, number % 4)
        owner.execute("ANALYZE public.memory")
        scope = {"resources": ["memory"], "max_rows_per_query": 50, "filters": {"memory": {"include_teams": [str(team)]}}}
        for document, shown in ((scope, {0, 1}), ({**scope, "filters": {}}, {0, 1, 3})):
            target = direction(choose)
            visible = [row for row, (_, place) in written.items() if place in shown]
            expected = sorted(visible, key=lambda row: distance(target, written[row][0]))[:50]
            with edge(database, "mosaic_edge_inbound") as inbound:
                got = ids(search(inbound, rows.grant(subject, document), None, "memory", embedding=target))
            assert len(got) == 51
            assert set(got) <= set(visible)
            assert len(set(got) & set(expected)) >= 45


# ── what no caller may ask ────────────────────────────────────────────────────────────────────────────────────────────────────────

ONES: Final = "array_fill(1::real, ARRAY[384])"


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        pytest.param("tasks", "'a', 0", id="no rows"),
        pytest.param("tasks", "'a', 501", id="more than a page may hold"),
        pytest.param("tasks", "'a', NULL", id="no limit is not every row"),
        pytest.param("tasks", "NULL, 5", id="nothing asked"),
        pytest.param("tasks", f"repeat('a', {MAX_QUERY_CHARACTERS + 1}), 5", id="a query too long"),
        pytest.param("memory", "NULL, NULL, 5", id="neither words nor embedding"),
        pytest.param("memory", "NULL, array_fill(1::real, ARRAY[383]), 5", id="a dimension too few"),
        pytest.param("memory", "NULL, array_fill(1::real, ARRAY[1, 384]), 5", id="a matrix"),
        pytest.param("memory", "NULL, '{}', 5", id="no dimension"),
        pytest.param("memory", f"NULL, {ONES} || 1::real, 5", id="a dimension too many"),
        pytest.param("memory", f"NULL, 'NaN'::real || ({ONES})[2:], 5", id="not a number"),
        pytest.param("memory", f"NULL, 'infinity'::real || ({ONES})[2:], 5", id="infinite"),
        pytest.param("memory", f"NULL, '-infinity'::real || ({ONES})[2:], 5", id="infinite the other way"),
        pytest.param("memory", f"NULL, NULL::real || ({ONES})[2:], 5", id="a hole"),
        pytest.param("memory", "'a', array_fill(0::real, ARRAY[384]), 5", id="no direction"),
    ],
)
def test_refuses_bounds_that_no_caller_may_use(rows: Rows, inbound: Edge, outbound: Edge, function: str, arguments: str) -> None:
    """A limit, a query or an embedding out of bounds is an error, never a different search."""
    grant = rows.grant(rows.user())
    with pytest.raises(psycopg.Error) as refused:
        inbound.execute(f"SELECT * FROM federation.search_{function}(%s, %s, {arguments})", (grant.id, grant.fingerprint))
    assert refused.value.sqlstate == CALL_OUT_OF_BOUNDS
    with pytest.raises(psycopg.Error) as refused:
        outbound.execute(f"SELECT * FROM federation.local_search_{function}(%s, {arguments})", (grant.subject,))
    assert refused.value.sqlstate == CALL_OUT_OF_BOUNDS


STACK: Final = 32
"""Operators that PostgreSQL's parser keeps open at most (tsquery.c, STACKDEPTH)."""


@pytest.mark.parametrize("before", ["", "lighthouse ", "x or ", "x or lighthouse y ", '"a b" or "c d" ', '"a b" '])
@pytest.mark.parametrize("after", ["a", '"e f"', "a or b c -d"])
def test_what_the_parser_has_no_room_for_is_no_failure(rows: Rows, inbound: Edge, outbound: Edge, before: str, after: str) -> None:
    """One OR, one AND within it and as many minus signs as the edge lets through are parsed; a minus too many is told as that."""
    grant = rows.grant(rows.user())
    search(inbound, grant, before + "-" * MAX_EXCLUSIONS + after)
    local_search(outbound, grant.subject, before + "-" * MAX_EXCLUSIONS + after)
    too_many = before + "-" * (STACK + 1) + after
    with pytest.raises(psycopg.Error) as refused:
        search(inbound, grant, too_many)
    assert refused.value.sqlstate == QUERY_NOT_PARSED
    with pytest.raises(psycopg.Error) as refused:
        local_search(outbound, grant.subject, too_many)
    assert refused.value.sqlstate == QUERY_NOT_PARSED
    assert inbound.execute("SELECT 1").fetchone(), "the connection goes on"


def test_whatever_the_edge_lets_through_is_parsed(rows: Rows, inbound: Edge) -> None:
    """5,000 strings of what the parser of searches looks at, each with as many minus signs as there may be."""
    grant = rows.grant(rows.user())
    choose = random.Random(20310517)
    atoms = [
        "a",
        "or",
        "OR ",
        "-",
        "-",
        "--",
        "-" * 9,
        '"',
        " ",
        "(",
        ")",
        ":",
        "*",
        "&",
        "|",
        "!",
        "<->",
        "'",
        "\\",
        "the",
        "x-y",
        "é",
        "_",
    ]
    for _ in range(5_000):
        text = "".join(choose.choices(atoms, k=choose.choice([6, 12, 40, 120])))[:MAX_QUERY_CHARACTERS]
        try:
            asked = parse_search(["tasks"], text, [])
        except InvalidInput:
            continue
        search(inbound, grant, asked.text)
