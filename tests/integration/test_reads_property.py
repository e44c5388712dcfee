"""Whatever is written, granted and asked: the read functions give what the specification's sentences say, and nothing else.

The database's functions answer; tests/support/reference_reads.py says what they have to.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mosaic_common.resources import REGISTRY
from mosaic_grants.adapters.schema.functions import render_functions, searches

from tests.support.drawn_reads import DIRECTIONS, QUERIES, SUBJECT, TARGETS, Case, Change, cases, changes, scopes, untouched
from tests.support.postgres import Database
from tests.support.read_bed import INBOUND, LEDGER, OUTBOUND, Answer, ReadBed
from tests.support.reference_reads import (
    Asked,
    Hit,
    Key,
    Row,
    Scope,
    World,
    behind,
    fitting,
    located,
    native,
    visible,
)

Amount = settings
Ask = Callable[[int, Answer | None, int], list[Answer]]
"""Row limit, the last row served, how many were served → what the function answers."""

SOME: Final = settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
MANY: Final = settings(SOME, max_examples=800, derandomize=False)
RESOURCES: Final = st.sampled_from(list(REGISTRY))
LIMITS: Final = st.sampled_from([1, 2, 3, 7, 500])
CAREFUL: Final = 1e-5
"""pgvector computes in float32."""


@pytest.fixture(scope="module")
def bed(module_database: Database) -> Iterator[ReadBed]:
    with module_database.connect_superuser() as superuser:
        yield ReadBed(superuser)


@pytest.fixture(params=[pytest.param(SOME, id="some"), pytest.param(MANY, id="for long", marks=pytest.mark.stress)])
def amount(request: pytest.FixtureRequest) -> Amount:
    """How many examples; the same in each run, or others."""
    chosen: Amount = request.param
    return chosen


def own(answer: Answer) -> dict[str, Any]:
    """The row within an answer, without what the function says beside it."""
    return {
        name: value
        for name, value in answer.items()
        if name not in {"found", "budget", "rank", "snippet", "distance", "visibility"}
    }


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def key(answer: Answer) -> Key:
    return -answer["updated_at_us"], bytes.fromhex(answer["id"].replace("-", ""))


def walk(ask: Ask, shown: Callable[[World], list[Row]], world: World, limit: int, cap: int | None, change: Change) -> None:
    """Page through a list as an edge does; after each page the world changes.

    Every page is what the world shows behind the last row. Of all pages together: no row is given twice or left out, but one that
    has moved, come or gone meanwhile.
    """
    worlds_seen, served = [world], list[Answer]()
    while True:
        last = served[-1] if served else None
        remaining = limit if cap is None else cap - len(served)
        due = behind(shown(world), key(last) if last else None)[: min(limit, remaining) + 1]
        answers = ask(limit, last, len(served))
        assert [own(answer) for answer in answers] == [row.shown for row in fitting(due)]
        assert {answer["found"] for answer in answers} <= {None if len(answers) == len(due) else len(due)}
        assert cap is None or {answer["budget"] for answer in answers} <= {None if remaining > limit else remaining}
        page = answers[: min(limit, remaining)]
        served += page
        more = len(due) > len(page)
        if not more or (cap is not None and len(served) == cap):
            break
        world = change(world)
        worlds_seen.append(world)
    assert cap is None or len(served) <= cap
    throughout = [{(row.id, row.updated_at) for row in shown(each)} for each in worlds_seen]
    stayed = {str(row_id) for row_id, _ in set.intersection(*throughout)}
    given_ids = [answer["id"] for answer in served if answer["id"] in stayed]
    assert len(given_ids) == len(set(given_ids))
    assert more or set(given_ids) == stayed


def assert_lists(bed: ReadBed, case: Case, limit: int, change: Change = untouched) -> None:
    grant = bed.rows.grant(SUBJECT, case.scope)
    walk(
        lambda limit, last, served: bed.list_rows(grant, case.resource, limit, last, served),
        lambda world: visible(world, SUBJECT, case.resource, case.scope),
        case.world,
        limit,
        case.cap,
        change,
    )


def assert_lists_locally(bed: ReadBed, case: Case, limit: int, change: Change = untouched) -> None:
    walk(
        lambda limit, last, _: bed.local_list(SUBJECT, case.resource, limit, last),
        lambda world: native(world, SUBJECT, case.resource),
        case.world,
        limit,
        None,
        change,
    )


@pytest.mark.parametrize("assert_all", [assert_lists, assert_lists_locally])
@pytest.mark.parametrize("large", [pytest.param(0, id="small rows"), pytest.param(4, id="some that fill a page")])
def test_every_page_of_a_list_is_scope_and_native_rights_together(
    bed: ReadBed, amount: Amount, large: int, assert_all: Callable[[ReadBed, Case, int], None]
) -> None:
    """Newest first, then by id; page by page, up to the cap and 1 MiB at a time: each granted row once, and no other."""

    @amount
    @given(cases(RESOURCES, large=large), LIMITS)
    def holds(case: Case, limit: int) -> None:
        with bed.world(case.world):
            assert_all(bed, case, limit)

    holds()


@pytest.mark.parametrize("assert_all", [assert_lists, assert_lists_locally])
def test_no_row_is_skipped_or_given_twice_while_others_change(
    bed: ReadBed, amount: Amount, assert_all: Callable[[ReadBed, Case, int, Change], None]
) -> None:
    """Rows are written, moved in time, given away and deleted, teams joined and left between the pages of one query."""

    @amount
    @given(cases(st.just("tasks")), st.sampled_from([1, 2, 3]), st.lists(changes("tasks"), max_size=30))
    def holds(case: Case, limit: int, meanwhile: list[Change]) -> None:
        to_come = iter(meanwhile)

        def change(before: World) -> World:
            after = next(to_come, untouched)(before)
            bed.change(before, after)
            return after

        with bed.world(case.world):
            assert_all(bed, case, limit, change)

    holds()


# ── get, and what preview and explain ask ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_by_its_id_is_given_when_it_is_visible_and_then_only(bed: ReadBed, amount: Amount) -> None:
    """Whatever the cap: visible with the row; else nothing but whether the subject natively sees it. locate says the same."""

    @amount
    @given(cases(RESOURCES, most=12), st.uuids())
    def holds(case: Case, unknown: UUID) -> None:
        resource, world, scope = case.resource, case.world, case.scope
        rows = {unknown: None} | {row.id: row for row in world.rows}
        with bed.world(world):
            grant = bed.rows.grant(SUBJECT, scope)
            for row_id, row in rows.items():
                granted = located(world, SUBJECT, resource, scope, row_id)
                locally = "visible" if row in native(world, SUBJECT, resource) else "not_visible"
                for expected, asked in (
                    (granted, (INBOUND, f"get_{resource}", grant.id, grant.fingerprint, row_id)),
                    (locally, (OUTBOUND, f"local_get_{resource}", SUBJECT, row_id)),
                ):
                    [answer] = bed.ask(*asked)
                    shown = row.shown if row and expected == "visible" else dict.fromkeys(own(answer))
                    assert (answer["visibility"], own(answer)) == (expected, shown)
                [answer] = bed.ask(LEDGER, f"locate_{resource}", SUBJECT, json.dumps(scope), row_id)
                assert list(answer.values()) == [granted]

    holds()


def test_counts_are_those_of_paging_through_everything(bed: ReadBed, amount: Amount) -> None:
    """What preview counts of a scope, of another and of both; a scope without the resource shows none."""

    @amount
    @given(cases(RESOURCES), st.booleans(), st.none() | scopes(*REGISTRY))
    def holds(case: Case, is_first: bool, another: Scope | None) -> None:
        scope, against = (case.scope, another) if is_first or another is None else (another, case.scope)
        shown, other = (
            {row.id for row in visible(case.world, SUBJECT, case.resource, each)} if each else set[UUID]()
            for each in (scope, against)
        )
        with bed.world(case.world):
            arguments = (SUBJECT, json.dumps(scope), None if against is None else json.dumps(against))
            [answer] = bed.ask(LEDGER, f"count_{case.resource}", *arguments)
        both = (None, None) if against is None else (len(other), len(shown & other))
        assert tuple(answer.values()) == (len(shown), *both)

    holds()


# ── search ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def assert_found(answers: Sequence[Answer], hits: Sequence[Hit], limit: int, cap: int | None, *, worded: bool) -> None:
    """The best hits, in their order, with their rank and distance; the snippet shows words of the row alone."""
    due = hits[: min(limit, limit if cap is None else cap) + 1]
    expected = due[: len(fitting([hit.row for hit in due]))]
    assert [own(answer) for answer in answers] == [hit.row.shown for hit in expected]
    assert {answer["found"] for answer in answers} <= {len(hits)}
    assert cap is None or {answer["budget"] for answer in answers} <= {cap}
    for answer, hit in zip(answers, expected, strict=True):
        assert answer["rank"] == pytest.approx(float(hit.rank), abs=CAREFUL)
        assert answer["distance"] == (None if hit.distance is None else pytest.approx(hit.distance, abs=CAREFUL))
        assert (answer["snippet"] is not None) == worded
        shown, text = (each.replace("*", "") for each in (answer["snippet"] or "", hit.row.searched))
        assert all(word in text for word in shown.split() if word != "...")


@pytest.mark.parametrize("large", [pytest.param(0, id="small rows"), pytest.param(3, id="some that fill an answer")])
def test_a_search_by_words_finds_what_is_visible_and_matches(bed: ReadBed, amount: Amount, large: int) -> None:
    """Words, phrases, what is excluded, words too common, any characters: best first, then newest, then by id, up to the cap."""

    @amount
    @given(cases(RESOURCES, large=large), QUERIES, LIMITS)
    def holds(case: Case, query: str, limit: int) -> None:
        assert_searches(bed, case, query, None, limit)

    holds()


@pytest.mark.parametrize("queries", [pytest.param(st.none(), id="alone"), pytest.param(QUERIES, id="and by words")])
def test_a_search_by_embedding_finds_what_is_visible_and_near(
    bed: ReadBed, amount: Amount, queries: st.SearchStrategy[str | None]
) -> None:
    """Nearest first; with words, by both orders fused. A row without an embedding, or without a direction, is near to nothing."""

    @amount
    @given(cases(st.just("memory")), queries, TARGETS, LIMITS)
    def holds(case: Case, query: str | None, target: tuple[float, ...], limit: int) -> None:
        assert_searches(bed, case, query, target, limit)

    holds()


def assert_searches(bed: ReadBed, case: Case, query: str | None, target: tuple[float, ...] | None, limit: int) -> None:
    with bed.world(case.world):
        ranks = None if query is None else bed.ranks(case.world.rows, query)
        asked, worded = Asked(ranks, target), ranks is not None
        grant = bed.rows.grant(SUBJECT, case.scope)
        got = bed.search(grant, case.resource, query, target, limit)
        assert_found(got, asked.hits(visible(case.world, SUBJECT, case.resource, case.scope)), limit, case.cap, worded=worded)
        locally = bed.local_search(SUBJECT, case.resource, query, target, limit)
        assert_found(locally, asked.hits(native(case.world, SUBJECT, case.resource)), limit, None, worded=worded)


def test_an_index_of_embeddings_yields_visible_rows_alone(bed: ReadBed, amount: Amount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the nearest are asked of the index, which may miss some: what it gives is visible, in order, each once."""
    monkeypatch.setattr(searches, "EXACT_ROWS", -1)
    by_index = [function.statement for function in render_functions() if "search_memory" in function.identity]

    @amount
    @given(cases(st.just("memory")), TARGETS)
    def holds(case: Case, target: tuple[float, ...]) -> None:
        world = case.world
        with bed.world(world):
            for statement in by_index:
                bed.rows.owner.execute(statement.encode())
            grant = bed.rows.grant(SUBJECT, case.scope)
            for answers, shown in (
                (bed.search(grant, "memory", None, target, 500), visible(world, SUBJECT, "memory", case.scope)),
                (bed.local_search(SUBJECT, "memory", None, target, 500), native(world, SUBJECT, "memory")),
            ):
                got = {answer["id"] for answer in answers}
                hits = [hit for hit in Asked(None, target).hits(shown) if str(hit.row.id) in got]
                assert [own(answer) for answer in answers] == [hit.row.shown for hit in hits]

    holds()


