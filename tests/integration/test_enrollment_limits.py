"""Enrollment holds its limits: for all replicas in Valkey, and without Valkey strictly in each."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import mosaic_enrollment.app
import mosaic_enrollment.config
import pytest
from grpc_health.v1 import health_pb2
from mosaic.enrollment.v1 import enrollment_pb2, enrollment_pb2_grpc
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.config import load
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS, OPERATOR
from mosaic_common.rpc.application import Application

from tests.support.gateway import Gateway
from tests.support.health import first_report, serving
from tests.support.offers import Offer
from tests.support.peers import Redemption, Refusal, refusal
from tests.support.postgres import PostgresServer
from tests.support.watched_valkey import WatchedValkey

SOURCE, TOKEN, UNKNOWN = (f"MOSAIC_ENROLLMENT_{each}_PER_MINUTE" for each in ("SOURCE", "TOKEN", "UNKNOWN"))
SECOND = "second replica"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedValkey]:
    with WatchedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
async def gateway(
    postgres_server: PostgresServer, valkey: WatchedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """Broker and grants; each test starts enrollment with limits of its own."""
    with postgres_server.fresh() as database:
        work = Gateway("work", tmp_path_factory.mktemp("work"), database, valkey)
        work.prepare()
        try:
            await work.start(CA_BROKER, GRANTS)
            yield work
        finally:
            await work.close()


@pytest.fixture
def work(gateway: Gateway, valkey: WatchedValkey) -> Gateway:
    """The gateway, and nothing counted yet."""
    valkey.flush()
    return gateway


def built(work: Gateway, environment: dict[str, str]) -> Application:
    return mosaic_enrollment.app.build(load(mosaic_enrollment.config.Config, environment), work.clock)


@asynccontextmanager
async def limited(work: Gateway, **settings: str) -> AsyncIterator[None]:
    """Enrollment with these settings instead of the test bed's, sure of what it needs."""
    work.instead[ENROLLMENT] = lambda gateway: built(gateway, gateway.environment(ENROLLMENT) | settings)
    await work.start(ENROLLMENT)
    try:
        await serving(work.internal_channel(ENROLLMENT, caller=OPERATOR), CA_BROKER, GRANTS, "valkey")
        yield
    finally:
        await work.stop(ENROLLMENT)


@asynccontextmanager
async def second_replica(work: Gateway, **settings: str) -> AsyncIterator[Any]:
    """Another enrollment of the same gateway; yields its stub."""
    public, internal = (f"127.0.0.1:{port}" for port in choose_free_ports(2))
    own = {"MOSAIC_PUBLIC_LISTEN": public, "MOSAIC_INTERNAL_LISTEN": internal}
    replica = built(work, work.environment(ENROLLMENT) | settings | own)
    work.addresses[ENROLLMENT, SECOND] = public
    await replica.start()
    try:
        yield enrollment_pb2_grpc.EnrollmentServiceStub(work.channel(ENROLLMENT, SECOND))
    finally:
        await replica.stop()


def made_up() -> enrollment_pb2.EnrollRequest:
    """What a stranger sends who has no token: well-formed, and proved by nobody."""
    return enrollment_pb2.EnrollRequest(
        token_public_key=secrets.token_bytes(32),
        csr_der=b"no CSR",
        redemption_id=str(UUID(bytes=secrets.token_bytes(16), version=4)),
        proof=bytes(64),
    )


async def refusals(stub: Any, *requests: enrollment_pb2.EnrollRequest) -> list[Refusal]:
    return [await refusal(stub.Enroll(request)) for request in requests]


def reasons(answers: list[Refusal]) -> list[str]:
    return [each.reason for each in answers]


async def recorded(work: Gateway, wanted: Callable[[dict[str, Any]], bool], refused: int) -> list[dict[str, Any]]:
    """Wait until the rows stand for so many refusals; enrollment hands over what it counted once a second."""
    async with asyncio.timeout(10):
        while True:
            rows = [row for row in work.audit("enrollment.refused") if row["denied_reason"] == "RATE_LIMITED" and wanted(row)]
            if sum(row["repeated"] for row in rows) >= refused:
                return rows
            await asyncio.sleep(0.05)


