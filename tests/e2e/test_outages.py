"""kill -9 of each service of a gateway in turn: who calls it says so, nobody falls with it, and all is well once it is back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mosaic.federation.v1 import federation_pb2, query_pb2
from mosaic_cli.dev.gateway import LISTENERS, POSTGRES, STEP_CA
from mosaic_cli.dev.services import DEPENDENCIES
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS, OPERATOR, SERVICES

from tests.support.connections import connect
from tests.support.dev_pair import DevPair, dev_pair
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.peers import PeerClient, Redeemed, Redemption, refusal

pytestmark = pytest.mark.alone

NOTICED_SECONDS: Final = 5.0
RECOVERED_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.1
USER: Final = "maya@example.com"
PEER: Final = "home"

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING

# The embedded authority is no process of its own.
VICTIMS: Final = [service for service in LISTENERS if service != STEP_CA]
SERVERS: Final = [service for service in VICTIMS if service not in SERVICES]
ENROLLING: Final = frozenset({POSTGRES, CA_BROKER, GRANTS, ENROLLMENT})

HealthTable = Mapping[tuple[str, str], "health_pb2.HealthCheckResponse.ServingStatus"]


@dataclass(frozen=True, slots=True)
class Story:
    """Two gateways that have come to know each other, and the steps that anybody may take next.

    Attributes:
        peer: a client of work with nothing but its key, its connection open since before the outage.
        health: of work's services, asked as `operator`.
    """

    pair: DevPair
    peer: PeerClient
    health: Mapping[str, Any]

    @property
    def work(self) -> Gateway:
        return self.pair.work

    async def offer(self) -> Redemption:
        """A redemption that work would accept, not sent yet."""
        grant_id = await self.work.create_grant(user=USER, peer=PEER, scope=TASKS_NOTES_MEMORY)
        return Redemption.of(await self.work.create_token(grant_id))

    async def redeem(self, redemption: Redemption) -> None:
        answer = await self.work.enrollment.Enroll(redemption.request)
        assert Redeemed(redemption, answer).certificate.public_key() == redemption.key.public_key()

    async def list_as_peer(self) -> None:
        assert (await self.peer.list("tasks")).resources

    async def ask_everywhere(self, gateway: Gateway, other: Gateway) -> None:
        request = query_pb2.QueryRequest(verb=federation_pb2.VERB_LIST, resources=["tasks"], source="all", page_size=500)
        answer = await gateway.queries.Query(request, metadata=gateway.user_metadata(self.pair.users[gateway.name][USER]))
        assert {row.source for row in answer.rows} == {"local", f"federated:{other.name}"}
        assert not answer.partial, answer.sources

    async def goes_on(self, redemption: Redemption) -> None:
        """Return once every step that may come next has succeeded, and health says the same. Raises what does not in time."""
        steps = (
            lambda: self.redeem(redemption),
            self.list_as_peer,
            lambda: self.ask_everywhere(self.pair.home, self.work),
            lambda: self.ask_everywhere(self.work, self.pair.home),
            self.be_healthy,
        )
        await asyncio.gather(*(succeeds(step, within_seconds=RECOVERED_SECONDS) for step in steps))

    async def be_healthy(self) -> None:
        assert set((await self.health_table(SERVICES)).values()) == {SERVING}

    async def health_table(self, services: Iterable[str]) -> HealthTable:
        asked = list(reports_of(services))
        answers = await asyncio.gather(*(self._status(service, name) for service, name in asked))
        return dict(zip(asked, answers, strict=True))

    async def _status(self, service: str, name: str) -> "health_pb2.HealthCheckResponse.ServingStatus":
        request = health_pb2.HealthCheckRequest(service=name)
        answer: health_pb2.HealthCheckResponse = await self.health[service].Check(request, timeout=ANSWER_SECONDS)
        return answer.status


@pytest.fixture(scope="module")
async def story(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    folder: Path = tmp_path_factory.mktemp("outages")
    async with dev_pair(folder) as pair:
        await connect(pair.home, pair.users["home"][USER], pair.work, remote_user=USER)
        await connect(pair.work, pair.users["work"][USER], pair.home, remote_user=USER)
        peer = await pair.work.enroll(user=USER, peer=PEER)
        channels = {service: pair.work.internal_channel(service, caller=OPERATOR) for service in SERVICES}
        health = {service: health_pb2_grpc.HealthStub(channel) for service, channel in channels.items()}
        yield Story(pair, peer, health)


@pytest.mark.parametrize("victim", VICTIMS)
async def test_kill_9_is_noticed_within_5_s_and_over_10_s_after_the_restart(story: Story, victim: str) -> None:
    """Whoever calls the victim reports it, no service reports anything else or falls with it, and a redemption that was tried
    meanwhile, a peer's open connection and queries in both directions go on by themselves."""
    work, before = story.work, story.pair.pids(story.work)
    survivors = {name: pid for name, pid in before.items() if name in SERVICES and name != victim}
    outage = {report: NOT_SERVING if report[1] == f"dependency.{victim}" else SERVING for report in reports_of(survivors)}
    redemption = await story.offer()

    async def ended() -> None:
        assert story.pair.pids(work)[victim] is None

    async def noticed() -> None:
        assert await story.health_table(survivors) == outage

    os.kill(before[victim] or 0, signal.SIGKILL)
    if victim in ENROLLING:
        # At once, before anybody has noticed: what is tried now must not be in the way later.
        assert (await refusal(work.enrollment.Enroll(redemption.request))).code is grpc.StatusCode.UNAVAILABLE
    await asyncio.gather(*(succeeds(step, within_seconds=NOTICED_SECONDS) for step in (ended, noticed)))

    await story.pair.start_service(work, victim)
    await story.goes_on(redemption)
    after = story.pair.pids(work)
    assert {name: after[name] for name in survivors} == survivors


