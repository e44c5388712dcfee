"""Whether a dependency answers."""

from collections.abc import Awaitable, Callable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mosaic_common.errors import Reason, Unavailable
from redis.asyncio import Redis

PING_SECONDS: Final = 2.0


def ping_service(channel: grpc.aio.Channel, *, name: str) -> Callable[[], Awaitable[None]]:
    """Ask another service of this gateway for its health."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def ping() -> None:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PING_SECONDS)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable(Reason.DEPENDENCY_UNAVAILABLE, f"{name} is not serving.")

    return ping


class Valkey:
    """Valkey as this service's own user. So far it is only asked whether it is there; the shared rate limit will live in it."""

    def __init__(self, url: str) -> None:
        self._client: Final[Redis] = Redis.from_url(url, socket_timeout=PING_SECONDS, socket_connect_timeout=PING_SECONDS)

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()
