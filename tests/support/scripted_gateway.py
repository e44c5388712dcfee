"""A gateway whose answers the test writes: real listeners with the leaves of a real service PKI, and nothing behind them.

with ScriptedGateway.start(tmp_path, "work") as work:
    work.answer("GetPeer", GetPeerResponse(peer=…))
    run_cli("federation", "peer", "show", "home", env=work.environment)
    assert work.asked("GetPeer").peer == "home"
"""

import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import mosaic_common.rpc  # noqa: F401  isort: skip
import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic.federation.v1 import query_pb2
from mosaic.grants.v1 import grants_pb2
from mosaic_cli.contexts import Context, Contexts, save
from mosaic_common import pki
from mosaic_common.clock import Clock, SystemClock
from mosaic_common.errors import MosaicError
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS, OPERATOR
from mosaic_common.pki import IdentityFolder, PkiDirectory
from mosaic_common.rpc.status import DETAILS_KEY, grpc_code, to_status
from mosaic_common.tokens import EnrollmentOffer
from mosaic_common.x509 import fingerprint_sha256

HOST = "127.0.0.1"
REQUEST_ID = "00000000-0000-4000-8000-000000000000"

Answer = Message | MosaicError | Callable[[Any], Message]


@dataclass
class ScriptedGateway:
    """Answers each method with what was written for it, in order; the last one stays."""

    name: str
    pki: PkiDirectory
    contexts: Path
    ports: dict[str, int] = field(default_factory=dict)
    received: list[tuple[str, Any]] = field(default_factory=list)
    _answers: dict[str, list[Answer]] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def start(cls, folder: Path, name: str, *, public_host: str = HOST, made_at: Clock | None = None) -> Iterator[Self]:
        pki.init(folder / "pki", name, public_host, clock=made_at or SystemClock())
        gateway = cls(name, PkiDirectory(folder / "pki"), folder / "contexts.json")
        with ExitStack() as stack:
            for identity in (GRANTS, EDGE_OUTBOUND, ENROLLMENT, EDGE_INBOUND):
                gateway.ports[identity] = stack.enter_context(gateway._listen(identity))
            save(gateway.contexts, Contexts(current=name, contexts={name: gateway.context}))
            yield gateway

    @property
    def context(self) -> Context:
        operator = self.pki.identity(OPERATOR)
        return Context(
            gateway=self.name,
            operator_address=f"{HOST}:{self.ports[GRANTS]}",
            user_address=f"{HOST}:{self.ports[EDGE_OUTBOUND]}",
            root=operator.service_root,
            jwt_key=operator.jwt_key,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {"MOSAIC_CONTEXTS": str(self.contexts)}

    @property
    def federation_endpoint(self) -> str:
        return f"{HOST}:{self.ports[EDGE_INBOUND]}"

    def offer(self, common_name: str = "home") -> EnrollmentOffer:
        """Where this gateway's grants are redeemed, its root pinned."""
        root_der = _der(self.pki.root.certificate)
        return EnrollmentOffer(
            host=HOST, port=self.ports[ENROLLMENT], gateway=self.name, common_name=common_name, pin=fingerprint_sha256(root_der)
        )

    def answer(self, method: str, *answers: Answer) -> None:
        self._answers[method] = list(answers)

    def answered(self, method: str) -> Any:
        """What this method answers from now on, where it is a message."""
        return self._answers[method][-1]

    def asked(self, method: str) -> Any:
        """The one request that this method received."""
        (request,) = self.all_asked(method)
        return request

    def all_asked(self, method: str) -> list[Any]:
        return [request for name, request in self.received if name == method]

    def present_at_endpoint(self, identity: str) -> None:
        """From now on the federation endpoint is another service's listener."""
        self.ports[EDGE_INBOUND] = self.ports[identity]

    @contextmanager
    def _listen(self, identity: str) -> Iterator[int]:
        with ThreadPoolExecutor(max_workers=2) as pool:
            server = grpc.server(pool, handlers=[_Handler(self)])
            port = server.add_secure_port(
                f"{HOST}:0", _credentials(self.pki.identity(identity), asks_clients=identity == EDGE_INBOUND)
            )
            server.start()
            try:
                yield port
            finally:
                server.stop(grace=None).wait()

    def _next(self, method: str, request: Message) -> Message:
        self.received.append((method, request))
        script = self._answers[method]
        answer = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(answer, MosaicError):
            raise answer
        return answer if isinstance(answer, Message) else answer(request)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, gateway: ScriptedGateway) -> None:
        self._gateway = gateway

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        method = handler_call_details.method.rpartition("/")[2]
        requests = _REQUESTS.get(method)
        if requests is None or method not in self._gateway._answers:
            return None

        def behave(request: Message, context: grpc.ServicerContext) -> Message:
            try:
                return self._gateway._next(method, request)
            except MosaicError as error:
                status = to_status(error, request_id=REQUEST_ID, outside=False)
                context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
                context.abort(grpc_code(error), status.message)
                raise AssertionError from None

        return grpc.unary_unary_rpc_method_handler(
            behave, request_deserializer=requests.FromString, response_serializer=lambda message: message.SerializeToString()
        )


_REQUESTS: dict[str, type[Message]] = {
    method.name: GetMessageClass(method.input_type)
    for module in (grants_pb2, query_pb2, enrollment_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def _credentials(folder: IdentityFolder, *, asks_clients: bool) -> grpc.ServerCredentials:
    pair = (folder.public_certificate_key.read_bytes(), folder.public_certificate.read_bytes())
    return grpc.ssl_server_credentials(
        [pair], folder.service_root.read_bytes() if asks_clients else None, require_client_auth=asks_clients
    )


def _der(certificate: Path) -> bytes:

    return ssl.PEM_cert_to_DER_cert(certificate.read_text("ascii"))
