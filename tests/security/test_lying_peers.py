"""Another gateway in an attacker's hands, for every verb: what the user gets is right and bounded, the others' rows are there."""

import asyncio
import gzip
import itertools
import json
import math
import re
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.message import Message
from mosaic.federation.v1 import query_pb2
from mosaic.federation.v1.federation_pb2 import ListResourcesRequest, ListResourcesResponse, SearchHit, SearchResourcesResponse
from mosaic.federation.v1.query_pb2 import QueryResponse
from mosaic.federation.v1.resources_pb2 import ApiKey, Credential, Memory, Note, Resource, Task
from mosaic_cli.documents import query_document
from mosaic_cli.output import json_text
from mosaic_cli.views.query import answer_view
from rich.console import Console

from tests.support.connections import connect_to_stranger
from tests.support.federated_verbs import (
    CAPABILITIES,
    GET,
    LIST,
    READS,
    ROW,
    SEARCH,
    VERBS,
    FederatedVerb,
    capabilities,
    hits_of,
    task,
)
from tests.support.gateway import Gateway, Pair
from tests.support.lying_peer import LyingPeer
from tests.support.raw_peer import Exchange, RawPeer
from tests.support.rows import Rows

pytestmark = pytest.mark.alone

OK, DENIED, TIMEOUT, UNAVAILABLE, RATE_LIMITED = (
    query_pb2.SOURCE_STATUS_OK,
    query_pb2.SOURCE_STATUS_DENIED,
    query_pb2.SOURCE_STATUS_TIMEOUT,
    query_pb2.SOURCE_STATUS_UNAVAILABLE,
    query_pb2.SOURCE_STATUS_RATE_LIMITED,
)
LIAR: Final = "federated:liar"
HONEST: Final = "federated:honest"
MIB: Final = 1024 * 1024
EVERY_READ: Final = pytest.mark.parametrize("verb", READS, ids=str)


@pytest.fixture(scope="module")
def home(pair: Pair) -> Gateway:
    return pair.home


@pytest.fixture(scope="module")
def rows(home: Gateway) -> Iterator[Rows]:
    with home.database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
def liars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service PKI of lying peers lies."""
    return tmp_path_factory.mktemp("liar")


@pytest.fixture(scope="module")
async def honest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LyingPeer]:
    """A gateway that answers the truth: one task."""
    answers = {f"{verb.name}": verb.honest_answer() for verb in VERBS}

    async def tell(request: Message, _context: Any) -> Message:
        return answers[VERB_OF_REQUEST[request.DESCRIPTOR.name]]

    async with LyingPeer.start(tmp_path_factory.mktemp("honest"), "honest", tell) as peer:
        yield peer


VERB_OF_REQUEST: Final = {
    "ListResourcesRequest": "list",
    "GetResourceRequest": "get",
    "SearchResourcesRequest": "search",
    "GetCapabilitiesRequest": "capabilities",
}


@pytest.fixture
async def user(home: Gateway, rows: Rows, honest: LyingPeer) -> UUID:
    """A user of home with a task and a connection to an honest gateway."""
    user = rows.user()
    rows.resource("tasks", user)
    await connect_to_stranger(home, user, name="honest", endpoint=honest.address, root_pem=honest.root_pem)
    return user


@pytest.fixture(scope="module")
def asking(home: Gateway) -> "Asking":
    return Asking(home)


class Asking:
    """Users' queries, over one connection to the gateway's user listener."""

    def __init__(self, home: Gateway) -> None:
        self._home: Final = home
        self._stub: Final = home.queries

    async def __call__(self, user: UUID, request: query_pb2.QueryRequest, *, seconds: float = 7) -> QueryResponse:
        answer = await self._stub.Query(request, metadata=self._home.user_metadata(user), timeout=seconds)
        assert isinstance(answer, QueryResponse)
        return answer


async def connect_to(home: Gateway, user: UUID, peer: LyingPeer | RawPeer) -> None:
    await connect_to_stranger(home, user, name=peer.name, endpoint=peer.address, root_pem=peer.root_pem)


def statuses(answer: QueryResponse) -> dict[str, tuple[int, str]]:
    return {each.source: (each.status, each.reason) for each in answer.sources}


def assert_others_are_there(answer: QueryResponse, verb: FederatedVerb) -> None:
    """The rows of this gateway and of the honest one, under their own names."""
    told = statuses(answer)
    assert told[HONEST] == (OK, "")
    assert told["local"][0] == OK
    honest = [row for row in verb.rows_of(answer) if row.source == HONEST]
    assert honest == ([] if verb is CAPABILITIES else [task(source=HONEST)])
    local = [row for row in verb.rows_of(answer) if row.source == "local"]
    assert len(local) == (1 if verb is LIST else 0)


def assert_left_out(answer: QueryResponse, verb: FederatedVerb, expected: tuple[int, str]) -> None:
    """Nothing of the liar but its status; everything of the others."""
    assert answer.partial
    assert statuses(answer)[LIAR] == expected
    assert [row for row in verb.rows_of(answer) if row.source == LIAR] == []
    assert_others_are_there(answer, verb)


async def ask_with_liar(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb, said: Message
) -> QueryResponse:
    async def lie(_request: Message, _context: Any) -> Message:
        return said

    async with LyingPeer.start(liars, "liar", lie) as peer:
        await connect_to(home, user, peer)
        answer = await asking(user, verb.query())
        assert len(peer.asked) == 1
        return answer


# --- what is put right


@EVERY_READ
async def test_rows_are_named_after_the_connection_they_came_through(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb
) -> None:
    """Whatever a peer calls itself, its rows are neither ours nor another peer's."""
    answer = await ask_with_liar(asking, home, user, liars, verb, verb.answer([task(source="local", task=Task(title="A lie"))]))
    assert [(row.source, row.task.title) for row in verb.rows_of(answer) if row.task.title == "A lie"] == [(LIAR, "A lie")]
    assert statuses(answer)[LIAR] == (OK, "")
    assert_others_are_there(answer, verb)


