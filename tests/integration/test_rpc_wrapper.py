"""What every call of every listener passes, in its order: a real server, real TLS, a servicer that does as a test says."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mosaic.enrollment.v1 import enrollment_pb2 as pb
from mosaic_common import pki
from mosaic_common.clock import SystemClock
from mosaic_common.errors import ConfigurationError, Layer, NotFound, Reason, Unavailable
from mosaic_common.identity import ENROLLMENT, GRANTS, PeerCertificate, dns_name
from mosaic_common.rpc import call as wrapper
from mosaic_common.rpc import health as health_module
from mosaic_common.rpc.authenticate import anyone, services_of
from mosaic_common.rpc.call import Call, Outcome, Transport
from mosaic_common.rpc.health import Health
from mosaic_common.rpc.methods import ANYONE, PEERS, Listener, Method, MethodTable, method_table, service_of
from mosaic_common.rpc.server import GrpcListener, ServerTls

from tests.support.floods import Attacker, Flood, Kind, Target
from tests.support.log_lines import lines_written
from tests.support.peers import refusal

GATEWAY: Final = "work"
CLOCK: Final = SystemClock()
SERVICE: Final = service_of(pb, "EnrollmentService")
METHODS: Final = method_table(
    Method(SERVICE, "Enroll", Listener.PUBLIC, callers=ANYONE, audit="enroll", deadline=timedelta(seconds=5)),
    Method(SERVICE, "Renew", Listener.INTERNAL, callers=frozenset({GRANTS}), audit="renew", deadline=timedelta(seconds=5)),
)
ENROLL, RENEW = (method.path for method in METHODS)
LOOPBACK: Final = "127.0.0.1:0"

Act = Callable[[Call], Awaitable[None]]
Line = MutableMapping[str, Any]


class Scripted:
    """Answers with an empty message after it has done what the test says."""

    def __init__(self) -> None:
        self.act: Act | None = None
        self.calls: list[Call] = []

    async def do(self, call: Call) -> None:
        self.calls.append(call)
        if self.act is not None:
            await self.act(call)


class EnrollServicer(Scripted):
    async def Enroll(self, _request: pb.EnrollRequest, call: Call) -> pb.EnrollResponse:
        await self.do(call)
        return pb.EnrollResponse(gateway=GATEWAY)


class RenewServicer(Scripted):
    async def Renew(self, _request: pb.RenewRequest, call: Call) -> pb.RenewResponse:
        await self.do(call)
        return pb.RenewResponse()


@dataclass(slots=True)
class ScriptedRecorder:
    """Keeps what is recorded, after a while, or fails, or never comes back."""

    outcomes: list[tuple[Call, Outcome]] = field(default_factory=list)
    fails: bool = False
    hangs: bool = False
    seconds: float = 0.0

    async def record(self, call: Call, outcome: Outcome) -> None:
        await asyncio.sleep(self.seconds)
        if self.fails:
            raise Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "PostgreSQL at 10.0.0.7 does not answer.", layer=Layer.DEPENDENCY)
        if self.hangs:
            await asyncio.sleep(3600)
        self.outcomes.append((call, outcome))


@dataclass(slots=True)
class Bench:
    """A public and an internal listener of one service."""

    folder: Path
    public: GrpcListener
    internal: GrpcListener
    enroll: EnrollServicer
    renew: RenewServicer
    recorder: ScriptedRecorder

    @property
    def leaf(self) -> Path:
        return pki.PkiDirectory(self.folder).identity(ENROLLMENT).path

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own to the public listener."""
        root = (self.leaf / "service-root.pem").read_bytes()
        async with _channel(self.public.port, grpc.ssl_channel_credentials(root)) as channel:
            yield channel

    @asynccontextmanager
    async def internal_channel(self, caller: str) -> AsyncIterator[grpc.aio.Channel]:
        own = pki.PkiDirectory(self.folder).identity(caller).path
        files = [(own / name).read_bytes() for name in ("service-root.pem", "internal.key", "internal.pem")]
        async with _channel(self.internal.port, grpc.ssl_channel_credentials(*files)) as channel:
            yield channel

    def target(self, **metadata: str) -> Target:
        root = str(self.leaf / "service-root.pem")
        return Target("127.0.0.1", self.public.port, dns_name(ENROLLMENT, GATEWAY), root, ENROLL, metadata=metadata)


