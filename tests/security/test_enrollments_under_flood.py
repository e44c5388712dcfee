"""Honest enrollments while strangers hold the public door with everything that costs them nothing."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import grpc
import pytest
from mosaic.enrollment.v1 import enrollment_pb2_grpc
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.identity import ENROLLMENT, OPERATOR, dns_name
from mosaic_common.tokens import EnrollmentUrl

from tests.support.attacked import ServiceProcess, attacked, until
from tests.support.floods import Flood, Kind, Report, Target, send
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.peers import Redemption
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.alone

USER: Final = "maya@example.com"
HONEST: Final = 20
# As long as the honest ones take on a busy machine; a handshake that goes no further is ended by the server after 5 s.
FLOOD_SECONDS: Final = 20.0
CONNECT_SECONDS: Final = 60.0
# A half-open connection that the server has ended is replaced, which takes the attacker a moment.
STANDING: Final = 0.9
# One second more would be noticed by a person; the full form asks for what the machine must do when nothing else runs on it.
NOTICED_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway of processes, each its own."""

    gateway: Gateway
    process: ServiceProcess
    target: Target


@pytest.fixture(scope="module")
async def site(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    with postgres_server.fresh() as database:
        gateway = Gateway("work", tmp_path_factory.mktemp("flooded"), database, valkey)
        gateway.prepare()
        gateway.execute("INSERT INTO public.users (id, email, name, active) VALUES (%s, %s, 'User', true)", uuid4(), USER)
        async with attacked(gateway) as processes:
            host, _, port = gateway.addresses[ENROLLMENT, "public"].rpartition(":")
            root = str(gateway.pki / OPERATOR / "service-root.pem")
            path = "/mosaic.enrollment.v1.EnrollmentService/Enroll"
            target = Target(host, int(port), dns_name(ENROLLMENT, gateway.name), root, path)
            yield Site(gateway, processes[ENROLLMENT], target)


async def offers(gateway: Gateway) -> list[EnrollmentUrl]:
    grants = [await gateway.create_grant(user=USER, peer=f"p{uuid4().hex}", scope=TASKS_NOTES_MEMORY) for _ in range(HONEST)]
    return [await gateway.create_token(grant) for grant in grants]


async def enroll_all(gateway: Gateway, urls: list[EnrollmentUrl]) -> list[float]:
    """Redeem one after the other, each on a connection of its own; the seconds that each took, connecting included."""
    seconds = []
    options = (("grpc.ssl_target_name_override", dns_name(ENROLLMENT, gateway.name)), ("grpc.use_local_subchannel_pool", 1))
    for url in urls:
        redemption = Redemption.of(url)
        begun = time.perf_counter()
        credentials = grpc.ssl_channel_credentials(gateway.service_root)
        async with grpc.aio.secure_channel(gateway.addresses[ENROLLMENT, "public"], credentials, options) as channel:
            await enrollment_pb2_grpc.EnrollmentServiceStub(channel).Enroll(redemption.request, timeout=15)
        seconds.append(time.perf_counter() - begun)
    return seconds


def p95(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[-1]


async def _measure(site: Site, held: int, record: Callable[[str], None]) -> tuple[float, float]:
    """Return p95 of twenty honest enrollments in seconds, without and within the flood; none of them may fail."""
    idle = p95(await enroll_all(site.gateway, await offers(site.gateway)))
    urls = await offers(site.gateway)
    before = site.process.descriptors
    floods = [
        Flood(Kind.HALF_OPEN, connections=held, streams=0, seconds=FLOOD_SECONDS, replaced=True),
        Flood(Kind.MUTE, connections=held, streams=0, seconds=FLOOD_SECONDS),
        Flood(Kind.OVERSIZED, connections=4, streams=4, seconds=FLOOD_SECONDS),
        Flood(Kind.UNDECODABLE, connections=4, streams=4, seconds=FLOOD_SECONDS),
    ]
    attacks: list[Awaitable[Report]] = [asyncio.create_task(send(site.target, flood)) for flood in floods]
    # What follows is served with every one of them there, from the first honest enrollment to the last.
    assert await until(lambda: site.process.descriptors >= before + 2 * held, CONNECT_SECONDS)
    flooded = p95(await enroll_all(site.gateway, urls))
    assert site.process.descriptors >= before + 2 * held * STANDING
    half_open, mute, oversized, undecodable = await asyncio.gather(*attacks)
    record(f"idle p95 {idle * 1000:.0f} ms, flooded p95 {flooded * 1000:.0f} ms\n{half_open}\n{mute}\n{oversized}\n{undecodable}")

    assert half_open.connections >= held
    assert mute.connections == held
    assert min(oversized.ended_by_server, undecodable.ended_by_server) > 0, "there were such messages at all"
    return idle, flooded


async def test_honest_enrollments_do_not_notice(site: Site, request: pytest.FixtureRequest) -> None:
    """200 unfinished handshakes, 200 mute connections, oversized and undecodable messages: 20 of 20 enroll, hardly later."""
    idle, flooded = await _measure(site, 200, lambda text: request.node.add_report_section("call", "flood", text))
    assert flooded <= idle + NOTICED_SECONDS


@pytest.mark.stress
async def test_honest_enrollments_do_not_notice_under_stress(site: Site, request: pytest.FixtureRequest) -> None:
    """2,000 of each: of 20 honest enrollments none fails, p95 ≤ max(2 × idle, idle + 100 ms)."""
    idle, flooded = await _measure(site, 2_000, lambda text: request.node.add_report_section("call", "flood", text))
    assert flooded <= max(2 * idle, idle + 0.1)
