"""The connections that queries go through: found dead when they are, never older than the certificate, closed when unused."""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
import pytest
from google.protobuf.message import Message
from mosaic.federation.v1 import query_pb2
from mosaic.federation.v1.query_pb2 import QueryResponse
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND
from mosaic_common.rpc import client
from mosaic_federation_edge.adapters import grants_connections, housekeeping, peer_channels
from mosaic_federation_edge.domain.connections import Connection

from tests.support.connections import connect, connect_again, connect_to_stranger
from tests.support.federated_verbs import LIST
from tests.support.gateway import Gateway, Pair
from tests.support.lying_peer import LyingPeer
from tests.support.relays import ForgetfulRelay, split_address
from tests.support.rows import Rows

OK, DENIED, TIMEOUT, UNAVAILABLE = (
    query_pb2.SOURCE_STATUS_OK,
    query_pb2.SOURCE_STATUS_DENIED,
    query_pb2.SOURCE_STATUS_TIMEOUT,
    query_pb2.SOURCE_STATUS_UNAVAILABLE,
)
# A server may forbid pings more often than every five minutes, which is the library's default.
ALLOWS_PINGS: Final = (("grpc.http2.min_ping_interval_without_data_ms", 50), ("grpc.keepalive_permit_without_calls", 1))


@pytest.fixture
def user(pair: Pair) -> UUID:
    with pair.home.database.connect() as owner:
        return Rows(owner).user()


async def ask(home: Gateway, user: UUID, source: str, *, seconds: float = 7) -> tuple[int, str]:
    """Status and reason of the one source."""
    answer = await home.queries.Query(LIST.query(source), metadata=home.user_metadata(user), timeout=seconds)
    assert isinstance(answer, QueryResponse)
    [result] = answer.sources
    return result.status, result.reason


