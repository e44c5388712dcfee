"""How much a grant may ask, from the operator who says so to the peer that is refused: two edges, one Valkey, all of it real."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import grpc
import pytest
from grpc_health.v1 import health_pb2
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic.federation.v1 import federation_pb2_grpc
from mosaic.grants.v1 import grants_pb2, types_pb2
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.audit import Outcome
from mosaic_common.auth import Role
from mosaic_common.config import load
from mosaic_common.errors import Layer
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR
from mosaic_federation_edge.app import build_inbound
from mosaic_federation_edge.config import InboundConfig

from tests.support.audit_records import assert_recorded
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.health import first_report, serving
from tests.support.operators import grant_of, revoke_grant
from tests.support.peers import PeerClient, Refusal, refusal
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows
from tests.support.watched_valkey import WatchedValkey

pytestmark = pytest.mark.alone

SECOND: Final = "second replica"
SLOW: Final = 1
VIEW_SECONDS: Final = 5
"""The edge looks at a grant again after so long."""


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedValkey]:
    with WatchedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
async def work(
    postgres_server: PostgresServer, valkey: WatchedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """The serving side, its edge sure of what it needs."""
    with postgres_server.fresh() as database:
        gateway = Gateway("work", tmp_path_factory.mktemp("work"), database, valkey)
        gateway.prepare()
        try:
            await gateway.start(CA_BROKER, GRANTS, ENROLLMENT, EDGE_INBOUND)
            await serving(gateway.internal_channel(EDGE_INBOUND, caller=OPERATOR), GRANTS, "postgres", "valkey")
            yield gateway
        finally:
            await gateway.close()


@pytest.fixture(scope="module")
def user(work: Gateway) -> UUID:
    with work.database.connect() as owner:
        return Rows(owner).user()


@asynccontextmanager
async def second_edge(work: Gateway) -> AsyncIterator[str]:
    """Another inbound edge of the same gateway; yields under which name its address is found."""
    public, internal = (f"127.0.0.1:{port}" for port in choose_free_ports(2))
    environment = work.environment(EDGE_INBOUND) | {"MOSAIC_PUBLIC_LISTEN": public, "MOSAIC_INTERNAL_LISTEN": internal}
    replica = build_inbound(load(InboundConfig, environment), work.clock)
    await replica.start()
    work.addresses[EDGE_INBOUND, SECOND] = public
    try:
        yield SECOND
    finally:
        await replica.stop()


async def enrolled(work: Gateway, user: UUID, limit: types_pb2.RateLimit | None, peer: str = "home") -> PeerClient:
    further = {} if limit is None else {"limit": limit}
    grant_id = await work.create_grant(user=str(user), peer=peer, scope=TASKS_NOTES_MEMORY, **further)
    return work.peer_client(await work.redeem(await work.create_token(grant_id)))


def on(work: Gateway, replica: str, peer: PeerClient) -> PeerClient:
    """The same client, connected to another replica."""
    channel = work.channel(EDGE_INBOUND, replica, key=peer.key, chain=peer.chain)
    return PeerClient(federation_pb2_grpc.FederationServiceStub(channel), peer.grant_id, peer.key, peer.chain)


def limit(burst: int, per_second: float = SLOW) -> types_pb2.RateLimit:
    return types_pb2.RateLimit(per_second=per_second, burst=burst)


async def outcome(call: Any) -> Refusal | None:
    """Await a call: None when it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    return None


async def set_limit(work: Gateway, grant_id: str, to: types_pb2.RateLimit | None) -> types_pb2.Grant:
    request = grants_pb2.LimitGrantRequest(id=grant_id, limit=to)
    answer: grants_pb2.LimitGrantResponse = await work.grants.LimitGrant(request, metadata=work.operator_metadata())
    return answer.grant


# --- what a peer meets


