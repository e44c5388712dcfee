"""Whatever is written, granted and asked: a peer gets of the real edge what the specification's sentences say, and nothing else.

The properties of test_reads_property.py again, of fewer worlds, through enrollment, TLS, page tokens and the edge's own bounds.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from uuid import UUID

import grpc
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.errors import Layer
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR
from mosaic_common.resources import REGISTRY

from tests.support.drawn_reads import (
    SUBJECT,
    Case,
    Change,
    Direction,
    cases,
    changes,
    questions,
    questions_with_answers,
    scopes,
    shown_cases,
    shown_worlds,
    untouched,
    worlds,
)
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.peers import PeerClient, Refusal, refusal
from tests.support.postgres import PostgresServer
from tests.support.read_bed import ranks, write_change, write_scope, write_world
from tests.support.reference_reads import (
    PAGE_BYTES,
    Asked,
    Hit,
    Row,
    Scope,
    World,
    behind,
    by_position,
    is_granted,
    located,
    newest_first,
    visible,
)

T = TypeVar("T")

Amount = settings
Told = tuple[grpc.StatusCode, str]
"""Code and reason."""
Recorded = tuple[str, str]
"""Layer and reason."""

SOME: Final = settings(
    max_examples=48,
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.generate,),  # what fails here for the database's sake is made small by test_reads_property.py
    suppress_health_check=list(HealthCheck),
)
MANY: Final = settings(SOME, max_examples=150, derandomize=False)
LEAST_SCOPE: Final = {"resources": ["tasks"], "max_rows_per_query": 1}
PAGE_SIZES: Final = st.sampled_from([0, 1, 2, 3, 7, 500, 1000])
FRAMING: Final = 16
"""What a message costs within another, in bytes; at most."""
CAREFUL: Final = 1e-5
"""pgvector computes in float32."""


class Site:
    """The serving side, its application tables written anew for each example.

    Hypothesis draws in a thread of its own; the services answer in the test's loop.
    """

    def __init__(self, gateway: Gateway, owner: psycopg.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.gateway: Final = gateway
        self.owner: Final = owner
        self._loop: Final = loop

    def wait(self, call: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
        """Make the call where the services are, and return its answer."""

        async def made() -> T:
            return await call(*arguments, **named)

        return asyncio.run_coroutine_threadsafe(made(), self._loop).result(timeout=30)

    @contextmanager
    def world(self, world: World) -> Iterator[None]:
        write_world(self.owner, world)
        try:
            yield
        finally:
            self.owner.execute("DELETE FROM public.users")
            self.owner.execute("DELETE FROM public.teams")

    def enroll(self, scope: Scope) -> PeerClient:
        """A peer with a new grant on the subject's rows."""
        return self.wait(self._enroll, scope)

    async def _enroll(self, scope: Scope) -> PeerClient:
        grant_id = await self.gateway.create_grant(user=str(SUBJECT), peer="home", scope=LEAST_SCOPE)
        write_scope(self.owner, grant_id, scope)
        return self.gateway.peer_client(await self.gateway.redeem(await self.gateway.create_token(grant_id)))

    def refused(self, call: Callable[[Any], Awaitable[Any]], request: object) -> tuple[Told, Recorded]:
        """What is said of a call that has to be refused, and what its audit row says; that nothing was given, too."""

        async def made() -> Refusal:
            return await refusal(call(request))

        refused = self.wait(made)
        [(layer, reason, *amounts)] = self.gateway.rows(
            """SELECT denied_layer, denied_reason, result_count, bytes_out
               FROM federation.federation_audit_log WHERE request_id = %s""",
            refused.metadata["request_id"],
        )
        assert amounts == [0, 0]
        return (refused.code, refused.reason), (layer, reason)