# ── who may not ask ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_reads_a_resource_outside_the_scope_or_through_a_user_who_is_not_active(bed: ReadBed, amount: Amount) -> None:
    """Every verb refuses alike, whatever rows there are; of a scope without the resource preview counts none."""

    @amount
    @given(cases(RESOURCES, most=6), st.sampled_from(["inactive", "not named", "excluded"]), st.uuids())
    def holds(case: Case, why: str, unknown: UUID) -> None:
        resource, is_active = case.resource, why != "inactive"
        others = [name for name in REGISTRY if name != resource]
        narrower = {"inactive": {}, "not named": {"resources": others}, "excluded": {"excluded_resources": [resource]}}
        scope = {**case.scope, **narrower[why]}
        world = replace(case.world, users={**case.world.users, SUBJECT: is_active})
        row_id = world.rows[0].id if world.rows else unknown
        near = DIRECTIONS[0] if resource == "memory" else None
        with bed.world(world):
            grant = bed.rows.grant(SUBJECT, scope)
            federated = [
                partial(bed.list_rows, grant, resource, 50, None, 0),
                partial(bed.ask, INBOUND, f"get_{resource}", grant.id, grant.fingerprint, row_id),
                partial(bed.search, grant, resource, "water", near, 50),
            ]
            local = [
                partial(bed.local_list, SUBJECT, resource, 50, None),
                partial(bed.ask, OUTBOUND, f"local_get_{resource}", SUBJECT, row_id),
                partial(bed.local_search, SUBJECT, resource, "water", near, 50),
                partial(bed.ask, LEDGER, f"count_{resource}", SUBJECT, json.dumps(scope), None),
                partial(bed.ask, LEDGER, f"locate_{resource}", SUBJECT, json.dumps(scope), row_id),
                partial(bed.ask, INBOUND, "capabilities", grant.id, grant.fingerprint),
            ]
            refusals = [refused(ask) for ask in (federated if is_active else [*federated, *local])]
            assert set(refusals) == {"MF009" if is_active else "MF008"}
            if is_active:
                [counted] = bed.ask(LEDGER, f"count_{resource}", SUBJECT, json.dumps(scope), None)
                assert counted["visible"] == 0

    holds()


def refused(ask: Callable[[], object]) -> str | None:
    """The SQLSTATE of a call that has to be refused."""
    with pytest.raises(psycopg.Error) as refusal:
        ask()
    return refusal.value.sqlstate
