"""One call, from its first byte to its canonical log line.

``Wrapper._serve`` is the order in which every call of every listener passes its checks; there is no other.
"""

import asyncio
import math
import re
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any, Final, Protocol
from urllib.parse import unquote
from uuid import UUID, uuid4

import grpc
from google.protobuf.message import DecodeError, Message

from mosaic_common.auth import Principal
from mosaic_common.deadlines import LOOK_SECONDS, Deadlines
from mosaic_common.decision import Verb
from mosaic_common.errors import AccessDenied, InvalidInput, Layer, MosaicError, RateLimited, Reason, Unavailable
from mosaic_common.identity import PeerCertificate, ServiceIdentity
from mosaic_common.log import logger
from mosaic_common.rpc import status
from mosaic_common.rpc.methods import OUTSIDE, Method

Caller = ServiceIdentity | PeerCertificate | Principal | None
# What a handler makes; bytes are a message that it has serialized already, because it had to know its size.
Answer = Message | bytes
Behaviour = Callable[[Any, "Call"], Awaitable[Answer]]

FIRST_MESSAGE_SECONDS: Final = 2.0
MAX_ACTIVE: Final = 512
MAX_ACTIVE_PER_PEER: Final = 64
# A machine that is behind sees all headers of a connection before its first message: not fewer than may be answered at once.
MAX_SILENT_PER_CONNECTION: Final = MAX_ACTIVE_PER_PEER
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
RECORD_SECONDS: Final = 5.0
# What we keep for ourselves of a deadline, so that our own refusal still reaches the caller.
DEADLINE_SHAVE_SECONDS: Final = 0.05 + LOOK_SECONDS
# Lines of the log are written a few at a time: one by one, between two answers, each costs three times as much.
LINE_SECONDS: Final = 0.05
LINES_TOGETHER: Final = 16
_UNSAFE: Final = re.compile(r"[^\x21-\x7e]")


@dataclass(slots=True)
class Facts:
    """What a handler learns about its call, for the audit row and the log line."""

    peer_id: UUID | None = None
    grant_id: UUID | None = None
    subject_user_id: UUID | None = None
    token_id: bytes | None = None
    verb: Verb | None = None
    resource: str = ""
    result_count: int = 0
    query_hash: bytes | None = None


@dataclass(slots=True)
class Call:
    """One call as our code sees it.

    Attributes:
        request_id: made here; a client's own id is only ever a field beside it.
        client_request_id: at most 64 printable ASCII characters, untrusted.
        source_address: address without port, as the socket says.
        connection: address with port; names one HTTP/2 connection.
        caller: None on a public listener.
        deadline: event-loop time; already shaved.
        message_deadline: event-loop time by which its message has to be there.
        arrived: its message is there.
        recorded: the handler wrote its audit row itself, in its own transaction.
        asked: its message is there and decoded; from then on work may have been done for it.
    """

    method: Method
    request_id: UUID
    client_request_id: str
    source_address: str
    connection: str
    deadline: float
    started_ns: int
    caller: Caller = None
    facts: Facts = field(default_factory=Facts)
    recorded: bool = False
    message_deadline: float = math.inf
    arrived: bool = False
    asked: bool = False

    def remaining_seconds(self) -> float:
        """Return how long the handler may still take; never negative."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


@dataclass(frozen=True, slots=True)
class Transport:
    """What the connection and the metadata say about who calls. Untrusted but for what TLS verified."""

    certificate_pem: bytes | None
    authorization: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, for its audit row.

    Attributes:
        error: None when it was allowed.
        bytes_out: size of the serialized answer.
    """

    error: MosaicError | None
    bytes_out: int
    latency_us: int


# Says who calls, or raises.
Authenticate = Callable[[Call, Transport], Caller]


class Recorder(Protocol):
    """Makes the audit row of a call durable."""

    async def record(self, call: Call, outcome: Outcome) -> None: ...


current_call: ContextVar[Call] = ContextVar("current_call")