def _channel(port: int, credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
    options = (("grpc.ssl_target_name_override", dns_name(ENROLLMENT, GATEWAY)), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options)


def _public_tls(folder: Path) -> ServerTls:
    leaf = pki.PkiDirectory(folder).identity(ENROLLMENT).path
    return ServerTls(leaf / "public.pem", leaf / "public.key")


def _listener(folder: Path, methods: MethodTable = METHODS, address: str = LOOPBACK, **further: Any) -> GrpcListener:
    return GrpcListener(Listener.PUBLIC, address, _public_tls(folder), methods, anyone(), **further)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wrapper") / "pki"
    pki.init(directory, GATEWAY, "127.0.0.1", clock=CLOCK)
    return directory


@pytest.fixture
async def bench(folder: Path) -> AsyncIterator[Bench]:
    enroll, renew, recorder = EnrollServicer(), RenewServicer(), ScriptedRecorder()
    leaf = pki.PkiDirectory(folder).identity(ENROLLMENT).path
    tls = ServerTls(leaf / "internal.pem", leaf / "internal.key", client_roots=leaf / "service-root.pem")
    public = _listener(folder, recorder=recorder).serve(enroll)
    internal = GrpcListener(Listener.INTERNAL, LOOPBACK, tls, METHODS, services_of(GATEWAY), recorder).serve(renew)
    await public.start()
    await internal.start()
    yield Bench(folder, public, internal, enroll, renew, recorder)
    await asyncio.gather(public.stop(0), internal.stop(0))


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def canonical(lines: list[Line], count: int = 1) -> list[Line]:
    """The canonical lines, once there are so many, and no more."""
    async with asyncio.timeout(5):
        while sum(line["event"] == "call" for line in lines) < count:
            await asyncio.sleep(0.01)
    await lines_written()
    found = [line for line in lines if line["event"] == "call"]
    assert len(found) == count
    return found


def unary(channel: grpc.aio.Channel, message: bytes = b"", path: str = ENROLL, **further: Any) -> Any:
    """A call that the test serializes itself."""
    method: Any = channel.unary_unary(path)
    return method(message, **further)


def silent(channel: grpc.aio.Channel, path: str = ENROLL) -> Any:
    """A call that never sends its message."""

    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(3600)
        yield b""

    method: Any = channel.stream_unary(path)
    return method(never())


# ── 1. status and canonical line ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_leaves_one_line_and_one_row(bench: Bench, lines: list[Line]) -> None:
    """What is allowed is recorded once, before the answer leaves, and logged once."""
    async with bench.channel() as channel:
        answer = pb.EnrollResponse.FromString(await unary(channel))
    (line,) = await canonical(lines)
    ((recorded, outcome),) = bench.recorder.outcomes
    assert answer.gateway == GATEWAY
    assert (line["code"], line["reason"], line["method"]) == ("OK", None, ENROLL)
    assert line["request_id"] == str(recorded.request_id)
    assert (outcome.error, outcome.bytes_out) == (None, line["bytes_out"])


async def test_an_unhandled_exception_tells_nothing(bench: Bench, lines: list[Line]) -> None:
    """The client sees a fixed text and a request id under which the log has the rest."""

    async def fail(_call: Call) -> None:
        raise KeyError("postgresql://mosaic:hunter2@10.0.0.7")

    bench.enroll.act = fail
    async with bench.channel() as channel:
        refused = await refusal(unary(channel))
    (line,) = await canonical(lines)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "hunter2" not in repr(refused)
    assert refused.message == "The gateway failed to answer; its log has the details under this request id."
    assert line["code"] == "INTERNAL"
    assert line["request_id"] == refused.metadata["request_id"]


async def test_a_refusal_carries_its_reason_and_is_recorded(bench: Bench, lines: list[Line]) -> None:
    """ErrorInfo names reason, HTTP class and request id; row and line name the same."""

    async def refuse(_call: Call) -> None:
        raise NotFound(Reason.ENROLLMENT_TOKEN_UNKNOWN, "This token is not known.", layer=Layer.TOKEN)

    bench.enroll.act = refuse
    async with bench.channel() as channel:
        refused = await refusal(unary(channel))
    (line,) = await canonical(lines)
    ((recorded, outcome),) = bench.recorder.outcomes
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN")
    assert refused.metadata == {"http_status": "404", "request_id": str(recorded.request_id)}
    assert outcome.error is not None
    assert outcome.error.reason is Reason.ENROLLMENT_TOKEN_UNKNOWN
    assert (line["code"], line["reason"], line["layer"]) == ("NOT_FOUND", "ENROLLMENT_TOKEN_UNKNOWN", "token")


@pytest.mark.parametrize(
    ("sent", "logged"),
    [
        pytest.param("trace-7", "trace-7", id="as it is"),
        pytest.param("x" * 500, "x" * 64, id="bounded"),
        pytest.param('a\r\n{"event":"call"}', 'a??{"event":"call"}', id="no line of its own"),
        pytest.param("a\x00\x1b[2Jb", "a??[2Jb", id="no terminal's commands"),
    ],
)
async def test_a_clients_request_id_is_made_safe(bench: Bench, lines: list[Line], sent: str, logged: str) -> None:
    """Whatever a client calls its call is printable, short, and never the request id."""
    await Attacker(bench.target(**{"x-request-id": sent}), Flood(Kind.SILENT, 1, 1, 0.3)).run()
    (line,) = await canonical(lines)
    assert line["client_request_id"] == logged
    assert line["request_id"] != logged


async def test_a_cancelled_call_ends_its_handler(bench: Bench, lines: list[Line]) -> None:
    """Who has gone is not worked for: the handler is cancelled; one line and, since something was asked, one row say so."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work(_call: Call) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    bench.enroll.act = work
    async with bench.channel() as channel:
        call = unary(channel)
        await started.wait()
        call.cancel()
        async with asyncio.timeout(2):
            await cancelled.wait()
    (line,) = await canonical(lines)
    ((recorded, outcome),) = bench.recorder.outcomes
    assert line["code"] == "CANCELLED"
    assert line["request_id"] == str(recorded.request_id)
    assert outcome.error is not None
    assert outcome.error.reason is Reason.CALL_CANCELLED


# ── 2. the server's deadline ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_server_ends_a_call_by_itself(folder: Path, lines: list[Line]) -> None:
    """A client without a deadline gets the row's, and an answer of ours that says so."""
    servicer = EnrollServicer()

    async def hang(_call: Call) -> None:
        await asyncio.sleep(3600)

    servicer.act = hang
    quick = method_table(
        Method(SERVICE, "Enroll", Listener.PUBLIC, callers=ANYONE, deadline=timedelta(seconds=0.3)),
        Method(SERVICE, "Renew", Listener.INTERNAL, callers=frozenset({GRANTS})),
    )
    async with _serving(_listener(folder, quick).serve(servicer), folder) as channel:
        refused = await refusal(unary(channel))
    (line,) = await canonical(lines)
    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert line["code"] == "DEADLINE_EXCEEDED"


async def test_a_shorter_deadline_of_the_client_holds(bench: Bench) -> None:
    """The handler knows what is left, a little less than the client waits, so that a refusal still arrives."""
    left: list[float] = []

    async def look(call: Call) -> None:
        left.append(call.remaining_seconds())

    bench.enroll.act = look
    async with bench.channel() as channel:
        await unary(channel, timeout=1)
        await unary(channel, timeout=60)
    assert 0 < left[0] < 1
    assert 4 < left[1] < 5


# ── 3. allowlist ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_may_not_call_is_refused_before_a_message(bench: Bench) -> None:
    """A service that is not listed is told so at once; nothing is read from it and the handler is not reached."""
    async with bench.internal_channel(ENROLLMENT) as channel:
        began = time.monotonic()
        refused = await refusal(silent(channel, RENEW))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert time.monotonic() - began < wrapper.FIRST_MESSAGE_SECONDS
    assert bench.renew.calls == []


async def test_who_is_listed_reaches_the_handler(bench: Bench) -> None:
    """The row's caller is served, under the name of its certificate."""
    async with bench.internal_channel(GRANTS) as channel:
        await unary(channel, path=RENEW)
    (call,) = bench.renew.calls
    assert wrapper.caller_name(call.caller) == GRANTS


async def test_a_method_of_another_listener_is_not_there(bench: Bench, lines: list[Line]) -> None:
    """What is not registered on a listener does not exist there, whoever asks."""
    async with bench.channel() as channel:
        refused = await refusal(unary(channel, path=RENEW))
    assert refused.code is grpc.StatusCode.UNIMPLEMENTED
    assert bench.renew.calls == []


# ── 4. first message ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_without_a_message_dies_after_two_seconds(bench: Bench, lines: list[Line]) -> None:
    """A unary call whose message never comes ends, answered by us and without an audit row: it asked for nothing."""
    async with bench.channel() as channel:
        began = time.monotonic()
        refused = await refusal(silent(channel))
    (line,) = await canonical(lines)
    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "MESSAGE_LATE")
    assert 1.9 < time.monotonic() - began < 4
    assert line["reason"] == "MESSAGE_LATE"
    assert bench.recorder.outcomes == []
    assert bench.enroll.calls == []