async def test_a_grant_has_the_limit_it_was_created_with(work: Gateway, user: UUID, valkey: WatchedValkey) -> None:
    """Beyond it: 429 with its reason and RetryInfo, in the record as such; as told is early enough; another grant has its own."""
    few, many = await enrolled(work, user, limit(3)), await enrolled(work, user, None)
    began = time.monotonic()
    outcomes = await asyncio.gather(*(outcome(few.list("tasks")) for _ in range(20)))
    assert 3 <= outcomes.count(None) <= 3 + time.monotonic() - began
    refused = min((each for each in outcomes if each is not None), key=lambda each: each.retry_after_seconds or 0)
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refused.metadata["http_status"] == "429"
    assert refused.retry_after_seconds is not None
    assert 0 < refused.retry_after_seconds <= 1.1
    assert_recorded(work, refused, Layer.RATE, outcome=Outcome.DENIED)
    await many.list("tasks")
    valkey.let_pass(timedelta(seconds=refused.retry_after_seconds))
    await few.list("tasks")


async def test_a_search_costs_as_much_as_ten_other_calls(work: Gateway, user: UUID) -> None:
    """Every other verb costs one."""
    peer = await enrolled(work, user, limit(12))
    request = pb.SearchResourcesRequest(resources=["tasks"], query="anything")
    outcomes = await asyncio.gather(
        outcome(peer.stub.SearchResources(request)), *(outcome(each) for each in (peer.list("tasks"), peer.capabilities()))
    )
    assert outcomes == [None, None, None]
    refused = await refusal(peer.stub.SearchResources(request))
    assert refused.reason == "RATE_LIMITED"
    assert refused.retry_after_seconds is not None
    assert refused.retry_after_seconds > 5


async def test_two_edges_hold_one_limit_and_one_set_of_slots(work: Gateway, user: UUID, valkey: WatchedValkey) -> None:
    """Together they let in what the limit says; whoever was refused at one comes back to the other as told, never in vain."""
    peer = await enrolled(work, user, limit(5))
    async with second_edge(work) as second:
        doors = [peer, on(work, second, peer)]
        await doors[1].capabilities()
        began = time.monotonic()
        outcomes = await asyncio.gather(*(outcome(doors[number % 2].capabilities()) for number in range(12)))
        assert 4 <= outcomes.count(None) <= 5 + time.monotonic() - began
        waits = sorted(each.retry_after_seconds or 0.0 for each in outcomes if each is not None)
        assert waits[-1] > len(waits) - 2
        passed = 0.0
        for number, wait in enumerate(waits):
            valkey.let_pass(timedelta(seconds=wait - passed))
            passed = wait
            await doors[number % 2].capabilities()


async def test_who_may_not_ask_leaves_no_key(work: Gateway, user: UUID, valkey: WatchedValkey) -> None:
    """Only grants that were allowed to ask are counted: a grant that has ended, however often it calls, has none."""
    peer = await enrolled(work, user, limit(5), peer="ended")
    await revoke_grant(work, UUID(peer.grant_id))
    valkey.flush()
    for _ in range(5):
        assert (await refusal(peer.list("tasks"))).reason == "GRANT_NOT_ACTIVE"
    assert not any(peer.grant_id in key for key in valkey.lives())
    assert all(life > timedelta() for life in valkey.lives().values())


async def test_without_valkey_a_strict_part_is_held_and_afterwards_all_of_it(
    work: Gateway, user: UUID, valkey: WatchedValkey
) -> None:
    """Killed: a quarter of the limit here, never more, `dependency.valkey` is down and nothing else; restarted: the whole limit."""
    peer = await enrolled(work, user, limit(20))
    health = work.internal_channel(EDGE_INBOUND, caller=OPERATOR)
    await peer.capabilities()
    valkey.stop()
    try:
        outcomes = await asyncio.gather(*(outcome(peer.capabilities()) for _ in range(40)))
        assert 0 < outcomes.count(None) <= 20 // 4 + 1
        assert {each.reason for each in outcomes if each is not None} == {"RATE_LIMITED"}
        assert all(each.retry_after_seconds for each in outcomes if each is not None)
        async with asyncio.timeout(15):
            while await first_report(health, "valkey") != health_pb2.HealthCheckResponse.NOT_SERVING:
                await asyncio.sleep(0.05)
    finally:
        valkey.start()
    await serving(health, "valkey")
    async with asyncio.timeout(15):
        while f"edge-inbound:grant:{peer.grant_id}" not in valkey.lives():
            await outcome(peer.capabilities())
            await asyncio.sleep(0.05)
    outcomes = await asyncio.gather(*(outcome(peer.capabilities()) for _ in range(40)))
    assert 10 < outcomes.count(None) <= 21