class Wrapper:
    """Serves the methods of one listener."""

    def __init__(self, authenticate: Authenticate, recorder: Recorder | None) -> None:
        self._authenticate = authenticate
        self._recorder = recorder
        self._silent: defaultdict[str, int] = defaultdict(int)
        self._active = 0
        self._active_by_peer: defaultdict[bytes, int] = defaultdict(int)
        self._recording: set[asyncio.Task[MosaicError]] = set()
        self._deadlines = Deadlines()
        self._log = logger("rpc")
        self._lines: deque[Callable[[], None]] = deque()
        self._writing: asyncio.TimerHandle | None = None
        self._is_stopping = False

    def handler(self, method: Method, behaviour: Behaviour) -> Any:
        """Return the handler to register.

        A unary method is served as a stream of one, which is the same on the wire: a unary call whose message never
        comes enters no handler of ours and would end only with the client's own deadline.
        """

        async def serve(_messages: AsyncIterator[bytes], context: Any) -> bytes:
            return await self._serve(method, behaviour, context)

        return grpc.stream_unary_rpc_method_handler(serve, request_deserializer=None, response_serializer=None)

    async def _serve(self, method: Method, behaviour: Behaviour, context: Any) -> bytes:
        call, transport = _begin(method, context)
        current_call.set(call)
        error: MosaicError
        is_recording = False
        try:  # 1. status and canonical log line: whatever happens below ends as exactly one of each
            # 2. server deadline; until the message is there, that of the first message
            with self._deadlines.at(min(call.deadline, call.message_deadline)) as deadline:
                call.caller = self._authenticate(call, transport)  # 3. allowlist
                _authorize(call)
                unverified = await self._first_message(call, context)  # 4. first-message deadline
                deadline.move(call.deadline)
                request = _decode(method, unverified)  # 5. decode
                call.asked = True
                answer = _encode(await self._limited(behaviour, request, call))  # 6. the handler
                # 7. the audit row; not under the call's own deadline, as that of a refusal is not
                deadline.move(_record_deadline())
                is_recording = True
                await self._record(call, None, len(answer))
            self._log_line(call, "OK", bytes_in=len(unverified), bytes_out=len(answer))
            return answer
        except MosaicError as refused:
            error = refused
        except TimeoutError as late:
            error = self._not_durable(call, late) if is_recording else _late(call)
        except asyncio.CancelledError:
            self._log_line(call, "CANCELLED")
            if call.asked:
                self._record_cancelled(call)
            raise
        except Exception:  # noqa: BLE001 - the status step: an unhandled exception's text must not reach the client
            self._log.exception("unhandled", method=method.path, request_id=str(call.request_id))
            error = status.internal_error()
        try:
            error = await self._record_refusal(call, error)
        except asyncio.CancelledError:
            self._log_line(call, "CANCELLED", error)
            raise
        self._log_line(call, status.grpc_code(error).name, error)
        await status.abort(context, error, request_id=str(call.request_id), outside=method.listener in OUTSIDE)

    async def _first_message(self, call: Call, context: Any) -> bytes:
        # Silent calls are counted apart from everything else: they must cost nobody but their own connection.
        if self._silent[call.connection] >= MAX_SILENT_PER_CONNECTION:
            raise RateLimited(
                Reason.RATE_LIMITED,
                "Too many calls on this connection have sent no message yet.",
                layer=Layer.SOURCE,
                retry_after=timedelta(seconds=2),
            )
        self._silent[call.connection] += 1
        try:
            # Not from the handler's iterator: a generator that is left before its end is closed by a task of its own.
            message = await context.read()
            if message is grpc.aio.EOF:
                raise InvalidInput(Reason.MESSAGE_MALFORMED, "The call ended without a message.", layer=Layer.REQUEST)
            call.arrived = True
            return bytes(message)
        finally:
            self._silent[call.connection] -= 1
            if not self._silent[call.connection]:
                del self._silent[call.connection]

    async def _limited(self, behaviour: Behaviour, request: Message, call: Call) -> Answer:
        if self._active >= MAX_ACTIVE:
            raise RateLimited(Reason.RATE_LIMITED, "The gateway is busy.", layer=Layer.RATE, retry_after=timedelta(seconds=1))
        # One peer cannot be all of the load: what is over its share waits at its own side.
        peer = call.caller.fingerprint if isinstance(call.caller, PeerCertificate) else None
        if peer is not None and self._active_by_peer[peer] >= MAX_ACTIVE_PER_PEER:
            raise RateLimited(Reason.RATE_LIMITED, "Too many calls at once.", layer=Layer.RATE, retry_after=timedelta(seconds=1))
        self._active += 1
        if peer is not None:
            self._active_by_peer[peer] += 1
        try:
            return await behaviour(request, call)
        finally:
            self._active -= 1
            if peer is not None:
                self._active_by_peer[peer] -= 1
                if not self._active_by_peer[peer]:
                    del self._active_by_peer[peer]

    async def _record(self, call: Call, error: MosaicError | None, bytes_out: int) -> None:
        """Wait until the audit row is durable; under a deadline of its own, which is the caller's to set.

        Raises:
            Unavailable: it is not; the answer must not leave.
        """
        if self._recorder is None or call.method.audit is None or call.recorded:
            return
        call.recorded = True
        outcome = Outcome(error, bytes_out, latency_us=(time.monotonic_ns() - call.started_ns) // 1000)
        try:
            await self._recorder.record(call, outcome)
        except Exception as failure:
            raise self._not_durable(call, failure) from failure

    def _not_durable(self, call: Call, failure: Exception) -> Unavailable:
        self._log.error("audit_not_durable", request_id=str(call.request_id), cause=type(failure).__name__)
        return Unavailable(
            Reason.DEPENDENCY_UNAVAILABLE,
            "The audit log cannot be written, so nothing is answered.",
            layer=Layer.DEPENDENCY,
            remedy="Check the database that holds the audit log.",
            metadata={"dependency": "audit"},
        )

    def _record_cancelled(self, call: Call) -> None:
        """Record a call that its caller gave up; nobody waits for the row, and this task is being cancelled."""
        error = MosaicError(Reason.CALL_CANCELLED, "The caller gave up.", layer=Layer.REQUEST)
        recording = asyncio.get_running_loop().create_task(self._record_refusal(call, error))
        self._recording.add(recording)
        recording.add_done_callback(self._recording.discard)

    async def _record_refusal(self, call: Call, error: MosaicError) -> MosaicError:
        if error.reason is Reason.MESSAGE_LATE:
            return error  # it asked for nothing; the canonical line counts it
        try:
            with self._deadlines.at(_record_deadline()):
                await self._record(call, error, 0)
        except TimeoutError as late:
            return self._not_durable(call, late)
        except MosaicError as not_durable:
            return not_durable
        return error

    def _log_line(self, call: Call, code: str, error: MosaicError | None = None, **sizes: int) -> None:
        # No answer waits for its line.
        latency_us = (time.monotonic_ns() - call.started_ns) // 1000
        self._lines.append(partial(self._write_line, call, code, error, time.time(), latency_us, sizes))
        loop = asyncio.get_running_loop()
        if self._is_stopping or len(self._lines) == LINES_TOGETHER:
            loop.call_soon(self._write_lines)
        elif self._writing is None:
            self._writing = loop.call_later(LINE_SECONDS, self._write_lines)

    def stop(self) -> None:
        """Gather no further lines: a call that is still being cancelled writes its own."""
        self._is_stopping = True
        asyncio.get_running_loop().call_soon(self._write_lines)

    def _write_lines(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        while self._lines:
            self._lines.popleft()()

    def _write_line(
        self, call: Call, code: str, error: MosaicError | None, ended: float, latency_us: int, sizes: Mapping[str, int]
    ) -> None:
        facts = call.facts
        self._log.info(
            "call",
            timestamp=datetime.fromtimestamp(ended, UTC),
            method=call.method.path,
            code=code,
            reason=error.recorded_reason.value if error else None,
            layer=error.layer.value if error and error.layer else None,
            cause=error.message if error else None,
            dependency=error.metadata.get("dependency") if error else None,
            request_id=str(call.request_id),
            client_request_id=call.client_request_id or None,
            caller=caller_name(call.caller),
            source=call.source_address,
            grant_id=str(facts.grant_id) if facts.grant_id else None,
            resource=facts.resource or None,
            rows=facts.result_count,
            latency_us=latency_us,
            **sizes,
        )


def _begin(method: Method, context: Any) -> tuple[Call, Transport]:
    loop = asyncio.get_running_loop()
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    wanted = context.time_remaining()
    seconds = method.deadline.total_seconds() if wanted is None else min(wanted, method.deadline.total_seconds())
    address, connection = _parse_peer(context.peer())
    now = loop.time()
    call = Call(
        method=method,
        request_id=uuid4(),
        client_request_id=_UNSAFE.sub("?", metadata.get("x-request-id", "")[:64]),
        source_address=address,
        connection=connection,
        deadline=now + seconds - DEADLINE_SHAVE_SECONDS,
        message_deadline=now + FIRST_MESSAGE_SECONDS,
        started_ns=time.monotonic_ns(),
    )
    auth: Mapping[str, list[bytes]] = context.auth_context()
    # Another version is never reached while the cipher list holds; an identity from such a connection would be none.
    is_tls13 = auth.get("ssl_tls_version", [b""])[0] == b"TLSv1.3"
    pem = next(iter(auth.get("x509_pem_cert", ())), None) if is_tls13 else None
    return call, Transport(certificate_pem=pem, authorization=metadata.get("authorization"))


def _record_deadline() -> float:
    return asyncio.get_running_loop().time() + RECORD_SECONDS


def _authorize(call: Call) -> None:
    """Check the caller against the row of the method.

    Raises:
        AccessDenied: a service or a role that is not listed.
    """
    if isinstance(call.caller, ServiceIdentity) and call.caller.name not in call.method.callers:
        raise AccessDenied(
            Reason.CALLER_NOT_ALLOWED,
            f"{call.caller.name} may not call {call.method.name}.",
            layer=Layer.CALLER,
            remedy=f"Allowed callers: {', '.join(sorted(call.method.callers))}.",
        )
    if isinstance(call.caller, Principal) and not call.method.callers & {role.value for role in call.caller.roles}:
        needed = " or ".join(sorted(call.method.callers))
        raise AccessDenied(
            Reason.ROLE_REQUIRED,
            f"{call.method.name} needs the role {needed}.",
            layer=Layer.CALLER,
            remedy=f"Use a token with the role {needed}.",
        )


def _decode(method: Method, unverified: bytes) -> Message:
    try:
        return method.request_type.FromString(unverified)
    except DecodeError:
        raise InvalidInput(
            Reason.MESSAGE_MALFORMED, f"The message is no {method.request_type.DESCRIPTOR.name}.", layer=Layer.REQUEST
        ) from None


def _encode(response: Answer) -> bytes:
    answer = response if isinstance(response, bytes) else response.SerializeToString()
    # The library would refuse to send it after we have recorded that it left.
    if len(answer) > MAX_ANSWER_BYTES:
        raise MosaicError(
            Reason.ANSWER_TOO_LARGE,
            f"One row alone is larger than an answer may be ({MAX_ANSWER_BYTES} bytes).",
            layer=Layer.ROW,
            remedy="Make the row smaller where it is kept.",
        )
    return answer


def _late(call: Call) -> Unavailable:
    if not call.arrived and call.message_deadline < call.deadline:
        return Unavailable(Reason.MESSAGE_LATE, "No message came within two seconds.", layer=Layer.REQUEST)
    return Unavailable(Reason.DEADLINE_EXCEEDED, "The gateway could not answer in time.", layer=Layer.REQUEST)


@lru_cache(maxsize=4096)
def _parse_peer(peer: str) -> tuple[str, str]:
    """Split ``ipv4:127.0.0.1:5000`` or ``ipv6:%5B::1%5D:5000`` into address and connection."""
    connection = unquote(peer.partition(":")[2])
    return connection.rpartition(":")[0].strip("[]"), connection


def caller_name(caller: Caller) -> str | None:
    """Who called, in a word that fits a log line and an audit row."""
    match caller:
        case ServiceIdentity():
            return caller.name
        case Principal():
            return caller.subject
        case PeerCertificate():
            return caller.fingerprint.hex()[:16]
        case None:
            return None
