"""Channels to other services, each checking whom it reached.

A Python gRPC client cannot read the server's certificate, so identity is bound to a name: the channel's target name is
``<identity>.<gateway>.mosaic.internal`` under that gateway's root, and only that leaf bears it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from mosaic_common.errors import ConfigurationError, Reason, Unavailable
from mosaic_common.identity import dns_name
from mosaic_common.rpc.call import current_call
from mosaic_common.rpc.status import from_rpc_error

T = TypeVar("T")

DEFAULT_TIMEOUT_SECONDS: Final = 5.0
# Less than this is not worth a downstream call: the answer would come after the caller has gone.
_TOO_LITTLE_SECONDS: Final = 0.02
_ROUND_ROBIN: Final = '{"loadBalancingConfig":[{"round_robin":{}}]}'
_OPTIONS: Final = (
    ("grpc.service_config", _ROUND_ROBIN),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name the least time that one attempt to connect gets, handshake included: a far peer needs more than a moment.
    ("grpc.min_reconnect_backoff_ms", 6_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A connection that a firewall forgot, or a peer that lost its power, is noticed before a user asks through it; our own
    # listeners allow a ping every ten seconds.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without it an unanswered ping gets a minute, whatever the line above says (1.85, tried).
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM bytes of a client: the only root it trusts and, for mTLS, its own chain and key."""

    root: bytes
    certificate: bytes | None = None
    key: bytes | None = None

    @classmethod
    def of_service(cls, pki_dir: Path) -> "ClientTls":
        """Read the internal leaf of this process.

        Raises:
            ConfigurationError: a file is missing.
        """
        try:
            return cls(
                root=(pki_dir / "service-root.pem").read_bytes(),
                certificate=(pki_dir / "internal.pem").read_bytes(),
                key=(pki_dir / "internal.key").read_bytes(),
            )
        except OSError as error:
            raise ConfigurationError(f"{error.filename} cannot be read ({error.strerror}); `mosaic pki init` makes it.") from error

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.root, self.key, self.certificate)


class _CarryDeadline(grpc.aio.UnaryUnaryClientInterceptor):
    """Gives every downstream call what is left of the call being served, and its request id."""

    async def intercept_unary_unary(self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any) -> Any:
        timeout, metadata = (
            client_call_details.timeout or DEFAULT_TIMEOUT_SECONDS,
            client_call_details.metadata or grpc.aio.Metadata(),
        )
        serving = current_call.get(None)
        if serving is not None:
            timeout = min(timeout, serving.remaining_seconds())
            if timeout < _TOO_LITTLE_SECONDS:
                raise Unavailable(Reason.DEADLINE_EXCEEDED, "Too little time is left to answer.")
            metadata.add("x-request-id", str(serving.request_id))
        details = grpc.aio.ClientCallDetails(
            method=client_call_details.method,
            timeout=timeout,
            metadata=metadata,
            credentials=client_call_details.credentials,
            wait_for_ready=client_call_details.wait_for_ready,
        )
        return await continuation(details, request)


def channel(address: str, *, target_name: str, tls: ClientTls) -> grpc.aio.Channel:
    """Open a channel that talks to ``target_name`` under ``tls.root`` or to nobody."""
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", target_name))
    return grpc.aio.secure_channel(address, tls.credentials(), options=options, interceptors=[_CarryDeadline()])


def service_channel(address: str, *, identity: str, gateway: str, tls: ClientTls) -> grpc.aio.Channel:
    """Open a channel to a service of this gateway."""
    return channel(address, target_name=dns_name(identity, gateway), tls=tls)


async def answer_of(call: Awaitable[T], *, dependency: str) -> T:
    """Await a downstream call.

    Raises:
        MosaicError: what the dependency answered, typed, or Unavailable when it did not.
    """
    try:
        return await call
    except grpc.RpcError as error:
        raise from_rpc_error(error, dependency=dependency) from None