async def test_a_source_hears_when_to_come_back_and_is_recorded(work: Gateway) -> None:
    """Code, reason, RetryInfo and audit row of what one address tried beyond its limit; grants never heard of it."""
    known_before = len(work.audit("enrollment.refused"))
    async with limited(work, **{SOURCE: "3"}):
        answers = await refusals(work.enrollment, *(made_up() for _ in range(5)))
        assert reasons(answers) == ["ENROLLMENT_TOKEN_UNKNOWN"] * 3 + ["RATE_LIMITED"] * 2
        refused = answers[-1]
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.metadata["http_status"] == "429"
        assert refused.retry_after_seconds is not None
        assert 15 < refused.retry_after_seconds <= 20
        rows = await recorded(work, lambda row: True, 2)
    assert {(row["outcome"], row["denied_layer"], row["source_address"], row["token_id"]) for row in rows} == {
        ("denied", "rate", "127.0.0.1", None)
    }
    unknown = [row for row in work.audit("enrollment.refused")[known_before:] if row["denied_reason"] == "ENROLLMENT_TOKEN_UNKNOWN"]
    assert sum(row["repeated"] for row in unknown) <= 3


async def test_coming_back_as_told_is_early_enough(work: Gateway, valkey: WatchedValkey) -> None:
    """An honest client that obeys RetryInfo is served, and the token has lost nothing by the refusals."""
    offer = await Offer.make(work)
    redemption = Redemption.of(offer.url)
    async with limited(work, **{SOURCE: "2"}):
        await refusals(work.enrollment, made_up(), made_up())
        for _ in range(5):
            refused = await refusal(work.enrollment.Enroll(redemption.request))
            assert refused.reason == "RATE_LIMITED"
        assert refused.retry_after_seconds is not None
        valkey.let_pass(timedelta(seconds=refused.retry_after_seconds))
        assert (await work.enrollment.Enroll(redemption.request)).certificate_der
    assert offer.standing() == ("active", "active", 1)


async def test_a_known_token_has_a_limit_of_its_own(work: Gateway) -> None:
    """Whoever tries one token too often stops nobody else; the row names token, grant and peer."""
    worn, other = await Offer.make(work), await Offer.make(work)
    redemption = Redemption.of(worn.url)
    async with limited(work, **{TOKEN: "3"}):
        for _ in range(3):
            assert (await work.enrollment.Enroll(redemption.request)).certificate_der
        refused = await refusals(work.enrollment, redemption.request, redemption.request)
        assert reasons(refused) == ["RATE_LIMITED"] * 2
        assert (await work.redeem(other.url)).answer.certificate_der
        [row, *more] = await recorded(work, lambda row: row["token_id"] == worn.token_id, 2)
    assert all(each["token_id"] == worn.token_id for each in more)
    [(peer_id,)] = work.rows("SELECT peer_id FROM federation.federation_grants WHERE id = %s", worn.grant_id)
    assert (row["grant_id"], row["peer_id"], row["denied_layer"], row["outcome"]) == (worn.grant_id, peer_id, "rate", "denied")


async def test_strangers_use_up_nothing_that_a_token_needs(work: Gateway) -> None:
    """When all unknown tokens together are refused, each known one is served, also one that was made meanwhile."""
    async with limited(work, **{UNKNOWN: "2", "MOSAIC_BEHIND_PROXY": "true"}):
        answers = await refusals(work.enrollment, *(made_up() for _ in range(4)))
        assert reasons(answers) == ["ENROLLMENT_TOKEN_UNKNOWN"] * 2 + ["RATE_LIMITED"] * 2
        offer = await Offer.make(work)
        redemption = Redemption.of(offer.url)
        # At most a second: grants may have been asked a moment before the token was made.
        async with asyncio.timeout(5):
            while (answer := await attempt(work, redemption)) == "RATE_LIMITED":
                await asyncio.sleep(0.05)
    assert answer == "enrolled"
    assert offer.standing() == ("active", "active", 1)


async def attempt(work: Gateway, redemption: Redemption) -> str:
    """How one attempt ended: enrolled, or the reason why not."""
    try:
        await work.enrollment.Enroll(redemption.request)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error).reason
    return "enrolled"


