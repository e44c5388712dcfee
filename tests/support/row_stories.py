"""What a gateway reads from its peers, by every verb, in success and in every failure: each row holds a canary.

home is the gateway that reads. It is told the truth by work, and anything by strangers, whose inbound edges are this process. Each
story returns its canaries; they live at work, whose rows they are, and in what the user was shown.
"""

import asyncio
import contextlib
import json
import os
import signal
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from mosaic.federation.v1.federation_pb2 import ListResourcesResponse
from mosaic.federation.v1.query_pb2 import QueryRequest, QueryResponse
from mosaic.federation.v1.resources_pb2 import Note, Resource, Task
from mosaic_common.errors import Reason
from mosaic_common.identity import EDGE_OUTBOUND, GRANTS
from mosaic_common.resources import REGISTRY

from tests.support.attacked import until
from tests.support.canaries import Canary
from tests.support.connections import connect_to_stranger
from tests.support.federated_verbs import CAPABILITIES, GET, LIST, READS, SEARCH, VERBS, FederatedVerb, capabilities, task
from tests.support.gateway import Gateway
from tests.support.lying_peer import LyingPeer
from tests.support.places import memory_of
from tests.support.raw_peer import Exchange, RawPeer
from tests.support.rows import Rows
from tests.support.secret_stories import planting
from tests.support.talkative_pair import TalkativePair, new_secret

USER: Final = "maya@example.com"
WORD: Final = "harvest"
SHOWN: Final = ("work/*", "work: *", "stdout of mosaic -c home federation *")
EVERYTHING: Final = {"resources": list(REGISTRY), "max_rows_per_query": 500}
HELD_SECONDS: Final = 20.0
MIB: Final = 1024 * 1024
Canaries = list[Canary]
Answer = Callable[[Any, Any], Awaitable[Any]]


async def everything(pair: TalkativePair) -> Canaries:
    return [canary for story in STORIES for canary in await story(pair)]


# ── what succeeds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def reading(pair: TalkativePair) -> Canaries:
    """Every verb and resource, from one connection and from all sources, page by page, asked by gRPC and by the command."""
    home, work = pair.home, pair.work
    grant_id = await work.create_grant(user=USER, peer="home", scope=EVERYTHING, approve_sensitive=True)
    url = await work.create_token(grant_id)
    await pair.mosaic("-c", "home", "federation", "peer", "add", "--user", USER, "--name", "work", typed=url.format())
    canaries, ids = _write_rows(work)
    embedding = pair.owner / "embedding.json"
    embedding.write_text(json.dumps(_NEAR))
    query = ("-c", "home", "federation", "query")
    for source in ("federated:work", "all"):
        further = ("--source", source, "--user", USER)
        for resource, canary in canaries.items():
            fields: dict[str, Any] = {"resources": [resource], "source": source}
            answer = await _ask(home, QueryRequest(verb=LIST.verb, page_size=1, **fields))
            _assert_shown(canary, answer)
            await _ask(home, QueryRequest(verb=LIST.verb, page_size=1, page_token=answer.next_page_token, **fields))
            _assert_shown(canary, await _ask(home, QueryRequest(verb=GET.verb, id=ids[resource], **fields)))
            _assert_shown(canary, await _ask(home, QueryRequest(verb=SEARCH.verb, query=WORD, **fields)))
        near = await _ask(home, QueryRequest(verb=SEARCH.verb, embedding=_NEAR, resources=["memory"], source=source))
        _assert_shown(canaries["memory"], near)
        await _ask(home, QueryRequest(verb=CAPABILITIES.verb, source=source))
        for output in ("json", "table"):
            shown = await pair.mosaic(*query, "tasks", *further, "-o", output)
            assert canaries["tasks"].secret.decode() in shown.out.replace("\n", "")
        await pair.mosaic(*query, "notes", *further, "--id", ids["notes"])
        await pair.mosaic(*query, *REGISTRY, *further, "--search", WORD)
        await pair.mosaic(*query, "memory", *further, "--embedding", str(embedding), "-o", "json")
    await pair.mosaic("-c", "home", "federation", "capabilities", "--user", USER)
    return list(canaries.values())


def _write_rows(work: Gateway) -> tuple[dict[str, Canary], dict[str, str]]:
    canaries, ids = {}, {}
    with work.database.connect() as owner:
        rows = Rows(owner)
        user_id = _user_id(work)
        for name, resource in REGISTRY.items():
            canaries[name] = _canary(f"of {name}")
            text = f"{WORD} {canaries[name].secret.decode()}"
            columns: dict[str, Any] = {column.name: text for column in resource.searchable}
            if resource.embedding is not None:
                columns[resource.embedding.column] = _NEAR
            ids[name] = str(rows.resource(name, user_id, **columns))
    return canaries, ids


