"""From a context to a gateway's listeners: TLS under its own root, to its own name, with a bearer token."""

import getpass
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

# First: it sets what grpc reads when it is imported.
import mosaic_common.rpc  # noqa: F401  isort: skip
import grpc
from mosaic.audit.v1.audit_pb2_grpc import AuditServiceStub
from mosaic.federation.v1.query_pb2_grpc import QueryServiceStub
from mosaic.grants.v1.grants_pb2_grpc import GrantServiceStub, PeerServiceStub, SealServiceStub, UserServiceStub
from mosaic_common.auth import Role, TokenIssuer, operate_audience, query_audience
from mosaic_common.clock import SystemClock
from mosaic_common.errors import AuthRefused, MosaicError, Reason
from mosaic_common.identity import EDGE_OUTBOUND, GRANTS, dns_name
from mosaic_common.rpc.status import from_rpc_error

from mosaic_cli.clocks import find_clock_difference
from mosaic_cli.contexts import Context
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.times import utc_now

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")

TOKEN_VARIABLE: Final = "MOSAIC_TOKEN"  # noqa: S105  the name of a variable
TIMEOUT_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 0.1
OWN_TOKEN_TTL: Final = timedelta(minutes=5)
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024

# How the C core words a handshake that it ended itself.
_NOT_VERIFIED: Final = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification", "Peer name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A listener of a gateway, and the token that we show it."""

    name: str
    token: str = field(repr=False)

    def ask(self, method: "grpc.UnaryUnaryMultiCallable[Q, A]", request: Q) -> A:
        """Raises: MosaicError, CommandFailed."""
        try:
            return method(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            raise self._failure_of(error) from None

    def ask_at_once(
        self, method: "grpc.UnaryUnaryMultiCallable[Q, A]", requests: Iterable[Q]
    ) -> Iterator[tuple[Q, A | MosaicError | CommandFailed]]:
        """Send all requests, and yield each with its answer, or with why there is none, when that is there.

        Whoever stops listening ends what is still being asked.
        """
        asking: dict[grpc.Future[A], Q] = {method.future(request, timeout=TIMEOUT_SECONDS): request for request in requests}
        ended: SimpleQueue[grpc.Future[A]] = SimpleQueue()
        try:
            for call in asking:
                call.add_done_callback(ended.put)
            for _ in asking:
                call = _next(ended)
                try:
                    yield asking[call], call.result()
                except grpc.RpcError as error:
                    yield asking[call], self._failure_of(error)
        finally:
            for call in asking:
                call.cancel()

    def _failure_of(self, error: grpc.RpcError) -> MosaicError | CommandFailed:
        failed = failure_of(error, listener=self.name)
        if isinstance(failed, AuthRefused):
            return find_clock_difference(failed, self.token, self.name, utc_now()) or failed
        return failed


def _next(ended: "SimpleQueue[T]") -> "T":
    """The next element, whenever it comes. A ^C in the moment before a wait without an end interrupts nothing: so it has ends."""
    while True:
        with suppress(Empty):
            return ended.get(timeout=_LOOK_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator(Listener):
    """The operator listener."""

    grants: GrantServiceStub
    peers: PeerServiceStub
    seals: SealServiceStub
    users: UserServiceStub
    audit: AuditServiceStub


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Listener):
    """The user listener."""

    query: QueryServiceStub


@contextmanager
def operator(target: Context, role: Role, *, lasting: timedelta = OWN_TOKEN_TTL) -> Iterator[Operator]:
    """Open the operator listener; a token that has to be made here gets this role, for this time, and no more."""
    token = _find_given_token() or mint(target, _operator_name(), role, lasting)
    with _channel(target, target.operator_address, GRANTS, token) as channel:
        yield Operator(
            name=f"grants of {target.gateway} at {target.operator_address}",
            token=token,
            grants=GrantServiceStub(channel),
            peers=PeerServiceStub(channel),
            seals=SealServiceStub(channel),
            users=UserServiceStub(channel),
            audit=AuditServiceStub(channel),
        )


@contextmanager
def user(target: Context, user_id: str | None) -> Iterator[User]:
    """Open the user listener as whom MOSAIC_TOKEN says, or as this user where the context can make tokens."""
    token = mint(target, user_id, Role.QUERY, OWN_TOKEN_TTL) if user_id else _find_given_token()
    if not token:
        raise CommandFailed(
            LocalReason.TOKEN_MISSING,
            "Nobody is asking: a query runs as a user.",
            remedy="Give --user, or set MOSAIC_TOKEN to that user's token (`mosaic auth token --subject UUID --role query`).",
        )
    with _channel(target, target.user_address, EDGE_OUTBOUND, token) as channel:
        name = f"edge-outbound of {target.gateway} at {target.user_address}"
        yield User(name=name, token=token, query=QueryServiceStub(channel))


def mint(target: Context, subject: str, role: Role, ttl: timedelta) -> str:
    """Make a token with the key of the context, for the audience that the role is for.

    Raises:
        CommandFailed: this context holds no key, or the lifetime is not allowed.
    """
    if target.jwt_key is None:
        raise CommandFailed(
            LocalReason.TOKEN_MISSING,
            f"The context of {target.gateway} names no key to make a token with.",
            remedy=f"Set {TOKEN_VARIABLE}, or have a token made where the key is: `mosaic auth token`.",
        )
    audience = (query_audience if role is Role.QUERY else operate_audience)(target.gateway)
    issuer = TokenIssuer(target.jwt_key.read_bytes(), target.gateway, SystemClock())
    try:
        return issuer.issue(subject, [role], audience, ttl)
    except ValueError as error:
        raise CommandFailed(LocalReason.CONFIGURATION, str(error)) from None


def answer_of(method: "grpc.UnaryUnaryMultiCallable[Q, A]", request: Q, *, listener: str) -> A:
    """Call and translate.

    Raises:
        MosaicError: what the gateway answered.
        CommandFailed: nobody answered; says what was in the way as far as TLS and TCP tell.
    """
    try:
        return method(request, timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        raise failure_of(error, listener=listener) from None


def failure_of(error: grpc.RpcError, *, listener: str) -> MosaicError | CommandFailed:
    answered = from_rpc_error(error, dependency=listener)
    # `dependency` names the listener itself only when the answer was made by the library, here or there.
    if answered.reason is not Reason.DEPENDENCY_UNAVAILABLE or answered.metadata.get("dependency") != listener:
        return answered
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = (error.details() if isinstance(error, grpc.Call) else None) or ""
    reason, sentence, remedy = _explain(code, details)
    return CommandFailed(reason, f"{listener}: {sentence}", remedy=remedy)


def _find_given_token() -> str | None:
    token = os.environ.get(TOKEN_VARIABLE)
    # Empty is what a failed `$(mosaic auth token …)` leaves; a token of our own instead might allow more than was meant.
    if token is not None and not token.strip():
        raise CommandFailed(
            LocalReason.TOKEN_MISSING, f"{TOKEN_VARIABLE} is set and empty.", remedy=f"Set it, or unset {TOKEN_VARIABLE}."
        )
    return token and token.strip()


def _operator_name() -> str:
    """Who is recorded as the actor; in a container the user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _explain(code: grpc.StatusCode, details: str) -> tuple[LocalReason, str, str]:
    if any(mark in details for mark in _NOT_VERIFIED):
        return (
            LocalReason.NOT_VERIFIED,
            "somebody answers there, but does not prove to be this service of this gateway.",
            "Check address and root, the certificate's dates (`mosaic pki show`) and this machine's clock.",
        )
    match code:
        case grpc.StatusCode.UNIMPLEMENTED:
            return LocalReason.NOT_OFFERED, "it does not know this call.", "Compare the versions of the CLI and of the gateway."
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return LocalReason.UNREACHABLE, f"no answer within {TIMEOUT_SECONDS:.0f} seconds.", "Check that the service is healthy."
        case grpc.StatusCode.UNAVAILABLE if "refused" in details:
            return LocalReason.UNREACHABLE, "nothing listens there.", "Check that the service runs, and its address."
        case grpc.StatusCode.UNAVAILABLE:
            return LocalReason.UNREACHABLE, "it cannot be reached.", "Check its address, the network and the service."
        case _:
            return LocalReason.NOT_OFFERED, f"the call failed ({code.name}).", "Look for it in the log of the service."


@contextmanager
def _channel(target: Context, address: str, identity: str, token: str) -> Iterator[grpc.Channel]:
    if not address:
        raise CommandFailed(
            LocalReason.CONFIGURATION,
            f"No address of {identity} is known.",
            remedy="Name a context, or give the address (see `mosaic --help`).",
        )
    # The token goes nowhere but to the listener that proves this name under this root.
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(target.root.read_bytes()), grpc.access_token_call_credentials(token)
    )
    options = (
        ("grpc.ssl_target_name_override", dns_name(identity, target.gateway)),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    )
    with grpc.secure_channel(address, credentials, options=options) as channel:
        yield channel