@EVERY_READ
@pytest.mark.parametrize(
    ("told_us", "earliest", "latest"),
    [
        pytest.param(253_402_300_799_000_000, 290, 300, id="the last day of 9999"),
        pytest.param(2**63 - 1, 290, 300, id="the largest number"),
        pytest.param(-(2**63), None, None, id="the smallest number"),
        pytest.param(-1, None, None, id="before 1970"),
    ],
)
async def test_times_are_clamped(
    asking: Asking,
    home: Gateway,
    user: UUID,
    liars: Path,
    verb: FederatedVerb,
    told_us: int,
    earliest: int | None,
    latest: int | None,
) -> None:
    """To five minutes ahead of our clock and to 1970, whatever order that gives."""
    lie = verb.answer([task(updated_at_us=told_us, task=Task(title="A lie", due_at_us=told_us))])
    answer = await ask_with_liar(asking, home, user, liars, verb, lie)
    [row] = [row for row in verb.rows_of(answer) if row.source == LIAR]
    if earliest is None or latest is None:
        assert row.updated_at_us == 0
    else:
        assert earliest < row.updated_at_us / 1e6 - datetime.now(UTC).timestamp() <= latest
    assert_others_are_there(answer, verb)
    assert_safe_on_a_terminal(answer)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 1.7e308], ids=str)
async def test_a_rank_moves_nothing(asking: Asking, home: Gateway, user: UUID, liars: Path, number: float) -> None:
    """Hits stand by position, and no rank or distance that is no number reaches the user."""
    answer = await ask_with_liar(asking, home, user, liars, SEARCH, hits_of([task()], rank=number, distance=number))
    by_source = [hit for hit in answer.hits if hit.resource.source in {HONEST, LIAR}]
    assert [hit.resource.source for hit in by_source] == sorted(hit.resource.source for hit in by_source)
    assert all(math.isfinite(hit.rank) and math.isfinite(hit.distance) for hit in answer.hits)
    json.loads(json_text(query_document(answer)), parse_constant=pytest.fail)
    assert_others_are_there(answer, SEARCH)


HIDDEN: Final = b"\xfa\x7f\x06hidden"


@EVERY_READ
async def test_what_has_no_field_here_does_not_pass(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb
) -> None:
    """Neither in the answer, nor in a row, nor in what the row is of."""
    row = task()
    row.task.MergeFromString(HIDDEN)
    row.MergeFromString(HIDDEN)
    said = verb.answer([row])
    said.MergeFromString(HIDDEN)
    assert said.SerializeToString().count(b"hidden") == 3
    answer = await ask_with_liar(asking, home, user, liars, verb, said)
    assert statuses(answer)[LIAR] == (OK, "")
    assert b"hidden" not in answer.SerializeToString()


