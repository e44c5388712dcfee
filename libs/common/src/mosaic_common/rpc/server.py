"""One server object per listener: what is not registered on it does not exist there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc_reflection.v1alpha import reflection

from mosaic_common.errors import ConfigurationError
from mosaic_common.log import logger
from mosaic_common.rpc.call import MAX_ANSWER_BYTES, Authenticate, Behaviour, Recorder, Wrapper
from mosaic_common.rpc.health import HEALTH_SERVICE, Health
from mosaic_common.rpc.methods import Listener, MethodTable

# Each line answers one flood (docs/threat-model.md): rapid reset, pending queue, large messages, half-open handshakes,
# idle connections, slow readers, random refusals between the two metadata limits, a second server on the same port.
OPTIONS: Final = (
    ("grpc.max_concurrent_streams", 100),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 15_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # what is really waited for; keepalive_timeout_ms alone leaves it a minute (tried)
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.so_reuseport", 0),
)
# The library refuses a stream while a connection has more calls than streams that are not freed yet, answered and reset ones
# included. Without it one connection's rapid reset fills the pending queue for everybody (+350 MiB, seconds of waiting). With it
# a client that has more calls in hand than streams loses 5-10 % of them, which our own services, who do not attack, must not.
TRUSTED_OPTIONS: Final = (*OPTIONS, ("grpc.http.overload_protection", 0))


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Files of a listener, re-read when they change.

    Attributes:
        certificate: PEM, leaf first; a public leaf is followed by its root, which a pinning client looks for.
        key: PEM, EC.
        client_roots: PEM; None asks no client certificate.
    """

    certificate: Path
    key: Path
    client_roots: Path | None = None

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read and check the files.

        Raises:
            ConfigurationError: a file is missing, the key is not the certificate's, or not EC (an RSA key would reopen TLS 1.2).
        """
        try:
            certificate, key = self.certificate.read_bytes(), self.key.read_bytes()
            roots = self.client_roots.read_bytes() if self.client_roots else None
            public_key = x509.load_pem_x509_certificate(certificate).public_key()
            own_public_key = load_pem_private_key(key, password=None).public_key()
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigurationError(
                f"{self.certificate}: the listener's certificate, key or client roots cannot be read ({error})."
            ) from error
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise ConfigurationError(f"{self.certificate}: the key is not EC; an RSA key would reopen TLS 1.2.")
        # Also what a handshake finds between the two writes of a renewal; the next one finds both.
        if public_key != own_public_key:
            raise ConfigurationError(f"{self.key}: the key is not that of {self.certificate.name}.")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=roots)

    def stamp(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in (self.certificate, self.key, self.client_roots) if path)


class GrpcListener:
    """One listener.

    Args:
        kind: which rows of the method table live here.
        address: ``host:port``; port 0 picks one, see ``port``.
        methods: the service's whole table.
        authenticate: who calls.
        recorder: audit rows for methods that have an event.
        reflection: development only, or internal.
    """

    def __init__(
        self,
        kind: Listener,
        address: str,
        tls: ServerTls,
        methods: MethodTable,
        authenticate: Authenticate,
        recorder: Recorder | None = None,
        health: Health | None = None,
        *,
        reflected: bool = False,
    ) -> None:
        self.kind = kind
        self.address = address
        self.port = 0
        self.handshakes_begun = 0
        self._tls = tls
        self._methods = methods
        self._wrapper = Wrapper(authenticate, recorder)
        self._health = health
        self._reflected = reflected
        self._server: Any = None
        self._behaviours: dict[str, Mapping[str, Behaviour]] = {}
        self._log = logger("listener")

    def serve(self, *servicers: object) -> "GrpcListener":
        """Register servicers: for every row of this listener exactly one method of that name among them.

        Raises:
            ConfigurationError: a row without a method, or a public method without a row.
        """
        rows = {method.name: method for method in self._methods.on(self.kind)}
        found: dict[str, Behaviour] = {}
        for servicer in servicers:
            for name in (name for name in dir(type(servicer)) if name[0].isupper()):
                if name in found or name not in rows:
                    raise ConfigurationError(
                        f"{type(servicer).__name__}.{name} has no row of its own in the method table of the {self.kind} listener."
                    )
                found[name] = getattr(servicer, name)
        if missing := sorted(rows.keys() - found.keys()):
            raise ConfigurationError(f"The {self.kind} listener has rows for {', '.join(missing)}, but nothing serves them.")
        for name, method in rows.items():
            service = self._behaviours.setdefault(method.service.full_name, {})
            assert isinstance(service, dict)
            service[name] = found[name]
        return self

    async def start(self) -> None:
        """Bind and accept.

        Raises:
            ConfigurationError: the address is taken or the files are not usable.
        """
        self._server = grpc.aio.server(options=TRUSTED_OPTIONS if self.kind is Listener.INTERNAL else OPTIONS)
        rows = {method.path: method for method in self._methods.on(self.kind)}
        for service, behaviours in self._behaviours.items():
            handlers = {
                name: self._wrapper.handler(rows[f"/{service}/{name}"], behaviour) for name, behaviour in behaviours.items()
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        if self._health:
            self._health.register(self._server)
        if self._reflected:
            names = [*self._behaviours, reflection.SERVICE_NAME, *([HEALTH_SERVICE] if self._health else [])]
            reflection.enable_server_reflection(names, self._server)
        credentials = grpc.dynamic_ssl_server_credentials(
            self._tls.read(),
            self._fetcher(),  # type: ignore[arg-type]  # None means "keep it" (grpc's documentation); the stubs forgot it
            require_client_authentication=self._tls.client_roots is not None,
        )
        try:
            self.port = self._server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise ConfigurationError(
                f"The {self.kind} listener cannot bind {self.address}; is another process using the port?"
            ) from error
        await self._server.start()
        self._log.info("listening", listener=self.kind.value, address=self.address, port=self.port)

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing new, let running calls finish."""
        if self._server is not None:
            await self._server.stop(grace_seconds)
        self._wrapper.stop()

    def _fetcher(self) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        stamp = self._tls.stamp()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # Called once per handshake, in a thread of the library: the only place where a handshake can be counted.
            nonlocal stamp
            self.handshakes_begun += 1
            try:
                now = self._tls.stamp()
                if now == stamp:
                    return None
                configuration = self._tls.read()
            except (OSError, ConfigurationError) as error:
                self._log.error("certificate_not_reloaded", listener=self.kind.value, error=str(error))
                return None
            stamp = now
            return configuration

        return fetch