@pytest.fixture(scope="module")
async def site(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    with postgres_server.fresh() as database, database.connect() as owner:
        gateway = Gateway("work", tmp_path_factory.mktemp("work"), database, valkey)
        gateway.prepare()
        try:
            await gateway.start(CA_BROKER, GRANTS, ENROLLMENT, EDGE_INBOUND)
            await serving(gateway.internal_channel(EDGE_INBOUND, caller=OPERATOR), GRANTS, "postgres", "valkey")
            yield Site(gateway, owner, asyncio.get_running_loop())
        finally:
            await gateway.close()


@pytest.fixture(params=[pytest.param(SOME, id="some"), pytest.param(MANY, id="for long", marks=pytest.mark.stress)])
def amount(request: pytest.FixtureRequest) -> Amount:
    """How many examples; the same in each run, or others."""
    chosen: Amount = request.param
    return chosen


MESSAGES: Final = {"tasks": "task", "notes": "note", "memory": "memory", "credentials": "credential", "api_keys": "api_key"}


def message(row: Row, source: str) -> Resource:
    """The row as a peer has to get it."""
    shown = row.shown
    base = {name: shown.pop(name) for name in ("id", "updated_at_us", "owner_id", "team_id")}
    return Resource(source=source, **base, **{MESSAGES[row.resource]: shown})  # type: ignore[arg-type]


def rows_of(page_size: int) -> int:
    """page_size 0 means 50, over 500 means 500."""
    return min(page_size or 50, 500)


def assert_fits(response: Any, rows: Sequence[Resource], due: Sequence[Resource]) -> None:
    """1 MiB, but at least one row: the answer ends before what is due only where the next row has no room."""
    assert len(rows) == 1 or response.ByteSize() <= PAGE_BYTES + FRAMING * 16
    if len(rows) < len(due):
        assert sum(map(counted, due[: len(rows) + 1])) > PAGE_BYTES


def counted(row: Resource) -> int:
    """What a row takes of a page: a text that was cut as much as one that was nearly."""
    own = getattr(row, row.WhichOneof("resource") or "")
    texts = [value for _, value in own.ListFields() if isinstance(value, str)]
    cut = [text for text in texts if len(text) == PAGE_BYTES // 4 and text.endswith("…")]
    return row.ByteSize() + FRAMING + sum(PAGE_BYTES - len(text.encode()) for text in cut)


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("large", [pytest.param(0, id="small rows"), pytest.param(4, id="some that fill a page")])
async def test_a_peer_pages_through_what_is_granted_while_it_changes(site: Site, amount: Amount, large: int) -> None:
    """Every page is what there is to see behind the last; of all pages together no row that stayed is skipped or given twice."""
    seen = Counter[str]()
    drawn = st.sampled_from(list(REGISTRY))

    @amount
    @given(cases(drawn, large=large) | shown_cases(drawn, large=large), PAGE_SIZES, st.data())
    def holds(case: Case, page_size: int, data: st.DataObject) -> None:
        to_come = iter(data.draw(st.lists(changes(case.resource), max_size=12)))
        with site.world(case.world):
            seen.update(walk(site, case, page_size, to_come))

    await asyncio.to_thread(holds)
    assert_met(seen, "a row", "a row under a filter", "several pages", "a cap's cut", "a cap's cut after several pages")


def assert_met(seen: Mapping[str, int], *due: str) -> None:
    """The examples were about something: a property holds of nothing, too."""
    assert set(due) <= {name for name, count in seen.items() if count}, seen


def walk(site: Site, case: Case, page_size: int, to_come: Iterator[Change]) -> Iterator[str]:
    """Page through everything, and tell what was met on the way."""
    peer, world, token = site.enroll(case.scope), case.world, ""
    served: list[Resource] = []
    worlds_seen, last, pages = [world], None, 0
    while True:
        pages += 1
        shown = behind(visible(world, SUBJECT, case.resource, case.scope), last)
        remaining = case.cap - len(served)
        answer = site.wait(peer.list, case.resource, page_size=page_size, page_token=token)
        page, token = list(answer.resources), answer.next_page_token
        due = [message(row, site.gateway.name) for row in shown][: min(rows_of(page_size), remaining)]
        assert (page, answer.source) == (due[: len(page)], site.gateway.name)
        assert_fits(answer, page, due)
        served += page
        is_more, is_capped = len(shown) > len(page), len(served) == case.cap
        assert (bool(token), answer.truncated) == (is_more and not is_capped, is_more and is_capped)
        if not token:
            break
        last = newest_first(shown[len(page) - 1])
        after = next(to_come, untouched)(world)
        write_change(site.owner, world, after)
        world = after
        worlds_seen.append(world)
    throughout = (
        {(str(row.id), row.updated_at) for row in visible(each, SUBJECT, case.resource, case.scope)} for each in worlds_seen
    )
    stayed = {row_id for row_id, _ in set.intersection(*throughout)}
    given_ids = [row.id for row in served if row.id in stayed]
    assert len(given_ids) == len(set(given_ids))
    assert answer.truncated or set(given_ids) == stayed
    yield from ["a row"] * bool(served) + ["a row under a filter"] * bool(served and is_filtered(case.scope, case.resource))
    yield from ["several pages"] * (pages > 1) + ["a cap's cut"] * answer.truncated
    yield from ["a cap's cut after several pages"] * (answer.truncated and pages > 1)


def is_filtered(scope: Scope, resource: str) -> bool:
    return resource in scope.get("filters", {})


# ── get, search, capabilities ─────────────────────────────────────────────────────────────────────────────────────────────────────

NO_SUCH_ROW: Final = (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
NOT_GRANTED: Final = (grpc.StatusCode.PERMISSION_DENIED, "RESOURCE_NOT_GRANTED")
NO_SUCH_SEARCH: Final = (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
RECORDED: Final = {"out_of_scope": (Layer.SCOPE, "ROW_OUT_OF_SCOPE"), "not_visible": (Layer.ROW, "ROW_NOT_VISIBLE")}


async def test_a_peer_gets_a_row_by_its_id_when_it_is_visible_and_then_only(site: Site, amount: Amount) -> None:
    """Any row there is, and one that is not: one refusal for whatever is not shown, and a record that knows which it was."""
    seen = Counter[str]()

    @amount
    @given(scopes(*REGISTRY), st.uuids(), st.data())
    def holds(scope: Scope, unknown: UUID, data: st.DataObject) -> None:
        world = data.draw(worlds(*REGISTRY, most=8) | shown_worlds(scope))
        with site.world(world):
            peer = site.enroll(scope)
            for resource, row_id, row in [("tasks", unknown, None), *((row.resource, row.id, row) for row in world.rows)]:
                request = pb.GetResourceRequest(resource=resource, id=str(row_id))
                where = located(world, SUBJECT, resource, scope, row_id)
                seen[f"{where}, under a filter" if is_filtered(scope, resource) else where] += 1
                if row is not None and where == "visible":
                    assert site.wait(peer.stub.GetResource, request).resource == message(row, site.gateway.name)
                    continue
                told, recorded = site.refused(peer.stub.GetResource, request)
                if not is_granted(scope, resource):
                    assert told == NOT_GRANTED
                else:
                    assert (told, recorded) == (NO_SUCH_ROW, RECORDED[where])

    await asyncio.to_thread(holds)
    assert_met(
        seen, "visible", "not_visible", *(f"{where}, under a filter" for where in ("visible", "out_of_scope", "not_visible"))
    )


async def test_a_peer_finds_what_is_visible_and_matches_in_all_that_it_asks(site: Site, amount: Amount) -> None:
    """By words, by embedding, by both; of several resources the best of each, then the second of each, within page and cap."""
    seen = Counter[str]()

    @settings(amount, max_examples=2 * amount.max_examples)  # most of all can be asked of a search
    @given(scopes(*REGISTRY), PAGE_SIZES, st.data())
    def holds(scope: Scope, page_size: int, data: st.DataObject) -> None:
        world = data.draw(worlds(*REGISTRY) | shown_worlds(scope) | shown_worlds(scope))
        asked = data.draw(questions() | questions_with_answers(world, scope) | questions_with_answers(world, scope))
        asked_of, query, target = asked.resources, asked.query, asked.target
        request = pb.SearchResourcesRequest(
            resources=[*asked_of, asked_of[0]], query=query, embedding=target or (), page_size=page_size
        )
        with site.world(world):
            search = site.enroll(scope).stub.SearchResources
            if not all(is_granted(scope, name) for name in asked_of):
                assert site.refused(search, request)[0] == NOT_GRANTED
                return
            if not is_search(asked_of, query, target):
                assert site.refused(search, request)[0] == NO_SUCH_SEARCH
                return
            answer = site.wait(search, request)
            by_words = ranks(site.owner, world.rows, query) if query.strip() else None
        found = [
            Asked(by_words, target if REGISTRY[name].embedding else None).hits(visible(world, SUBJECT, name, scope))
            for name in asked_of
        ]
        cap, count = scope["max_rows_per_query"], sum(map(len, found))
        assert_hits(answer, found, min(rows_of(page_size), cap), site.gateway.name)
        seen["a hit"] += bool(count)
        seen["a hit under a filter"] += any(hits and is_filtered(scope, name) for name, hits in zip(asked_of, found, strict=True))
        seen["hits of several resources"] += sum(map(bool, found)) > 1
        seen["a page's cut"] += rows_of(page_size) < min(count, cap)
        seen["a cap's cut"] += cap < min(count, rows_of(page_size))

    await asyncio.to_thread(holds)
    assert_met(seen, "a hit", "a hit under a filter", "hits of several resources", "a page's cut", "a cap's cut")


def is_search(resources: Sequence[str], query: str, target: Direction | None) -> bool:
    """Words for all of them, or an embedding for those that have one."""
    near = [REGISTRY[name].embedding is not None for name in resources]
    return (bool(query.strip()) or (target is not None and all(near))) and (target is None or any(near))


def assert_hits(answer: pb.SearchResourcesResponse, found: Sequence[Sequence[Hit]], most: int, source: str) -> None:
    due = by_position(found)[:most]
    assert [hit.resource for hit in answer.hits] == [message(hit.row, source) for hit in due]
    assert (answer.truncated, answer.source) == (sum(map(len, found)) > len(due), source)
    for given_hit, hit in zip(answer.hits, due, strict=True):
        assert given_hit.rank == pytest.approx(float(hit.rank), abs=CAREFUL)
        assert given_hit.HasField("distance") == (hit.distance is not None)
        assert given_hit.distance == pytest.approx(hit.distance or 0, abs=CAREFUL)


async def test_a_peer_learns_its_own_grant(site: Site, amount: Amount) -> None:
    """Resources in the order of the scope, what is excluded, and the cap."""

    @settings(amount, max_examples=amount.max_examples // 4)
    @given(worlds("tasks", most=1), scopes(*REGISTRY))
    def holds(world: World, scope: Scope) -> None:
        with site.world(world):
            answer = site.wait(site.enroll(scope).capabilities)
        said = (list(answer.resources), list(answer.excluded_resources), answer.max_rows_per_query)
        assert said == (scope["resources"], scope.get("excluded_resources", []), scope["max_rows_per_query"])

    await asyncio.to_thread(holds)