# --- what is shown

OBEYED: Final = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n\u202e\u2066\u200b\ufeff\u2028\x00\x7f[red]not markup[/red]"
UNSAFE: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def assert_safe_on_a_terminal(answer: QueryResponse) -> str:
    """Nothing that a terminal obeys, in JSON or in a table; returns the table."""
    as_json = json_text(query_document(answer))
    json.loads(as_json)
    assert not UNSAFE.search(as_json)
    shown = StringIO()
    Console(file=shown, highlight=False, markup=False, emoji=False, width=200, force_terminal=False).print(
        answer_view(answer, datetime.now(UTC))
    )
    assert not UNSAFE.search(shown.getvalue())
    return shown.getvalue()


KINDS: Final = {
    "tasks": lambda: Resource(task=Task(title=OBEYED, description=OBEYED, status=OBEYED, due_at_us=2**63 - 1)),
    "notes": lambda: Resource(note=Note(title=OBEYED, body=OBEYED)),
    "memory": lambda: Resource(memory=Memory(kind=OBEYED, content=OBEYED)),
    "credentials": lambda: Resource(credential=Credential(label=OBEYED, provider=OBEYED, expires_at_us=-(2**63))),
    "api_keys": lambda: Resource(api_key=ApiKey(label=OBEYED, provider=OBEYED, last_used_at_us=-(2**63))),
}


@EVERY_READ
@pytest.mark.parametrize("resource", KINDS)
async def test_no_text_of_a_peer_is_obeyed_by_a_terminal(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb, resource: str
) -> None:
    """Control, bidirectional and invisible characters, and markup, in every text: passed on as they are, shown as escapes."""
    row = KINDS[resource]()
    row.MergeFrom(Resource(id=ROW, owner_id=str(uuid4())))
    said = hits_of([row], snippet=f"**{OBEYED}**") if verb is SEARCH else verb.answer([row])

    async def lie(_request: Message, _context: Any) -> Message:
        return said

    async with LyingPeer.start(liars, "liar", lie) as peer:
        await connect_to(home, user, peer)
        answer = await asking(user, verb.query(LIAR, resources=[resource]))
    [passed] = verb.rows_of(answer)
    assert OBEYED in str(passed).encode().decode("unicode_escape") or OBEYED.encode() in passed.SerializeToString()
    shown = assert_safe_on_a_terminal(answer)
    assert "[red]not markup[/red]" in " ".join(shown.split()) or verb is SEARCH


# --- what is left out

REFUSED_ROWS: Final = [
    pytest.param(task(task=None), id="a row of no kind"),
    pytest.param(task(note=Note(title="a note")), id="a row of another kind"),
    pytest.param(task(credential=Credential(label="prod")), id="a credential"),
    pytest.param(task(id="../../etc/passwd"), id="an id that is none"),
    pytest.param(task(id=ROW.upper()), id="an id in another spelling"),
    pytest.param(task(id=f"{{{ROW}}}"), id="an id in braces"),
    pytest.param(task(id=""), id="no id"),
    pytest.param(task(owner_id="\x1b[2J"), id="an owner that is none"),
    pytest.param(task(team_id=""), id="a team that is none"),
    pytest.param(task(task=Task(description="x" * 5 * MIB)), id="five mebibytes in a row"),
]


@EVERY_READ
@pytest.mark.parametrize("row", REFUSED_ROWS)
async def test_a_row_that_does_not_hold_is_passed_on_in_nothing(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb, row: Resource
) -> None:
    """The peer is named, its answer left out whole."""
    assert_left_out(await ask_with_liar(asking, home, user, liars, verb, verb.answer([row])), verb, (UNAVAILABLE, ""))


