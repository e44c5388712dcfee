"""What a service reports about what it depends on, awaited rather than polled."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_NOT_YET = frozenset({health_pb2.HealthCheckResponse.UNKNOWN, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN})


async def first_report(channel: grpc.aio.Channel, dependency: str) -> Any:
    """Return the first status that the service gives of a dependency."""
    async for status in _watch(channel, dependency):
        if status not in _NOT_YET:
            return status
    raise AssertionError(f"no word of {dependency}")


async def serving(channel: grpc.aio.Channel, *dependencies: str) -> None:
    """Return once each of them answers the service."""
    for dependency in dependencies:
        async for status in _watch(channel, dependency):
            if status == health_pb2.HealthCheckResponse.SERVING:
                break


async def _watch(channel: grpc.aio.Channel, dependency: str) -> Any:
    request = health_pb2.HealthCheckRequest(service=f"dependency.{dependency}")
    call = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=15)
    try:
        async for answer in call:
            yield answer.status
    finally:
        call.cancel()
