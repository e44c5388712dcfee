"""One enrollment, stopped wherever somebody may die: the steps, who stops there, and who says when it goes on.

    async with Steps() as steps:
        pause = steps.stop_at(Step.SIGNED)
        …  # start the command
        await pause.reached()
        …  # kill somebody
        pause.go_on()

The services and the command run in processes of their own (processes_pausing.py); each asks here before it passes a step.
"""

import asyncio
import contextlib
import json
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

GO_ON: Final = b"go on\n"
LOSE: Final = b"lose\n"
REACHED_SECONDS: Final = 60.0


class Step(StrEnum):
    """Every effect of one enrollment, before it and after it, in the order in which they come to pass."""

    PREPARING = "home's grants: connection prepared, not committed"
    PREPARED = "home's grants: connection committed, not answered"
    RECEIVED = "enrollment: received, not counted"
    COUNTED = "enrollment: counted, not claimed"
    CLAIMING = "grants: claimed, not committed"
    CLAIMED = "grants: claim committed, not answered"
    WARRANTED = "enrollment: has a warrant"
    ORDERED = "ca-broker: order verified, step-ca not asked"
    SIGNED = "step-ca: signed, not answered"
    ISSUED = "ca-broker: has the certificate"
    BROUGHT = "enrollment: has the certificate"
    COMPLETING = "grants: completed, not committed"
    COMPLETED = "grants: completion committed, not answered"
    ENROLLED = "enrollment: completed, not answered"
    REDEEMED = "command: has the certificate"
    ACTIVATING = "home's grants: connection activated, not committed"
    ACTIVATED = "home's grants: activation committed, not answered"


class AnswerLost(ConnectionError):
    """Whoever had done what was asked of him died before anybody heard of it."""


@dataclass(frozen=True, slots=True)
class Asking:
    """The way from a process to the test that stops it."""

    port: int

    async def at(self, step: Step, **facts: str) -> None:
        """Wait until it may go on.

        Raises:
            AnswerLost: what was done just now shall not be heard of.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(_line({"step": step, **facts}))
            _obey(await reader.readline())
        finally:
            writer.close()

    def at_blocking(self, step: Step) -> None:
        """The same for a process without an event loop."""
        self._ask({"step": step})

    def wait(self, seconds: float) -> None:
        """Instead of sleeping: the test moves the time."""
        self._ask({"wait": seconds})

    def _ask(self, question: dict[str, Any]) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as asking, asking.makefile("rb") as answer:
            asking.sendall(_line(question))
            _obey(answer.readline())


def _line(question: dict[str, Any]) -> bytes:
    return json.dumps(question).encode() + b"\n"


def _obey(answer: bytes) -> None:
    if answer == LOSE:
        raise AnswerLost("the other side died")


@dataclass(slots=True)
class Pause:
    """Stops the first process that comes to a step."""

    step: Step
    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _told: asyncio.Event = field(default_factory=asyncio.Event)
    _answer: bytes = GO_ON

    async def reached(self) -> None:
        """Raises: TimeoutError, nobody came there."""
        async with asyncio.timeout(REACHED_SECONDS):
            await self._reached.wait()

    def go_on(self, *, lost: bool = False) -> None:
        """Let it pass, or let it hear that what it has just been answered never arrived."""
        self._answer = LOSE if lost else GO_ON
        self._told.set()

    async def hold(self) -> bytes:
        self._reached.set()
        await self._told.wait()
        return self._answer


async def _no_wait(_seconds: float) -> None:
    return None


class Steps:
    """Whom every process asks.

    Attributes:
        passed: steps in the order in which they were reached, since somebody was to be stopped or `let_pass`.
        ordered: grant id → the serials that warrants for it, seen on the way, ordered.
        wait: called with the seconds that a command is about to wait; it goes on when that returns.
    """

    def __init__(self) -> None:
        self.passed: list[Step] = []
        self.ordered: defaultdict[UUID, set[int]] = defaultdict(set)
        self.wait: Callable[[float], Awaitable[None]] = _no_wait
        self._pause: Pause | None = None
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[Any]] = set()

    @property
    def asking(self) -> Asking:
        assert self._server is not None
        return Asking(self._server.sockets[0].getsockname()[1])

    def stop_at(self, step: Step) -> Pause:
        """Stop whoever comes there next."""
        self.passed.clear()
        self._pause = Pause(step)
        return self._pause

    def let_pass(self) -> None:
        """Stop nobody."""
        self.passed.clear()
        self._pause = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        # Whoever asked may be killed while he waits: nobody is there to be answered then.
        with contextlib.suppress(OSError, ValueError), contextlib.closing(writer):
            writer.write(await self._decide(json.loads(await reader.readline())))
            await writer.drain()

    async def _decide(self, question: dict[str, Any]) -> bytes:
        if "wait" in question:
            await self.wait(question["wait"])
            return GO_ON
        step = Step(question["step"])
        self.passed.append(step)
        if "serial" in question:
            self.ordered[UUID(question["grant_id"])].add(int(question["serial"]))
        pause = self._pause
        if pause is None or pause.step is not step:
            return GO_ON
        self._pause = None
        return await pause.hold()