def tasks(count: int) -> list[Resource]:
    return [task(id=str(uuid4())) for _ in range(count)]


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        pytest.param(LIST, LIST.answer(tasks(11)), id="a list of more rows than asked for"),
        pytest.param(SEARCH, SEARCH.answer(tasks(11)), id="more hits than asked for"),
        pytest.param(SEARCH, SearchResourcesResponse(hits=[SearchHit(rank=1)]), id="a hit without a row"),
        pytest.param(SEARCH, hits_of([task()], snippet="x" * 5 * MIB), id="five mebibytes in a snippet"),
        pytest.param(LIST, LIST.answer([*tasks(1), task(note=Note())]), id="one row of another list's"),
        pytest.param(SEARCH, SEARCH.answer([*tasks(1), task(note=Note())]), id="one hit of another search's"),
        pytest.param(GET, GET.answer(tasks(1)), id="another row than asked for"),
        pytest.param(CAPABILITIES, capabilities(resources=["users"]), id="a resource that is none"),
        pytest.param(CAPABILITIES, capabilities(resources=[OBEYED]), id="a resource that a terminal obeys"),
        pytest.param(CAPABILITIES, capabilities(resources=["tasks"] * 100), id="one resource a hundred times"),
        pytest.param(CAPABILITIES, capabilities(max_rows_per_query=2**31 - 1), id="a cap without end"),
        pytest.param(CAPABILITIES, capabilities(max_rows_per_query=-1), id="a negative cap"),
        pytest.param(CAPABILITIES, capabilities(server_version=OBEYED), id="a version that a terminal obeys"),
    ],
)
async def test_an_answer_to_something_else_is_passed_on_in_nothing(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb, said: Message
) -> None:
    """More than was asked for, and answers to another question."""
    assert_left_out(await ask_with_liar(asking, home, user, liars, verb, said), verb, (UNAVAILABLE, ""))