async def until_answered(home: Gateway, user: UUID, source: str, *, within: float) -> float:
    """Ask until there is an answer; return how long that took."""
    begun = time.monotonic()
    async with asyncio.timeout(within):
        while (told := await ask(home, user, source, seconds=1.25)) != (OK, ""):
            assert told[0] in {TIMEOUT, UNAVAILABLE}
            await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def test_a_connection_that_carries_nothing_is_noticed(
    pair: Pair, user: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without FIN or RST: pings go unanswered, and the next query goes through a fresh connection. Here twenty times as fast."""
    faster = {"grpc.keepalive_time_ms": 1_000, "grpc.keepalive_timeout_ms": 250, "grpc.http2.ping_timeout_ms": 250}
    monkeypatch.setattr(client, "_OPTIONS", tuple((name, faster.get(name, value)) for name, value in client._OPTIONS))

    async def answer(_request: Message, _context: Any) -> Message:
        return LIST.honest_answer()

    async with (
        LyingPeer.start(tmp_path, "liar", answer, *ALLOWS_PINGS) as peer,
        ForgetfulRelay(*split_address(peer.address)) as relay,
    ):
        await connect_to_stranger(pair.home, user, name="liar", endpoint=relay.address, root_pem=peer.root_pem)
        assert await ask(pair.home, user, "federated:liar") == (OK, "")
        relay.forget()
        assert (await ask(pair.home, user, "federated:liar", seconds=1))[0] == TIMEOUT
        await until_answered(pair.home, user, "federated:liar", within=10)
        assert relay.accepted == 2


@pytest.mark.stress
async def test_a_dead_connection_is_noticed_within_half_a_minute(pair: Pair, user: UUID) -> None:
    """With the intervals that are delivered, and a real edge, which allows them."""
    async with ForgetfulRelay(*split_address(pair.work.addresses[EDGE_INBOUND, "public"])) as relay:
        await connect(pair.home, user, pair.work, remote_user="maya@example.com", endpoint=relay.address)
        assert await ask(pair.home, user, "federated:work") == (OK, "")
        relay.forget()
        await until_answered(pair.home, user, "federated:work", within=30)
        assert relay.accepted == 2


async def test_a_re_enrolled_certificate_is_used_by_the_next_query(pair: Pair, user: UUID) -> None:
    """What is held here was refused at work from the completion on: the very next query finds the new certificate, which work may
    not know of for as long as its view of the grant is cached, and never asks with the old one again.
    """
    home, work = pair.home, pair.work
    grant_id = await connect(home, user, work, remote_user="maya@example.com")
    assert await ask(home, user, "federated:work") == (OK, "")
    await connect_again(home, user, work, grant_id)
    async with asyncio.timeout(10):
        while (told := await ask(home, user, "federated:work")) != (OK, ""):
            assert told == (DENIED, "CERTIFICATE_NOT_PINNED"), "the old one is pinned, and revoked"
            await asyncio.sleep(0.1)


async def test_a_lost_re_enrollment_is_told(pair: Pair, user: UUID) -> None:
    """Work has pinned another key and home never got its certificate: the refusal is told as it is, once, without a loop."""
    home, work = pair.home, pair.work
    grant_id = await connect(home, user, work, remote_user="maya@example.com")
    assert await ask(home, user, "federated:work") == (OK, "")
    work.execute(
        "UPDATE federation.federation_certificates SET state = 'revoked', revoked_at = now() WHERE grant_id = %s", grant_id
    )
    assert await ask(home, user, "federated:work") == (DENIED, "CERTIFICATE_REVOKED")


CODE: Final = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "dropped"),
    [
        pytest.param(CODE.UNAUTHENTICATED, True, id="401"),
        pytest.param(CODE.PERMISSION_DENIED, True, id="403"),
        pytest.param(CODE.NOT_FOUND, True, id="404"),
        pytest.param(CODE.INVALID_ARGUMENT, False, id="a question that it does not take"),
        pytest.param(CODE.FAILED_PRECONDITION, False, id="a question at the wrong time"),
        pytest.param(CODE.UNIMPLEMENTED, False, id="a question that it does not know"),
        pytest.param(CODE.RESOURCE_EXHAUSTED, False, id="a question too many"),
        pytest.param(CODE.INTERNAL, False, id="a defect of its own"),
    ],
)
async def test_a_refusal_of_who_asks_drops_what_is_held(
    pair: Pair, user: UUID, tmp_path: Path, code: grpc.StatusCode, dropped: bool
) -> None:
    """401, 403 and 404 close the channel and forget the key, so that the next query asks with what is new; a refusal of one
    question does neither, or a badly formed query would cost a handshake each time.
    """
    connections: list[str] = []

    async def refuse(_request: Message, context: Any) -> Message:
        connections.append(context.peer())
        await context.abort(code, "")
        raise AssertionError

    home = pair.home
    async with LyingPeer.start(tmp_path, "liar", refuse) as peer:
        await connect_to_stranger(home, user, name="liar", endpoint=peer.address, root_pem=peer.root_pem)
        released = len(home.audit("credential.released"))
        for _ in range(3):
            await ask(home, user, "federated:liar")
        released = len(home.audit("credential.released")) - released
    assert (len(set(connections)), released) == ((3, 3) if dropped else (1, 1))


async def test_keys_of_who_stopped_asking_leave_memory(
    pair: Pair, user: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nobody asking any more: what grants released is forgotten, and the channel that holds the key is closed. Here faster."""
    monkeypatch.setattr(housekeeping, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(grants_connections, "HELD_SECONDS", 0.5)
    monkeypatch.setattr(peer_channels, "IDLE_SECONDS", 0.5)

    async def answer(_request: Message, _context: Any) -> Message:
        return LIST.honest_answer()

    home = pair.home
    await home.stop(EDGE_OUTBOUND)
    await home.start(EDGE_OUTBOUND)
    try:
        async with LyingPeer.start(tmp_path, "forgotten", answer) as peer, ForgetfulRelay(*split_address(peer.address)) as relay:
            await connect_to_stranger(home, user, name="forgotten", endpoint=relay.address, root_pem=peer.root_pem)
            assert await ask(home, user, "federated:forgotten") == (OK, "")
            assert keys_in_memory("forgotten") == 1
            assert relay.open == 1
            async with asyncio.timeout(10):
                while keys_in_memory("forgotten") or relay.open:
                    await asyncio.sleep(0.05)
    finally:
        await home.stop(EDGE_OUTBOUND)
        monkeypatch.undo()
        await home.start(EDGE_OUTBOUND)


def keys_in_memory(name: str) -> int:
    """How many connections of this name the process holds."""
    gc.collect()
    return sum(each.name == name for each in gc.get_objects() if isinstance(each, Connection))