async def test_behind_a_proxy_its_address_has_no_limit(work: Gateway, valkey: WatchedValkey) -> None:
    """All peers come from one address there, so it is not counted at all."""
    offer = await Offer.make(work)
    redemption = Redemption.of(offer.url)
    async with limited(work, **{SOURCE: "1", TOKEN: "60", "MOSAIC_BEHIND_PROXY": "true"}):
        for _ in range(10):
            assert (await work.enrollment.Enroll(redemption.request)).certificate_der
    assert valkey.keys() == [f"enrollment:token:{offer.token_id.hex()}"]


async def test_two_replicas_hold_one_limit(work: Gateway) -> None:
    """What one has let through, the other counts too."""
    async with limited(work, **{SOURCE: "6"}), second_replica(work, **{SOURCE: "6"}) as other:
        first = work.enrollment
        answers = [await refusal(stub.Enroll(made_up())) for _ in range(6) for stub in (first, other)]
    assert reasons(answers) == ["ENROLLMENT_TOKEN_UNKNOWN"] * 6 + ["RATE_LIMITED"] * 6


async def test_what_strangers_make_up_leaves_no_key(work: Gateway, valkey: WatchedValkey) -> None:
    """Through the door: a key for where they come from, one for all that they make up, and one for the token that exists."""
    offer = await Offer.make(work)
    async with limited(work, **{TOKEN: "60", UNKNOWN: "60", SOURCE: "600"}):
        answers = await refusals(work.enrollment, *(made_up() for _ in range(300)))
        await work.redeem(offer.url)
        lives = valkey.lives()
    assert {"ENROLLMENT_TOKEN_UNKNOWN", "RATE_LIMITED"} == set(reasons(answers))
    assert lives.keys() == {"enrollment:source:127.0.0.1", "enrollment:unknown", f"enrollment:token:{offer.token_id.hex()}"}
    assert all(timedelta(0) < life <= timedelta(minutes=1) for life in lives.values())


async def test_without_valkey_the_limits_are_stricter_and_health_says_so(work: Gateway, valkey: WatchedValkey) -> None:
    """Killed: a quarter of the limit in this process, `dependency.valkey` is down, the service itself is not; back: all of it."""
    async with limited(work, **{SOURCE: "12"}):
        valkey.stop()
        try:
            answers = await refusals(work.enrollment, *(made_up() for _ in range(6)))
            assert reasons(answers) == ["ENROLLMENT_TOKEN_UNKNOWN"] * 3 + ["RATE_LIMITED"] * 3
            assert all(each.retry_after_seconds for each in answers[3:])
            assert await until_reported(work, "valkey", health_pb2.HealthCheckResponse.NOT_SERVING)
        finally:
            valkey.start()
        assert await until_reported(work, "valkey", health_pb2.HealthCheckResponse.SERVING)
        async with asyncio.timeout(10):
            while (await refusal(work.enrollment.Enroll(made_up()))).reason == "RATE_LIMITED":
                await asyncio.sleep(0.05)
        answers = await refusals(work.enrollment, *(made_up() for _ in range(6)))
        assert reasons(answers) == ["ENROLLMENT_TOKEN_UNKNOWN"] * 6


@pytest.mark.alone
async def test_a_valkey_that_hangs_does_not_cost_each_call_its_timeout(work: Gateway, valkey: WatchedValkey) -> None:
    """Stopped in the middle: one call a second waits a tenth of it; twenty calls one after the other take nowhere near two."""
    async with limited(work):
        await refusals(work.enrollment, made_up())
        with valkey.hanging():
            began = time.monotonic()
            answers = await refusals(work.enrollment, *(made_up() for _ in range(20)))
            took = time.monotonic() - began
        assert set(reasons(answers)) == {"ENROLLMENT_TOKEN_UNKNOWN"}
        assert took < 1.0


async def until_reported(work: Gateway, dependency: str, status: Any) -> bool:
    """Wait until enrollment says this of a dependency, and serves all the while."""
    channel = work.internal_channel(ENROLLMENT, caller=OPERATOR)
    async with asyncio.timeout(10):
        while await first_report(channel, dependency) != status:
            await asyncio.sleep(0.05)
    return True
