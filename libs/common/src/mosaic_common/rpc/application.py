"""A process from its first listener to its last drained call."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop

from mosaic_common.log import logger
from mosaic_common.rpc.health import Health
from mosaic_common.rpc.memory import forbid_core_dumps, give_memory_back, settle
from mosaic_common.rpc.scheduling import let_completions_gather
from mosaic_common.rpc.server import GrpcListener

DRAIN_SECONDS: Final = 10.0
CLOSING_SECONDS: Final = 5.0


@dataclass(slots=True)
class Application:
    """What a composition root builds.

    Attributes:
        listeners: started in order; the internal one comes last, because health on it says that all are up.
        background: tasks for the whole life; one that fails ends the process.
        opening: before the first listener.
        closing: after the last call has drained, in order.
    """

    listeners: Sequence[GrpcListener]
    health: Health
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    opening: Sequence[Callable[[], Awaitable[object]]] = ()
    closing: Sequence[Callable[[], Awaitable[object]]] = ()
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, init=False)

    async def start(self) -> None:
        """Open, listen, report healthy."""
        for opening in self.opening:
            await opening()
        self._tasks = [asyncio.create_task(work()) for work in (*self.background, self.health.watch, give_memory_back)]
        for listener in self.listeners:
            await listener.start()
        await self.health.start()

    async def stop(self) -> None:
        """Drain: say so, refuse new calls, finish running ones, then close what they used."""
        await self.health.stop()
        await asyncio.gather(*(listener.stop(DRAIN_SECONDS) for listener in self.listeners))
        for task in self._tasks:
            task.cancel()
        # Bounded: a dependency that says nothing must not keep a process from ending.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS)
        for closing in self.closing:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_SECONDS):
                    await closing()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then drain.

        Raises:
            Exception: of the background task that failed.
        """
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        log = logger("application")
        await self.start()
        settle()
        let_completions_gather()
        log.info("started")
        waiting = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            log.info("draining", signalled=stopping.is_set())
            failed = [task for task in self._tasks if task.done() and not task.cancelled()]
        finally:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.stop()
        log.info("stopped")
        for task in failed:
            task.result()


def serve(build: Callable[[], Application]) -> None:
    """Run a process until it is told to stop.

    The composition root runs inside the loop, because a gRPC channel belongs to the loop that it was made in.
    """

    forbid_core_dumps()

    async def main() -> None:
        await build().run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