# --- what an operator does


async def test_an_operator_limits_a_grant_and_takes_it_back(work: Gateway, user: UUID) -> None:
    """Pending or active; shown with the grant, recorded with who did it, in force at the edge within seconds."""
    peer = await enrolled(work, user, None)
    assert not (await grant_of(work, UUID(peer.grant_id))).HasField("limit")
    assert (await set_limit(work, peer.grant_id, limit(2))).limit == limit(2)
    assert (await grant_of(work, UUID(peer.grant_id))).limit == limit(2)
    async with asyncio.timeout(3 * VIEW_SECONDS):
        while (refused := await outcome(peer.capabilities())) is None:
            await asyncio.sleep(0.02)
    assert refused.reason == "RATE_LIMITED"

    assert not (await set_limit(work, peer.grant_id, None)).HasField("limit")
    async with asyncio.timeout(3 * VIEW_SECONDS):
        while any(await asyncio.gather(*(outcome(peer.capabilities()) for _ in range(10)))):
            await asyncio.sleep(0.1)
    rows = [row for row in work.audit("grant.limited") if str(row["grant_id"]) == peer.grant_id]
    assert [row["outcome"] for row in rows] == ["allowed", "allowed"]


@pytest.mark.parametrize(
    ("per_second", "burst", "fields"),
    [
        pytest.param(0, 10, {"limit.per_second"}, id="no tokens ever"),
        pytest.param(-1, 10, {"limit.per_second"}, id="fewer than none"),
        pytest.param(0.5, 10, {"limit.per_second"}, id="half a token"),
        pytest.param(100_001, 10, {"limit.per_second"}, id="more than any peer has"),
        pytest.param(float("nan"), 10, {"limit.per_second"}, id="no number"),
        pytest.param(float("inf"), 10, {"limit.per_second"}, id="infinitely many"),
        pytest.param(10, 0, {"limit.burst"}, id="one of the two is missing"),
        pytest.param(10, 1_000_001, {"limit.burst"}, id="a burst without an end"),
        pytest.param(0, -1, {"limit.per_second", "limit.burst"}, id="both: all that is wrong is said at once"),
    ],
)
async def test_refuses_what_is_no_limit(work: Gateway, user: UUID, per_second: float, burst: int, fields: set[str]) -> None:
    """At creation and later alike; nothing is written."""
    peer = await enrolled(work, user, limit(7))
    bad = types_pb2.RateLimit(per_second=per_second, burst=burst)
    changing = await refusal(set_limit(work, peer.grant_id, bad))
    creating = await refusal(work.create_grant(user=str(user), peer="home", scope=TASKS_NOTES_MEMORY, limit=bad))
    for refused in (changing, creating):
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
        assert refused.violations.keys() == fields
    assert (await grant_of(work, UUID(peer.grant_id))).limit == limit(7)


async def test_a_grant_that_has_ended_is_limited_no_more(work: Gateway, user: UUID) -> None:
    """As with every other transition; and one that does not exist is not there."""
    grant_id = await work.create_grant(user=str(user), peer="home", scope=TASKS_NOTES_MEMORY)
    assert (await set_limit(work, grant_id, limit(4))).limit == limit(4)
    await revoke_grant(work, UUID(grant_id))
    refused = await refusal(set_limit(work, grant_id, limit(5)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "GRANT_STATE_CHANGED")
    assert_recorded(work, refused, Layer.GRANT, outcome=Outcome.DENIED)
    missing = await refusal(set_limit(work, str(UUID(int=5)), limit(5)))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "GRANT_NOT_FOUND")


async def test_only_an_admin_limits(work: Gateway, user: UUID) -> None:
    """Whoever may read may not."""
    grant_id = await work.create_grant(user=str(user), peer="home", scope=TASKS_NOTES_MEMORY)
    request = grants_pb2.LimitGrantRequest(id=grant_id, limit=limit(1))
    refused = await refusal(work.grants.LimitGrant(request, metadata=work.operator_metadata(Role.READ)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
