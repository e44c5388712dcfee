"""Ask a service whether it serves, as the client-only identity `operator`."""

from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mosaic_common.identity import dns_name
from mosaic_common.rpc.client import ClientTls

ANSWER_SECONDS: Final = 2.0


def serves(address: str, *, identity: str, gateway: str, operator_pki: Path, name: str = "") -> bool:
    """Whether that identity, and nobody else, answers there and says SERVING.

    Args:
        name: "" is the process itself, `dependency.<name>` what it depends on.
    """
    credentials = ClientTls.of_service(operator_pki).credentials()
    options = [("grpc.ssl_target_name_override", dns_name(identity, gateway)), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(address, credentials, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=ANSWER_SECONDS, wait_for_ready=True)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