# ── strangers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def strangers(pair: TalkativePair) -> Canaries:
    """A peer answers every verb right, and wrong in every way of which rows can be a part."""
    canaries = []
    for verb in VERBS:
        for name, behave in _WAYS.items():
            canary = _canary(f"{verb}, {name}")
            async with LyingPeer.start(_folder(pair, "stranger"), "stranger", partial(behave, verb, canary)) as peer:
                answer = await _ask_stranger(pair, peer, verb)
                if name == "the truth" and verb is not CAPABILITIES:
                    _assert_shown(canary, answer)
            canaries.append(canary)
    return canaries


async def _tell(verb: FederatedVerb, canary: Canary, _request: Any, _context: Any) -> Message:
    return verb.answer([_row(canary)])


async def _tell_as_capabilities(_verb: FederatedVerb, canary: Canary, _request: Any, _context: Any) -> Message:
    word = canary.secret.decode()
    return capabilities(resources=[word], excluded_resources=["tasks", word], server_version=word)


async def _tell_too_much(verb: FederatedVerb, canary: Canary, _request: Any, _context: Any) -> Message:
    return verb.answer([_row(canary, filler=5 * MIB)])


async def _tell_too_many(verb: FederatedVerb, canary: Canary, _request: Any, _context: Any) -> Message:
    return verb.answer([_row(canary, id=str(uuid4())) for _ in range(100)])


async def _tell_another_kind(verb: FederatedVerb, canary: Canary, _request: Any, _context: Any) -> Message:
    return verb.answer([task(note=Note(title=canary.secret.decode()))])


async def _tell_in_the_id(verb: FederatedVerb, canary: Canary, _request: Any, _context: Any) -> Message:
    return verb.answer([_row(canary, id=canary.secret.decode(), owner_id=canary.secret.decode(), source=canary.secret.decode())])


async def _tell_in_the_page_token(_verb: FederatedVerb, canary: Canary, _request: Any, _context: Any) -> Message:
    return ListResourcesResponse(resources=[_row(canary)], next_page_token=canary.secret.decode(), source=canary.secret.decode())


async def _tell_in_a_refusal(_verb: FederatedVerb, canary: Canary, _request: Any, context: Any) -> Message:
    word = canary.secret.decode()
    status = status_pb2.Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0], message=word)
    info = error_details_pb2.ErrorInfo(reason=word, domain=word, metadata={"grant_status": word, "remediation": word})
    status.details.add().Pack(info)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()), ("x-row", word)))
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, word)
    raise AssertionError


_WAYS: Final[dict[str, Callable[[FederatedVerb, Canary, Any, Any], Awaitable[Message]]]] = {
    "the truth": _tell,
    "capabilities of words": _tell_as_capabilities,
    "more than 4 MiB": _tell_too_much,
    "more than was asked": _tell_too_many,
    "rows of another kind": _tell_another_kind,
    "ids that are none": _tell_in_the_id,
    "a page token": _tell_in_the_page_token,
    "a refusal": _tell_in_a_refusal,
}


async def dying(pair: TalkativePair) -> Canaries:
    """A peer hangs up in the middle of its rows, or behind them and before the end of its answer."""
    canaries = []
    for verb in READS:
        for missing in (4, 0):
            canary = _canary(f"{verb}, {missing} bytes of it missing when the peer died")
            encoded = verb.answer([_row(canary)]).SerializeToString()

            async def die(exchange: Exchange, encoded: bytes = encoded, missing: int = missing) -> None:
                await exchange.begin()
                await exchange.push((struct.pack(">BI", False, len(encoded)) + encoded)[: 5 + len(encoded) - missing])
                await exchange.hang_up()

            async with RawPeer.start(_folder(pair, "stranger"), "stranger", die) as peer:
                await _ask_stranger(pair, peer, verb)
            canaries.append(canary)
    return canaries


# ── while the edge holds rows ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def hanging_up(pair: TalkativePair) -> Canaries:
    """The user's call is cancelled."""
    canaries = []
    for verb in READS:
        async with _held(pair, verb, "when its user hung up") as (call, canary):
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
        canaries.append(canary)
    return canaries