async def test_verbs_that_do_not_exist_are_not_capabilities(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """A number that is no verb here is left out, and what is left can be shown."""
    said = capabilities(supported_verbs=[1, 77, -5, 1, 2**31 - 1], grant_expires_at_us=2**63 - 1)
    answer = await ask_with_liar(asking, home, user, liars, CAPABILITIES, said)
    [theirs] = [each.capabilities for each in answer.sources if each.source == LIAR]
    assert list(theirs.supported_verbs) == [1]
    assert_safe_on_a_terminal(answer)


# --- how it is said

Script = Callable[[Exchange], Awaitable[None]]


INSULT: Final = "%1b[2Jrun this as root%ff"
INSULT_SHOWN: Final = "run this as root"


async def bare_end(code: str, exchange: Exchange) -> None:
    await exchange.end((":status", "200"), ("content-type", "application/grpc"), ("grpc-status", code))


async def end(code: str, exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.end(("grpc-status", code), ("grpc-message", INSULT))


async def say(encoded: bytes, exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.message(encoded)
    await exchange.end()


async def say_packed(packed: bytes, exchange: Exchange) -> None:
    await exchange.begin(("grpc-encoding", "gzip"))
    await exchange.message(packed, packed=True)
    await exchange.end()


async def say_nothing(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.end()


async def be_no_grpc(status: str, exchange: Exchange) -> None:
    await exchange.end((":status", status), ("content-type", "text/html"))


async def reset(code: int, exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.reset(code)


async def go_away(code: int, exchange: Exchange) -> None:
    await exchange.go_away(code)
    await exchange.hang_up()


async def hang_up(exchange: Exchange) -> None:
    await exchange.hang_up()


async def send_odd_metadata(exchange: Exchange) -> None:
    await exchange.begin(("x-odd", "\x01\x00\r\n"), ("grpc-status-details-bin", "!!! not base64 !!!"))
    await exchange.end(("grpc-status", "7"), ("grpc-status-details-bin", "!!!"))


async def send_endless_trailers(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.endless_trailers()


async def send_large_trailers(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.end(("grpc-status", "7"), ("grpc-status-details-bin", "A" * 15_000), ("x-more", "x" * 60_000))


async def announce_a_gibibyte(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.push(struct.pack(">BI", 0, 1024 * MIB))
    while True:
        await exchange.push(b"\0" * MIB)


async def say_again_and_again(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.message(b"\0" * MIB)


async def trickle(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.push(struct.pack(">BI", 0, MIB))
    while True:
        await exchange.push(b"x")
        await asyncio.sleep(0.01)


async def ping_for_ever(exchange: Exchange) -> None:
    await exchange.begin()
    while True:
        await exchange.ping()


async def be_silent(_exchange: Exchange) -> None:
    await asyncio.Event().wait()


def unpacking_to(mebibytes: int) -> bytes:
    """A field that nobody knows, as large as that, packed."""
    length, size = bytearray(), mebibytes * MIB
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    packed = BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as stream:
        stream.write(b"\xfa\x7f" + bytes(length))
        for _ in range(mebibytes):
            stream.write(b"\0" * MIB)
    return packed.getvalue()


QUICK_LIES: Final = [
    *(pytest.param(partial(end, code), UNAVAILABLE, id=f"status {code!r}") for code in ("99", "-1", "17", "abc", "4294967303", "")),
    *(pytest.param(partial(bare_end, code), UNAVAILABLE, id=f"nothing but status {code!r}") for code in ("99", "2", "0x7")),
    pytest.param(partial(end, "7"), DENIED, id="a refusal that says what a terminal obeys"),
    pytest.param(partial(be_no_grpc, "200"), UNAVAILABLE, id="a web page"),
    pytest.param(partial(be_no_grpc, "500"), UNAVAILABLE, id="a failing web server"),
    pytest.param(partial(say, b"\xff\xff\xff"), UNAVAILABLE, id="bytes that are no message"),
    pytest.param(partial(say, b"\x0a\x04\x0a\x02\xff\xfe"), UNAVAILABLE, id="text that is no UTF-8"),
    pytest.param(partial(say, b"\x0b" * 1_000), UNAVAILABLE, id="groups in groups in groups"),
    pytest.param(partial(say, b"\x0a\x80"), UNAVAILABLE, id="half a message"),
    pytest.param(say_nothing, UNAVAILABLE, id="success without a message"),
    pytest.param(partial(say_packed, b"no gzip"), UNAVAILABLE, id="packed, it says"),
    *(pytest.param(partial(reset, code), UNAVAILABLE, id=f"RST {code}") for code in (0, 2, 7, 8, 11, 99)),
    *(pytest.param(partial(go_away, code), UNAVAILABLE, id=f"GOAWAY {code}") for code in (0, 2, 11)),
    pytest.param(hang_up, UNAVAILABLE, id="hanging up"),
    pytest.param(send_odd_metadata, UNAVAILABLE, id="metadata that is none"),
    pytest.param(send_endless_trailers, UNAVAILABLE, id="trailers without end"),
    pytest.param(send_large_trailers, UNAVAILABLE, id="trailers above any limit"),
    pytest.param(announce_a_gibibyte, UNAVAILABLE, id="a gibibyte"),
    pytest.param(partial(say_packed, unpacking_to(64)), UNAVAILABLE, id="little that unpacks to much"),
]


@pytest.mark.parametrize(("script", "status"), QUICK_LIES)
async def test_whatever_a_peer_breaks_is_its_own_answer(
    asking: Asking, home: Gateway, user: UUID, liars: Path, script: Script, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP/2, gRPC and protobuf, broken one at a time: told of the peer and of nobody else, none of its words is kept."""
    async with RawPeer.start(liars, "liar", script) as peer:
        await connect_to(home, user, peer)
        for verb in VERBS:
            asked_before = peer.asked
            answer = await asking(user, verb.query())
            assert peer.asked > asked_before
            assert_left_out(answer, verb, (status, ""))
            assert INSULT_SHOWN.encode() not in answer.SerializeToString()
    assert [record for record in caplog.records if record.name.startswith("grpc")] == []


ENDLESS_LIES: Final = [
    pytest.param(be_silent, id="silence"),
    pytest.param(trickle, id="a byte at a time"),
    pytest.param(say_again_and_again, id="one message after the other"),
    pytest.param(ping_for_ever, id="nothing but pings"),
]


@pytest.mark.parametrize("script", ENDLESS_LIES)
async def test_who_never_ends_is_not_waited_for(asking: Asking, home: Gateway, user: UUID, liars: Path, script: Script) -> None:
    """For whatever verb, the others' rows come within the caller's deadline."""
    async with RawPeer.start(liars, "liar", script) as peer:
        await connect_to(home, user, peer)
        begun = time.monotonic()
        answers = await asyncio.gather(*(asking(user, verb.query(), seconds=2) for verb in VERBS))
        assert time.monotonic() - begun < 2
        assert peer.asked == len(VERBS)
    for verb, answer in zip(VERBS, answers, strict=True):
        assert_left_out(answer, verb, (TIMEOUT, ""))


async def test_a_refusal_of_one_query_ends_no_other(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """A peer that refuses one query while it is still answering another of the same connection gets both answers told."""
    refused, slow_began = asyncio.Event(), asyncio.Event()

    async def refuse_lists(request: Message, context: Any) -> Message:
        if isinstance(request, ListResourcesRequest):
            await slow_began.wait()
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "")
        slow_began.set()
        await refused.wait()
        return SEARCH.honest_answer()

    async with LyingPeer.start(liars, "liar", refuse_lists) as peer:
        await connect_to(home, user, peer)
        slow = asyncio.ensure_future(asking(user, SEARCH.query()))
        assert_left_out(await asking(user, LIST.query()), LIST, (DENIED, ""))
        refused.set()
        answer = await slow
    assert statuses(answer)[LIAR] == (OK, "")
    assert_others_are_there(answer, SEARCH)


# --- pages


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        pytest.param(LIST, LIST.answer([task(), task()]), id="list"),
        pytest.param(SEARCH, SEARCH.answer([task(), task()]), id="search"),
    ],
)
async def test_one_row_does_not_come_twice(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb, said: Message
) -> None:
    """A page that holds one id twice does not hold."""
    assert_left_out(await ask_with_liar(asking, home, user, liars, verb, said), verb, (UNAVAILABLE, ""))


async def test_pages_end(asking: Asking, home: Gateway, user: UUID, liars: Path) -> None:
    """No grant shows more than 10,000 rows of one query: a peer that goes on is asked no more."""
    pages = itertools.count()

    async def go_on(request: Any, _context: Any) -> Message:
        return ListResourcesResponse(resources=tasks(request.page_size), next_page_token=f"page {next(pages)}")

    async with LyingPeer.start(liars, "liar", go_on) as peer:
        await connect_to(home, user, peer)
        answer = await asking(user, LIST.query(page_size=500))
        while answer.next_page_token and len(peer.asked) < 25:
            answer = await asking(user, LIST.query(page_size=500, page_token=answer.next_page_token))
        assert len(peer.asked) == 20
        assert answer.sources[-1].truncated


# --- what it costs

ROOM_BYTES: Final = 64 * MIB
# Eight calls, each with what one message may be, in the library's hands and in ours, and at the liar's end, which is here too.
ROOM_OF_EIGHT_BYTES: Final = 256 * MIB


def peak_bytes() -> int:
    """The most memory that this process held since `forget_peak`."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(announce_a_gibibyte, id="a gibibyte"),
        pytest.param(say_again_and_again, id="messages without end"),
        pytest.param(send_endless_trailers, id="trailers without end"),
        pytest.param(partial(say_packed, unpacking_to(1024)), id="a mebibyte that unpacks to a gibibyte"),
        pytest.param(ping_for_ever, id="pings without end"),
    ],
)
async def test_what_a_peer_sends_costs_a_bounded_room(
    asking: Asking, home: Gateway, user: UUID, liars: Path, script: Script
) -> None:
    """As much as it can for as long as it is listened to, eight times at once: not what it sends is held, but what may be."""
    async with RawPeer.start(liars, "liar", script) as peer:
        await connect_to(home, user, peer)
        await asking(user, LIST.query(), seconds=1)
        forget_peak()
        before = peak_bytes()
        answers = await asyncio.gather(*(asking(user, LIST.query(), seconds=2) for _ in range(8)))
        assert peer.asked > 1
        assert peak_bytes() - before < ROOM_OF_EIGHT_BYTES
    for answer in answers:
        assert_others_are_there(answer, LIST)


@pytest.mark.parametrize(
    ("verb", "encoded"),
    [
        pytest.param(LIST, b"\x0a\x00" * (2 * MIB - 64), id="two million empty rows"),
        pytest.param(SEARCH, b"\x0a\x02\x0a\x00" * (MIB - 64), id="a million empty hits"),
    ],
)
async def test_rows_that_nobody_asked_for_are_not_unpacked(
    asking: Asking, home: Gateway, user: UUID, liars: Path, verb: FederatedVerb, encoded: bytes
) -> None:
    """Four mebibytes of rows that are next to nothing each: counted before they cost anything."""
    async with RawPeer.start(liars, "liar", partial(say, encoded)) as peer:
        await connect_to(home, user, peer)
        forget_peak()
        before = peak_bytes()
        assert_left_out(await asking(user, verb.query()), verb, (UNAVAILABLE, ""))
        assert peak_bytes() - before < ROOM_BYTES