async def test_silent_calls_cost_their_own_connection_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap of one connection silent calls are refused with a time to come back; another connection notices nothing."""
    monkeypatch.setattr(wrapper, "MAX_SILENT_PER_CONNECTION", 4)
    async with bench.channel() as crowded, bench.channel() as other:
        # Which of the five reaches the server last is the client library's choice.
        refusals = [asyncio.create_task(refusal(silent(crowded))) for _ in range(5)]
        over, waiting = await asyncio.wait(refusals, return_when=asyncio.FIRST_COMPLETED)
        assert pb.EnrollResponse.FromString(await unary(other)).gateway == GATEWAY
        assert (len(over), len(waiting)) == (1, 4)
        refused = over.pop().result()
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refused.retry_after_seconds == 2


async def test_a_call_that_ends_without_a_message_is_refused(bench: Bench) -> None:
    """Half a call is an answer of ours, not the library's."""

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    async with bench.channel() as channel:
        method: Any = channel.stream_unary(ENROLL)
        refused = await refusal(method(nothing()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED")


async def test_a_service_may_have_any_number_of_calls_in_hand(bench: Bench) -> None:
    """More calls at once than the server allows streams wait their turn; none is thrown away."""
    async with bench.internal_channel(GRANTS) as channel:
        answers = await asyncio.gather(*(unary(channel, path=RENEW) for _ in range(500)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, BaseException)] == []


async def test_sixty_four_calls_in_hand_are_all_answered(bench: Bench) -> None:
    """A peer that keeps 64 calls going on one connection loses none, although it may not have many more."""

    async def caller(channel: grpc.aio.Channel) -> None:
        for _ in range(20):
            await unary(channel)

    async with bench.channel() as channel:
        await asyncio.gather(*(caller(channel) for _ in range(64)))
    assert len(bench.enroll.calls) == 64 * 20


# ── 5. decode ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_undecodable_message_is_refused_in_our_words(bench: Bench) -> None:
    """Bytes that are no such message get a reason, not the parser's text."""
    async with bench.channel() as channel:
        refused = await refusal(unary(channel, b"\xff\xff\xff"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED")
    assert refused.message == "The message is no EnrollRequest."
    assert bench.enroll.calls == []


async def test_an_oversized_message_never_reaches_a_handler(bench: Bench) -> None:
    """64 KiB come in; one byte more is refused from its length alone."""
    async with bench.channel() as channel:
        padding = pb.EnrollRequest(proof=bytes(64 * 1024 - 4)).SerializeToString()
        assert len(padding) == 64 * 1024
        await unary(channel, padding)
        refused = await refusal(unary(channel, padding + b"\x00"))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(bench.enroll.calls) == 1


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_message_is_measured_unpacked(bench: Bench, compression: grpc.Compression) -> None:
    """4 MiB that were sent as 4 KiB are 4 MiB."""
    async with bench.channel() as channel:
        message = pb.EnrollRequest(proof=bytes(4 * 1024 * 1024)).SerializeToString()
        refused = await refusal(unary(channel, message, compression=compression))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert bench.enroll.calls == []


async def test_metadata_has_one_limit(bench: Bench) -> None:
    """Between two limits the library would refuse at random; ours are one."""
    async with bench.channel() as channel:
        for _ in range(5):
            await unary(channel, metadata=(("x-padding", "x" * 15_000),))
            refused = await refusal(unary(channel, metadata=(("x-padding", "x" * 17_000),)))
            assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED


# ── 6. the handler, and the row before the answer ─────────────────────────────────────────────────────────────────────────────────


async def test_more_calls_than_the_process_can_hold_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap of calls with a message the answer is: later."""
    monkeypatch.setattr(wrapper, "MAX_ACTIVE", 1)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def work(_call: Call) -> None:
        started.set()
        await go_on.wait()

    bench.enroll.act = work
    async with bench.channel() as channel:
        running = unary(channel)
        await started.wait()
        refused = await refusal(unary(channel))
        go_on.set()
        await running
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")


async def test_one_peer_cannot_hold_every_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its share a peer is told to come later, recorded as such, while another peer is answered."""
    monkeypatch.setattr(wrapper, "MAX_ACTIVE_PER_PEER", 1)
    now = datetime.now(UTC)
    greedy, modest = (
        PeerCertificate(bytes([number]) * 32, uuid4(), uuid4(), now - timedelta(days=1), now + timedelta(days=1))
        for number in (1, 2)
    )
    who = {"greedy": greedy, "modest": modest}
    peers = method_table(
        *(
            Method(SERVICE, name, Listener.PEER, callers=PEERS, audit="read", deadline=timedelta(seconds=5))
            for name in ("Enroll", "Renew")
        )
    )
    enroll, renew, recorder = EnrollServicer(), RenewServicer(), ScriptedRecorder()

    def authenticate(call: Call, _transport: Transport) -> PeerCertificate:
        return who[call.client_request_id]

    listener = GrpcListener(Listener.PEER, LOOPBACK, _public_tls(folder), peers, authenticate, recorder).serve(enroll, renew)
    await listener.start()
    started, go_on = asyncio.Event(), asyncio.Event()

    async def work(call: Call) -> None:
        if call.caller is greedy:
            started.set()
            await go_on.wait()

    enroll.act = work
    leaf = pki.PkiDirectory(folder).identity(ENROLLMENT).path
    credentials = grpc.ssl_channel_credentials((leaf / "service-root.pem").read_bytes())
    try:
        async with _channel(listener.port, credentials) as channel:
            running = unary(channel, metadata=(("x-request-id", "greedy"),))
            await started.wait()
            refused = await refusal(unary(channel, metadata=(("x-request-id", "greedy"),)))
            await unary(channel, metadata=(("x-request-id", "modest"),))
            go_on.set()
            await running
            await unary(channel, metadata=(("x-request-id", "greedy"),))
    finally:
        await listener.stop(0)
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert [outcome.error.layer if outcome.error else None for _, outcome in recorder.outcomes].count(Layer.RATE) == 1


async def test_an_answer_that_cannot_be_sent_is_not_recorded_as_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would refuse to send it after the row said that it left: ours says no first, and the row says so."""
    monkeypatch.setattr(wrapper, "MAX_ANSWER_BYTES", 2)
    async with bench.channel() as channel:
        refused = await refusal(unary(channel))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE")
    ((_, outcome),) = bench.recorder.outcomes
    assert outcome.error is not None
    assert (outcome.error.reason, outcome.bytes_out) == (Reason.ANSWER_TOO_LARGE, 0)


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_without_its_audit_row_no_answer_leaves(
    bench: Bench, lines: list[Line], monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """What cannot be recorded is not answered, and a stranger is not told what is broken inside."""
    monkeypatch.setattr(wrapper, "RECORD_SECONDS", 0.2)
    setattr(bench.recorder, trouble, True)
    async with bench.channel() as channel:
        refused = await refusal(unary(channel))
    (line,) = await canonical(lines)
    assert len(bench.enroll.calls) == 1
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert refused.message == "The gateway cannot answer right now; try again later."
    assert "dependency" not in refused.metadata
    assert (line["code"], line["dependency"]) == ("UNAVAILABLE", "audit")


async def test_the_record_has_time_of_its_own(folder: Path) -> None:
    """A handler that took nearly all of its call's deadline leaves the row as long as any other has."""
    servicer, recorder = EnrollServicer(), ScriptedRecorder(seconds=0.6)

    async def work(_call: Call) -> None:
        await asyncio.sleep(0.2)

    servicer.act = work
    quick = method_table(
        Method(SERVICE, "Enroll", Listener.PUBLIC, callers=ANYONE, deadline=timedelta(seconds=0.4), audit="enroll"),
        Method(SERVICE, "Renew", Listener.INTERNAL, callers=frozenset({GRANTS})),
    )
    async with _serving(_listener(folder, quick, recorder=recorder).serve(servicer), folder) as channel:
        assert pb.EnrollResponse.FromString(await unary(channel)).gateway == GATEWAY
    ((_, outcome),) = recorder.outcomes
    assert outcome.error is None


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_a_refusal_that_cannot_be_recorded_is_withheld_too(
    bench: Bench, lines: list[Line], monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """An unrecorded denial would be a way to try without a trace."""
    monkeypatch.setattr(wrapper, "RECORD_SECONDS", 0.2)

    async def refuse(_call: Call) -> None:
        raise NotFound(Reason.ENROLLMENT_TOKEN_UNKNOWN, "This token is not known.", layer=Layer.TOKEN)

    bench.enroll.act = refuse
    setattr(bench.recorder, trouble, True)
    async with bench.channel() as channel:
        refused = await refusal(unary(channel))
    (line,) = await canonical(lines)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert (line["code"], line["dependency"]) == ("UNAVAILABLE", "audit")


async def test_who_gives_up_while_his_refusal_is_recorded_leaves_a_line(bench: Bench, lines: list[Line]) -> None:
    """However a call ends, one line says so."""
    refusing = asyncio.Event()

    async def refuse(_call: Call) -> None:
        refusing.set()
        raise NotFound(Reason.ENROLLMENT_TOKEN_UNKNOWN, "This token is not known.", layer=Layer.TOKEN)

    bench.enroll.act = refuse
    bench.recorder.hangs = True
    async with bench.channel() as channel:
        call = unary(channel)
        await refusing.wait()
        call.cancel()
        (line,) = await canonical(lines)
    assert (line["code"], line["reason"]) == ("CANCELLED", "ENROLLMENT_TOKEN_UNKNOWN")


async def test_a_call_that_ends_after_its_listener_has_its_line(bench: Bench, lines: list[Line]) -> None:
    """At once: the process may end before the next lines would be written together."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def work(_call: Call) -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)  # as long as it takes to give a connection back
            ended.set()

    bench.enroll.act = work
    async with bench.channel() as channel:
        call = unary(channel)
        await started.wait()
        await bench.public.stop(0)
        assert not ended.is_set()
        async with asyncio.timeout(2):
            await ended.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert [line["code"] for line in lines if line["event"] == "call"] == ["CANCELLED"]
        call.cancel()


# ── the listener ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _serving(listener: GrpcListener, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    await listener.start()
    root = (pki.PkiDirectory(folder).identity(ENROLLMENT).path / "service-root.pem").read_bytes()
    async with _channel(listener.port, grpc.ssl_channel_credentials(root)) as channel:
        yield channel
    await listener.stop(0)


async def test_stopping_lets_running_calls_finish(folder: Path) -> None:
    """SIGTERM drains: what runs is answered, what is new is refused."""
    servicer, started, go_on = EnrollServicer(), asyncio.Event(), asyncio.Event()

    async def work(_call: Call) -> None:
        started.set()
        await go_on.wait()

    servicer.act = work
    listener = _listener(folder).serve(servicer)
    async with _serving(listener, folder) as channel:
        running = asyncio.ensure_future(unary(channel))
        await started.wait()
        stopping = asyncio.create_task(listener.stop(5))
        await asyncio.sleep(0.1)
        root = (pki.PkiDirectory(folder).identity(ENROLLMENT).path / "service-root.pem").read_bytes()
        async with _channel(listener.port, grpc.ssl_channel_credentials(root)) as late:
            refused = await refusal(unary(late))
        go_on.set()
        assert pb.EnrollResponse.FromString(await running).gateway == GATEWAY
        await stopping
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert len(servicer.calls) == 1


async def test_a_dependency_never_flips_the_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Health says which dependency is down; the process itself serves on, or a restart cascade would begin."""
    monkeypatch.setattr(health_module, "INTERVAL_SECONDS", 0.02)
    up = True

    async def ping() -> None:
        if not up:
            raise ConnectionError

    health = Health({"postgres": ping})
    watching = asyncio.create_task(health.watch())
    async with _serving(_listener(folder, health=health).serve(EnrollServicer()), folder) as channel:
        await health.start()
        stub = health_pb2_grpc.HealthStub(channel)
        response = health_pb2.HealthCheckResponse
        for up, expected in ((True, response.SERVING), (False, response.NOT_SERVING), (True, response.SERVING)):
            async for answer in stub.Watch(health_pb2.HealthCheckRequest(service="dependency.postgres"), timeout=5):
                if answer.status == expected:
                    break
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=""))).status == response.SERVING
            assert health.is_up("postgres") is up
        await health.stop()
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=""))).status == response.NOT_SERVING
    watching.cancel()