async def test_after_a_power_cut_the_order_of_starting_does_not_matter(story: Story) -> None:
    """All of a gateway is killed at once. Services that come up before their database, their Valkey and each other serve, say what
    they miss, and find it when it comes."""
    work, redemption = story.work, await story.offer()
    for pid in story.pair.pids(work).values():
        os.kill(pid or 0, signal.SIGKILL)

    async def ended() -> None:
        assert not any(story.pair.pids(work).values())

    async def missed() -> None:
        missing = {(service, f"dependency.{server}") for service in SERVICES for server in SERVERS}
        table = await story.health_table(SERVICES)
        assert {report for report, status in table.items() if status == NOT_SERVING} == missing & table.keys()

    await succeeds(ended, within_seconds=NOTICED_SECONDS)
    await asyncio.gather(*(story.pair.start_service(work, service) for service in SERVICES))
    await succeeds(missed, within_seconds=NOTICED_SECONDS)
    await asyncio.gather(*(story.pair.start_service(work, server) for server in SERVERS))
    await story.goes_on(redemption)


def test_every_address_that_a_service_is_given_is_a_dependency_that_it_reports(story: Story) -> None:
    """The table that the outages are generated from is complete: it names whatever a running service's environment leads to."""
    called = {
        (gateway_address, callee)
        for (callee, listener), gateway_address in story.work.addresses.items()
        if listener in {"internal", "sql", "resp"}
    }
    for service, pid in story.pair.pids(story.work).items():
        if service not in SERVICES:
            continue
        given = settings_of(pid or 0)
        reached = {callee for address, callee in called if callee != service and any(address in value for value in given)}
        assert reached == set(DEPENDENCIES[service]) - {STEP_CA}


def test_in_every_service_one_thread_gives_way_to_the_others(story: Story) -> None:
    """grpc.aio's polling thread, which the library might name otherwise one day; the event loop's thread keeps its turn."""
    for service, pid in story.pair.pids(story.work).items():
        if service not in SERVICES:
            continue
        policies = {int(task.name): os.sched_getscheduler(int(task.name)) for task in Path("/proc", str(pid), "task").iterdir()}
        assert policies[pid or 0] == os.SCHED_OTHER
        assert list(policies.values()).count(os.SCHED_BATCH) == 1, service


def reports_of(services: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(service, name in its health service): of the process itself, and of each of its dependencies."""
    for service in services:
        yield service, ""
        yield from ((service, f"dependency.{dependency}") for dependency in DEPENDENCIES[service])


async def succeeds(step: Callable[[], Awaitable[None]], *, within_seconds: float) -> None:
    """Repeat a step until it succeeds. Raises what it failed with last, or TimeoutError when it did not even fail in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_seconds
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                return await step()
        except (grpc.RpcError, AssertionError):
            if loop.time() + POLL_SECONDS > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)


def settings_of(pid: int) -> list[str]:
    """The values of a process's environment, those of NAME_FILE variables read."""
    variables = [variable.partition("=") for variable in Path("/proc", str(pid), "environ").read_text().split("\0")]
    return [Path(value).read_text() if name.endswith("_FILE") else value for name, _, value in variables]
