"""Ask a service for its health, as the client-only identity `operator`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# First: it sets what grpc reads when it is imported.
import mosaic_common.rpc  # noqa: F401  isort: skip
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mosaic_common.identity import dns_name
from mosaic_common.rpc.client import ClientTls

ANSWER_SECONDS: Final = 2.0


class HealthClient:
    """One service of one gateway, under its own name and no other."""

    def __init__(self, address: str, *, identity: str, gateway: str, operator_pki: Path) -> None:
        self._address = address
        self._target_name = dns_name(identity, gateway)
        self._operator_pki = operator_pki

    def serves(self, dependency: str | None = None) -> bool:
        """Whether the process says that it serves, or that it reaches this dependency."""
        service = f"dependency.{dependency}" if dependency else ""
        try:
            with self._stub() as stub:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=ANSWER_SECONDS, wait_for_ready=True)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    @contextmanager
    def _stub(self) -> Iterator[health_pb2_grpc.HealthStub]:
        credentials = ClientTls.of_service(self._operator_pki).credentials()
        options = [("grpc.ssl_target_name_override", self._target_name), ("grpc.enable_http_proxy", 0)]
        with grpc.secure_channel(self._address, credentials, options=options) as channel:
            yield health_pb2_grpc.HealthStub(channel)