def _presented(port: int, folder: Path, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """Connect as any TLS client does; return the leaf in DER."""
    root = pki.PkiDirectory(folder).identity(ENROLLMENT).path / "service-root.pem"
    context = ssl.create_default_context(cafile=str(root))
    context.set_alpn_protocols(["h2"])
    context.maximum_version = maximum
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=dns_name(ENROLLMENT, GATEWAY)) as secured,
    ):
        leaf = secured.getpeercert(binary_form=True)
        assert leaf is not None
        return leaf


async def test_a_new_certificate_is_served_without_a_restart(tmp_path: Path, lines: list[Line]) -> None:
    """A re-issued leaf is what the next handshake sees; a broken file changes nothing but the log."""
    pki.init(tmp_path, GATEWAY, "127.0.0.1", clock=CLOCK)
    listener = _listener(tmp_path).serve(EnrollServicer())
    async with _serving(listener, tmp_path) as channel:
        await unary(channel)
        before = await asyncio.to_thread(_presented, listener.port, tmp_path)
        pki.issue(tmp_path, ENROLLMENT, clock=CLOCK)
        after = await asyncio.to_thread(_presented, listener.port, tmp_path)
        _public_tls(tmp_path).certificate.write_bytes(b"no certificate")
        kept = await asyncio.to_thread(_presented, listener.port, tmp_path)
        await unary(channel)
    assert before != after
    assert kept == after
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["certificate_not_reloaded"]


