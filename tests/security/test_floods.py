"""Acceptance 14: somebody floods a listener, and an honest caller does not notice.

Every service is its own process, so is the attacker; honest callers come from the attacker's address and from another one. The
small form runs in every test run; `make stress` sends more, longer, to every listener.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

import pytest
from google.protobuf.message import Message
from mosaic.federation.v1 import federation_pb2, query_pb2
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.auth import Role
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS, OPERATOR, dns_name

from tests.support.attacked import HonestCaller, ServiceProcess, attacked, memory_peak, until
from tests.support.floods import Flood, Kind, Target, send
from tests.support.gateway import Gateway
from tests.support.peers import PeerClient, refusal
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.alone

SAME, OTHER = "127.0.0.1", "127.0.0.2"
LIST_RESOURCES: Final = "/mosaic.federation.v1.FederationService/ListResources"
USERS: Final = ("maya@example.com", "noor@example.com", "sam@example.com")

# Measured: 40-220 MiB above idle while a flood runs, 20-80 MiB once memory has been given back, which does not grow from flood to
# flood. A listener that takes 4 MiB messages goes up by 600 MiB and more.
PEAK_MIB: Final = 256
KEPT_MIB: Final = 96
KEPT_DESCRIPTORS: Final = 16
RECOVERY_SECONDS: Final = 15.0
MIN_ANSWERED: Final = 2

SILENT: Final = Flood(Kind.SILENT, connections=64, streams=32, seconds=2.5)
RESET: Final = Flood(Kind.RESET, connections=1, streams=100_000)
RESET_30: Final = Flood(Kind.RESET, connections=30, streams=3_000)
STREAMS: Final = Flood(Kind.STREAMS, connections=1, streams=100_000)
UNFINISHED: Final = Flood(Kind.UNFINISHED, connections=8, streams=32, seconds=2.0)
UNPACKING: Final = Flood(Kind.UNPACKING, connections=8, streams=10, seconds=1.5)
TRICKLED: Final = Flood(Kind.TRICKLED, connections=10, streams=32, seconds=2.5)
HALF_OPEN: Final = Flood(Kind.HALF_OPEN, connections=400, streams=0, seconds=10.0)

# Only who has a token, where one is needed, can keep a call open; everything else a stranger can do as well.
HELD: Final = frozenset({Kind.SILENT, Kind.UNFINISHED, Kind.UNPACKING, Kind.TRICKLED})

LISTENERS: Final = (ENROLLMENT, GRANTS, EDGE_INBOUND, EDGE_OUTBOUND)
# Every listener is built by the same code, so that one shows most of it; what is refused before its message differs by listener.
SMALL: Final = (
    *((listener, SILENT) for listener in LISTENERS),
    *((ENROLLMENT, flood) for flood in (RESET, RESET_30, STREAMS, UNFINISHED, UNPACKING, TRICKLED, HALF_OPEN)),
    *((EDGE_INBOUND, flood) for flood in (STREAMS, UNFINISHED)),
    (GRANTS, STREAMS),
)
LARGE: Final = tuple(
    (listener, flood)
    for listener in LISTENERS
    for flood in (
        replace(SILENT, seconds=15.0),
        replace(RESET, streams=500_000),
        replace(RESET_30, streams=20_000),
        replace(STREAMS, streams=500_000),
        replace(UNFINISHED, seconds=15.0),
        replace(UNPACKING, connections=30, seconds=15.0),
        replace(TRICKLED, connections=60, seconds=15.0),
        replace(HALF_OPEN, connections=800),
    )
)


@dataclass(frozen=True, slots=True)
class Door:
    """One listener that others can reach.

    Attributes:
        honest: what an honest caller sends, one per source address.
        stranger: the same listener as an attacker sees it who has nothing that is not needed to connect.
        insider: and as somebody sees it who may call.
        answers: what an honest call is answered with.
    """

    process: ServiceProcess
    honest: tuple[Target, Target]
    stranger: Target
    insider: Target
    request: bytes
    answers: frozenset[str]
    idle_mib: float
    idle_descriptors: int

    def caller(self, source: str) -> HonestCaller:
        return HonestCaller(self.honest[source == OTHER], self.request, self.answers, source)


@pytest.fixture(scope="module")
async def work(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """Prepared, with its users; not started."""
    with postgres_server.fresh() as database:
        gateway = Gateway("work", tmp_path_factory.mktemp("floods"), database, valkey)
        gateway.prepare()
        for email in USERS:
            gateway.execute("INSERT INTO public.users (id, email, name, active) VALUES (%s, %s, 'User', true)", uuid4(), email)
        yield gateway


@pytest.fixture(scope="module")
async def doors(work: Gateway) -> AsyncIterator[dict[str, Door]]:
    """A gateway with two honest peers, two honest users and an operator; the attacker is a third of each."""
    async with attacked(work) as processes:
        enroll = _Site(work, "public", ENROLLMENT, "/mosaic.enrollment.v1.EnrollmentService/Enroll").target()
        grants = _Site(work, "operator", GRANTS, "/mosaic.grants.v1.GrantService/ListGrants")
        inbound = _Site(work, "public", EDGE_INBOUND, LIST_RESOURCES)
        outbound = _Site(work, "user", EDGE_OUTBOUND, "/mosaic.federation.v1.QueryService/Query")
        operator = grants.target(metadata=dict(work.operator_metadata(Role.READ)))
        peers = [await inbound.peer(name) for name in ("honest", "other", "attacker")]
        ids = [user_id for (user_id,) in work.rows("SELECT id FROM public.users")]
        users = [outbound.target(metadata=dict(work.user_metadata(user_id))) for user_id in ids]
        request = federation_pb2.ListResourcesRequest(resource="tasks").SerializeToString()
        query = query_pb2.QueryRequest(verb=federation_pb2.VERB_LIST, resources=["tasks"], source="local").SerializeToString()
        made = {
            # Answered by grants, so that the whole way is tried.
            ENROLLMENT: ((enroll, enroll), enroll, enroll, b"", "REQUEST_INVALID"),
            GRANTS: ((operator, operator), grants.target(), operator, b"", "OK"),
            EDGE_INBOUND: ((peers[0], peers[1]), peers[2], peers[2], request, "OK"),
            EDGE_OUTBOUND: ((users[0], users[1]), outbound.target(), users[2], query, "OK"),
        }
        found = {}
        for identity, (honest, stranger, insider, message, answer) in made.items():
            door = Door(processes[identity], honest, stranger, insider, message, frozenset({answer}), 0.0, 0)
            found[identity] = await _idle(door)
        yield found


async def _idle(door: Door) -> Door:
    """Return the door with what its process takes once it has answered."""
    async with door.caller(SAME) as caller:
        await until(lambda: len(caller.latencies) >= MIN_ANSWERED or bool(caller.lost), RECOVERY_SECONDS)
    assert caller.lost == []
    assert len(caller.latencies) >= MIN_ANSWERED
    return replace(door, idle_mib=door.process.resident_mib, idle_descriptors=door.process.descriptors)


@dataclass(frozen=True, slots=True)
class _Site:
    gateway: Gateway
    listener: str
    identity: str
    path: str

    def target(self, *, certificate: str | None = None, key: str | None = None, metadata: dict[str, str] | None = None) -> Target:
        host, _, port = self.gateway.addresses[self.identity, self.listener].rpartition(":")
        name = dns_name(self.identity, self.gateway.name)
        root = str(self.gateway.pki / OPERATOR / "service-root.pem")
        return Target(host, int(port), name, root, self.path, certificate, key, metadata)

    async def peer(self, name: str) -> Target:
        return self.target_of(name, await self.gateway.enroll(user=USERS[0], peer=name))

    def target_of(self, name: str, client: PeerClient) -> Target:
        certificate, key = self.gateway.folder / f"{name}.pem", self.gateway.folder / f"{name}.key"
        certificate.write_bytes(client.chain)
        key.write_bytes(client.key)
        return self.target(certificate=str(certificate), key=str(key))


def _id(case: tuple[str, Flood]) -> str:
    listener, flood = case
    return f"{listener}: {flood.kind}, {flood.connections} x {flood.streams}"


async def _flooded(door: Door, flood: Flood, record: pytest.FixtureRequest) -> None:
    async with memory_peak(door.process) as peak, door.caller(SAME) as same, door.caller(OTHER) as other:
        report = await send(door.insider if flood.kind in HELD else door.stranger, flood)
        # Nobody is counted as served who was served before the flood only.
        answered = len(same.latencies), len(other.latencies)
        assert await until(lambda: len(same.latencies) > answered[0] and len(other.latencies) > answered[1], RECOVERY_SECONDS)
    record.node.add_report_section(
        "call", "flood", f"{report}\nsame {same.summary}\nother {other.summary}\npeak {peak.mib:.0f} MiB"
    )

    assert report.connections == flood.connections, "there was a flood at all"
    assert report.streams >= flood.connections * flood.streams, "there was a flood at all"
    assert same.lost == []
    assert other.lost == []
    assert min(*answered) >= MIN_ANSWERED
    assert peak.mib < door.idle_mib + PEAK_MIB
    assert await until(lambda: door.process.resident_mib < door.idle_mib + KEPT_MIB, RECOVERY_SECONDS)
    assert await until(lambda: door.process.descriptors <= door.idle_descriptors + KEPT_DESCRIPTORS, RECOVERY_SECONDS)
    if flood.kind is Kind.HALF_OPEN:
        assert report.hang_ups == flood.connections, "a handshake that does not go on is ended by the server"


@pytest.mark.parametrize("case", SMALL, ids=_id)
async def test_an_honest_caller_loses_no_call(
    case: tuple[str, Flood], doors: dict[str, Door], request: pytest.FixtureRequest
) -> None:
    """Whoever keeps to the protocol is answered throughout, on an old and on a new connection, and memory comes back."""
    listener, flood = case
    await _flooded(doors[listener], flood, request)


@pytest.mark.stress
@pytest.mark.parametrize("case", LARGE, ids=_id)
async def test_an_honest_caller_loses_no_call_under_stress(
    case: tuple[str, Flood], doors: dict[str, Door], request: pytest.FixtureRequest
) -> None:
    """The same for floods of minutes, of every kind, at every listener."""
    listener, flood = case
    await _flooded(doors[listener], flood, request)


# ── a peer whose grant is revoked, and who goes on asking ─────────────────────────────────────────────────────────────────────────

SEARCHES: Final = federation_pb2.SearchResourcesRequest(resources=["tasks", "notes", "memory"], query="lighthouse")
GETS: Final = federation_pb2.GetResourceRequest(resource="tasks", id="00000000-0000-4000-8000-000000000000")
COUNTED_SECONDS: Final = 10.0


async def _revoked_flood(work: Gateway, door: Door, method: str, message: Message, seconds: float) -> None:
    name = f"revoked-{method.lower()}-{seconds:.0f}"
    peer = await work.enroll(user=USERS[0], peer=name)
    assert await peer.list("tasks")
    work.execute("UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %s", peer.grant_id)
    site = _Site(work, "public", EDGE_INBOUND, LIST_RESOURCES.replace("ListResources", method))
    flood = Flood(Kind.CALLS, connections=4, streams=16, seconds=seconds, message=message.SerializeToString().hex())

    async with door.caller(SAME) as same, door.caller(OTHER) as other:
        report = await send(site.target_of(name, peer), flood)
        answered = len(same.latencies), len(other.latencies)
        assert await until(lambda: len(same.latencies) > answered[0] and len(other.latencies) > answered[1], RECOVERY_SECONDS)
    assert (same.lost, other.lost) == ([], [])
    assert min(answered) >= MIN_ANSWERED
    assert report.ended_by_server > 100 * seconds, "there was a flood at all"

    def refused() -> list[tuple[str, str, int, int]]:
        return work.rows(
            "SELECT outcome, denied_reason, sum(repeated)::bigint, sum(result_count)::bigint FROM federation.federation_audit_log"
            " WHERE event = 'read' AND grant_id = %s AND outcome <> 'allowed' GROUP BY 1, 2",
            peer.grant_id,
        )

    # Those that were under way when the flood ended may be on record as given up.
    assert await until(lambda: sum(count for *_, count, _ in refused()) >= report.ended_by_server, COUNTED_SECONDS)
    found = refused()
    assert {(outcome, reason) for outcome, reason, *_ in found} <= {
        ("denied", "GRANT_NOT_ACTIVE"),
        ("denied", "RATE_LIMITED"),
        ("error", "CALL_CANCELLED"),
    }
    assert sum(rows for *_, rows in found) == 0
    assert sum(count for *_, count, _ in found) <= report.streams
    assert (await refusal(peer.list("tasks"))).reason in {"GRANT_NOT_ACTIVE", "RATE_LIMITED"}


@pytest.mark.parametrize(("method", "message"), [("GetResource", GETS), ("SearchResources", SEARCHES)])
async def test_a_revoked_peer_costs_the_others_nothing(
    work: Gateway, doors: dict[str, Door], method: str, message: Message
) -> None:
    """Whoever goes on asking after its grant has ended hears so each time, and each time is on record; nobody else waits."""
    await _revoked_flood(work, doors[EDGE_INBOUND], method, message, 2.0)


@pytest.mark.stress
@pytest.mark.parametrize(("method", "message"), [("GetResource", GETS), ("SearchResources", SEARCHES)])
async def test_a_revoked_peer_costs_the_others_nothing_for_half_a_minute(
    work: Gateway, doors: dict[str, Door], method: str, message: Message
) -> None:
    """The same for 30 seconds."""
    await _revoked_flood(work, doors[EDGE_INBOUND], method, message, 30.0)
