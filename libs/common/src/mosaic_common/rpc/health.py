"""Health of a process (``""``) and of what it depends on (``dependency.<name>``).

A dependency that is down never flips ``""``: restarting this process would not bring it back, and a restart cascade
would take down what still works.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mosaic_common.log import logger

HEALTH_SERVICE: Final[str] = health.SERVICE_NAME
INTERVAL_SECONDS: Final = 1.0
PING_SECONDS: Final = 2.0
Ping = Callable[[], Awaitable[object]]


def ping_of(channel: grpc.aio.Channel, service: str = "") -> Ping:
    """Return the ping of another service: its process answers, whatever it depends on does; or one of these answers it."""
    stub = health_pb2_grpc.HealthStub(channel)

    async def ping() -> None:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PING_SECONDS)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise ConnectionError("not serving")

    return ping


class Health:
    """Serves grpc.health.v1 and watches the dependencies."""

    def __init__(self, dependencies: Mapping[str, Ping]) -> None:
        self._servicer = health.aio.HealthServicer()
        self._dependencies = dependencies
        self._up: dict[str, bool] = {}
        self._log = logger("health")

    def register(self, server: Any) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def is_up(self, dependency: str) -> bool:
        """Return whether the dependency answered its last ping."""
        return self._up.get(dependency, False)

    async def start(self) -> None:
        for name in self._dependencies.keys() - self._up.keys():  # not over what a ping has found out already
            await self._servicer.set(f"dependency.{name}", health_pb2.HealthCheckResponse.UNKNOWN)
        await self._servicer.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        await self._servicer.enter_graceful_shutdown()

    async def watch(self) -> None:
        """Ping every dependency, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for name, ping in self._dependencies.items():
                tasks.create_task(self._watch(name, ping))

    async def _watch(self, name: str, ping: Ping) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await ping()
                cause, up = None, True
            except Exception as error:  # noqa: BLE001 - whatever a ping raises means that the dependency does not answer
                cause, up = type(error).__name__, False
            if self._up.get(name) is not up:
                self._up[name] = up
                serving = health_pb2.HealthCheckResponse.SERVING if up else health_pb2.HealthCheckResponse.NOT_SERVING
                await self._servicer.set(f"dependency.{name}", serving)
                self._log.info("dependency", dependency=name, up=up, cause=cause)
            await asyncio.sleep(INTERVAL_SECONDS)