async def test_tls_1_2_is_refused(bench: Bench) -> None:
    """No 1.2 client finds a usable suite; the handshake is counted."""
    begun = bench.public.handshakes_begun
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.to_thread(_presented, bench.public.port, bench.folder, ssl.TLSVersion.TLSv1_2)
    assert await asyncio.to_thread(_presented, bench.public.port, bench.folder)
    assert bench.public.handshakes_begun == begun + 2


async def test_an_rsa_key_stops_the_start(tmp_path: Path) -> None:
    """With an RSA key TLS 1.2 would be open again."""
    tls = _self_signed(tmp_path, rsa.generate_private_key(65537, 2048))
    with pytest.raises(ConfigurationError, match="not EC"):
        await GrpcListener(Listener.PUBLIC, LOOPBACK, tls, METHODS, anyone()).serve(EnrollServicer()).start()


async def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    """One sentence that names the file, not a traceback of the library."""
    tls = ServerTls(tmp_path / "public.pem", tmp_path / "public.key")
    with pytest.raises(ConfigurationError, match=r"public\.pem"):
        await GrpcListener(Listener.PUBLIC, LOOPBACK, tls, METHODS, anyone()).serve(EnrollServicer()).start()


async def test_a_key_of_another_certificate_stops_the_start(tmp_path: Path) -> None:
    """Otherwise every handshake would fail, and the start would look well."""
    tls = _self_signed(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    tls.key.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(ConfigurationError, match="is not that of"):
        await GrpcListener(Listener.PUBLIC, LOOPBACK, tls, METHODS, anyone()).serve(EnrollServicer()).start()


async def test_a_taken_port_stops_the_start(bench: Bench, folder: Path) -> None:
    """A second server would silently share the port, and answer half of the calls."""
    second = _listener(folder, address=f"127.0.0.1:{bench.public.port}").serve(EnrollServicer())
    with pytest.raises(ConfigurationError, match="cannot bind"):
        await second.start()


async def test_a_port_that_a_stranger_holds_with_reuseport_stops_the_start(folder: Path) -> None:
    """Another process of the same user that asks for sharing gets no share either."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        address = f"127.0.0.1:{stranger.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match="cannot bind"):
            await _listener(folder, address=address).serve(EnrollServicer()).start()


@pytest.mark.parametrize(
    ("servicers", "named"),
    [
        pytest.param((), "Enroll", id="a row that nothing serves"),
        pytest.param((EnrollServicer(), RenewServicer()), "Renew", id="a method without a row on this listener"),
        pytest.param((EnrollServicer(), EnrollServicer()), "Enroll", id="two methods for one row"),
    ],
)
def test_table_and_servicers_agree_or_nothing_starts(folder: Path, servicers: tuple[object, ...], named: str) -> None:
    """A method that nobody allowed, or a row that nobody serves, stops the start."""
    with pytest.raises(ConfigurationError, match=named):
        _listener(folder).serve(*servicers)


def _self_signed(folder: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> ServerTls:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ENROLLMENT)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    tls = ServerTls(folder / "public.pem", folder / "public.key")
    tls.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    tls.key.write_bytes(_pem(key))
    return tls


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