async def killing(pair: TalkativePair) -> Canaries:
    """The edge is killed, and crashes as a fault of its own would make it: a core would hold everything."""
    canaries = []
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
        async with _held(pair, LIST, f"at {number.name}") as (call, canary):
            os.kill(pair.pids(pair.home)[EDGE_OUTBOUND], number)
            await pair.refused(call, None)
        canaries.append(canary)
        assert await until(lambda: EDGE_OUTBOUND not in pair.pids(pair.home), HELD_SECONDS)
        await pair.start(pair.home, EDGE_OUTBOUND)
        await pair.settled(pair.home, EDGE_OUTBOUND, GRANTS, "postgres")
    return canaries


async def withholding(pair: TalkativePair) -> Canaries:
    """PostgreSQL is stopped: what cannot be recorded is not answered."""
    async with _held(pair, LIST, "when PostgreSQL was stopped") as (call, canary):
        await pair.stop(pair.home, "postgres")
        await pair.refused(call, Reason.DEPENDENCY_UNAVAILABLE, Reason.DEADLINE_EXCEEDED)
    await pair.start(pair.home, "postgres")
    await pair.settled(pair.home, GRANTS, "postgres")
    await pair.settled(pair.home, EDGE_OUTBOUND, GRANTS, "postgres")
    return [canary]


@asynccontextmanager
async def _held(pair: TalkativePair, verb: FederatedVerb, when: str) -> AsyncIterator[tuple[Any, Canary]]:
    """A query whose one peer has answered, and whose other has not: the edge holds rows, as its memory shows."""
    canary = _canary(f"{verb}, held {when}")
    never = asyncio.Event()

    async def be_silent(_request: Any, _context: Any) -> None:
        await never.wait()

    async with (
        LyingPeer.start(_folder(pair, "fast"), "fast", partial(_tell, verb, canary)) as fast,
        LyingPeer.start(_folder(pair, "slow"), "slow", be_silent) as slow,
    ):
        metadata = pair.home.user_metadata(await _new_user(pair.home, fast, slow))
        call = pair.home.queries.Query(verb.query(), metadata=metadata)
        asking = asyncio.ensure_future(_result(call))
        pid = pair.pids(pair.home)[EDGE_OUTBOUND]
        held = await until(lambda: bool(slow.asked) and any(canary.secret in part for part in memory_of(pid)), HELD_SECONDS)
        assert held, f"the edge holds no row: {asking}"
        yield asking, canary
        asking.cancel()


async def _result(call: Any) -> Any:
    return await call


# ── shared ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _ask(gateway: Gateway, request: QueryRequest, user_id: UUID | None = None) -> QueryResponse:
    metadata = gateway.user_metadata(user_id or _user_id(gateway))
    answer: QueryResponse = await gateway.queries.Query(request, metadata=metadata)
    return answer


async def _ask_stranger(pair: TalkativePair, peer: LyingPeer | RawPeer, verb: FederatedVerb) -> QueryResponse:
    user_id = await _new_user(pair.home, peer)
    answer = await _ask(pair.home, verb.query(), user_id)
    assert peer.asked, answer
    return answer


async def _new_user(gateway: Gateway, *peers: LyingPeer | RawPeer) -> UUID:
    """Somebody with a connection to each of them."""
    with gateway.database.connect() as owner:
        user_id = Rows(owner).user()
    for peer in peers:
        await connect_to_stranger(gateway, user_id, name=peer.name, endpoint=peer.address, root_pem=peer.root_pem)
    return user_id


def _folder(pair: TalkativePair, name: str) -> Path:
    """Of a stranger's PKI: among what is work's."""
    return pair.folder / "work" / name


def _canary(name: str) -> Canary:
    return Canary(f"row: {name}", new_secret().encode(), SHOWN)


def _row(canary: Canary, *, filler: int = 0, **changes: Any) -> Resource:
    word = canary.secret.decode()
    return task(task=Task(title=word, description=f"{word} {'x' * filler}", status=word), **changes)


def _assert_shown(canary: Canary, answer: QueryResponse) -> None:
    assert canary.secret in answer.SerializeToString(), f"{canary.name} was not read: {answer.sources}"


def _user_id(gateway: Gateway) -> UUID:
    [(user_id,)] = gateway.rows("SELECT id FROM public.users WHERE email = %s", USER)
    return UUID(str(user_id))


_EMBEDDING: Final = REGISTRY["memory"].embedding
assert _EMBEDDING is not None
_NEAR: Final = [1.0] + [0.0] * (_EMBEDDING.dimension - 1)

STORIES: Final[Sequence[Callable[[TalkativePair], Awaitable[Canaries]]]] = (
    planting,
    reading,
    strangers,
    dying,
    hanging_up,
    killing,
    withholding,
)
