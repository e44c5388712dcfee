"""Peers as processes of their own, which write down what each call was answered before they make the next one.

    with running_readers([Reader(…)], lifeline, folder) as [record]:
        …
    record.answers()

A record is kept by the one who asked: what it says was delivered, whatever has been killed since.
"""

import asyncio
import contextlib
import itertools
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic.federation.v1 import federation_pb2_grpc
from mosaic_cli.dev.processes import Command, Lifeline, Process

from tests.support.peers import Refusal

ROOT: Final = Path(__file__).parents[2]
CALL_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.02
SOON_SECONDS: Final = 0.25
DELIVERED: Final = "OK"
NOT_FOUND: Final = "RESOURCE_NOT_FOUND"
_ANSWERED: Final = frozenset({DELIVERED, NOT_FOUND})
# Neither is a multiple of the number of doors: each door is asked every kind of question.
SEARCH_EVERY: Final = 7
ABSENT_EVERY: Final = 3


@dataclass(frozen=True, slots=True)
class Reader:
    """One client and how it goes about it.

    Attributes:
        number: no other reader of the same grant has it, or its questions would not be its own.
        doors: host:port of the replicas; each call goes to the next.
        root, key, chain: PEM.
        asks: "once", each question a single time, rows and searches mixed; or "list", or "search".
        lanes: which go on independently.
        at_once: calls of one lane at the same moment; of those that are refused the one that has to wait longest comes back.
        obeys: it is repeated when RetryInfo says so, at the next door, until it is answered.
    """

    number: int
    grant_id: str
    doors: Sequence[str]
    server_name: str
    root: str
    key: str
    chain: str
    asks: str
    lanes: int = 1
    at_once: int = 1
    obeys: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call came to.

    Attributes:
        call: the same for a call and its repetitions.
        verb, text: what was asked; the text is what the query hash covers.
        began, ended: seconds of the machine's monotonic clock.
        result: OK, the reason of our ErrorInfo, or the code where there was none: nothing was delivered then.
    """

    call: int
    door: int
    verb: str
    text: str
    began: float
    ended: float
    result: str
    rows: int = 0
    request_id: str = ""
    retry_after: float = 0.0


@dataclass(slots=True)
class Record:
    """What a reader has written so far."""

    reader: Reader
    path: Path
    _read: int = 0
    _answers: list[Answer] = field(default_factory=list)
    _delivered: Counter[int] = field(default_factory=Counter)

    def answers(self) -> Sequence[Answer]:
        """Every line that is complete, oldest first."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            answers = [Answer(**json.loads(line)) for line in whole.splitlines()]
            self._delivered.update(each.door for each in answers if each.result == DELIVERED)
            self._answers += answers
        return self._answers

    def delivered(self) -> Counter[int]:
        """How many answers each door has given."""
        self.answers()
        return Counter(self._delivered)


@contextlib.contextmanager
def running_readers(readers: Sequence[Reader], lifeline: Lifeline, folder: Path) -> Iterator[Sequence[Record]]:
    """Let them read, in one process, until the block ends; their last calls are on record then."""
    records = [Record(reader, _record_of(reader, folder)) for reader in readers]
    name = f"readers-{readers[0].number}"
    command = Command(
        name=name,
        argv=[sys.executable, "-P", "-m", "tests.support.readers", str(folder)],
        log=folder / f"{name}.log",
        cwd=folder,
        environment={"PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"},
        stdin=json.dumps([asdict(reader) for reader in readers]).encode(),
    )
    process = Process(command, lifeline)
    try:
        yield records
        assert process.running, process.log_tail()
        process.ask_to_stop()
        process.wait(timeout_seconds=2 * CALL_SECONDS)
    finally:
        process.stop(timeout_seconds=0.0)


def _record_of(reader: Reader, folder: Path) -> Path:
    return folder / f"reader-{reader.number}.ndjson"


def row_id(reader: int, number: int) -> UUID:
    """Every reader has rows of its own, so that an answer names the call; one in ABSENT_EVERY is not there."""
    return UUID(int=reader << 64 | number)


@dataclass(slots=True)
class _Reading:
    reader: Reader
    record: Any
    stubs: Sequence[Any]
    stopping: asyncio.Event
    calls: Iterator[int] = field(default_factory=itertools.count)
    doors: Iterator[int] = field(default_factory=itertools.count)

    async def run_lane(self) -> None:
        while not self.stopping.is_set():
            calls = [next(self.calls) for _ in range(self.reader.at_once)]
            answers = await asyncio.gather(*(self._ask(call, *self._question(call)) for call in calls))
            refused = [each for each in answers if each.result not in _ANSWERED]
            if refused:
                # Only one comes back, when all have been heard: bookings are the grant's, and its other calls would fetch them.
                await self._follow(max(refused, key=lambda each: each.ended + each.retry_after))

    async def _follow(self, answer: Answer) -> None:
        """Pause after a refusal, or obey it and ask again until there is an answer."""
        while answer.result not in _ANSWERED:
            await self._pause(self._due_seconds(answer))
            if not self.reader.obeys or self.stopping.is_set():
                return
            answer = await self._ask(answer.call, answer.verb, answer.text)

    def _due_seconds(self, refused: Answer) -> float:
        if self.reader.obeys:
            return refused.ended + refused.retry_after - time.monotonic()
        return min(refused.retry_after, SOON_SECONDS) if self.reader.asks == "once" else 0.0

    async def _ask(self, call: int, verb: str, text: str) -> Answer:
        answer = await self._answer(call, verb, text)
        self.record.write(json.dumps(asdict(answer)).encode() + b"\n")
        return answer

    async def _answer(self, call: int, verb: str, text: str) -> Answer:
        door, began = next(self.doors) % len(self.stubs), time.monotonic()
        ask: Mapping[str, Callable[[Any], Any]] = {"get": self._get, "list": self._list, "search": self._search}
        try:
            rows = await ask[verb](self.stubs[door])(text)
        except grpc.aio.AioRpcError as error:
            refused = Refusal.of(error)
            return Answer(
                *(call, door, verb, text, began, time.monotonic(), refused.reason or refused.code.name),
                request_id=refused.metadata.get("request_id", ""),
                retry_after=refused.retry_after_seconds or 0.0,
            )
        return Answer(call, door, verb, text, began, time.monotonic(), DELIVERED, rows)

    def _question(self, call: int) -> tuple[str, str]:
        if self.reader.asks != "once":
            return self.reader.asks, "words" if self.reader.asks == "search" else ""
        if call % SEARCH_EVERY == SEARCH_EVERY - 1:
            return "search", f"words of {self.reader.number} {call}"
        return "get", str(row_id(self.reader.number, call))

    def _get(self, stub: Any) -> Callable[[str], Any]:
        async def ask(text: str) -> int:
            await stub.GetResource(pb.GetResourceRequest(resource="tasks", id=text), timeout=CALL_SECONDS)
            return 1

        return ask

    def _list(self, stub: Any) -> Callable[[str], Any]:
        async def ask(_text: str) -> int:
            answer = await stub.ListResources(pb.ListResourcesRequest(resource="tasks", page_size=1), timeout=CALL_SECONDS)
            return len(answer.resources)

        return ask

    def _search(self, stub: Any) -> Callable[[str], Any]:
        async def ask(text: str) -> int:
            request = pb.SearchResourcesRequest(resources=["tasks"], query=text, page_size=1)
            return len((await stub.SearchResources(request, timeout=CALL_SECONDS)).hits)

        return ask

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds if seconds > 0 else PAUSE_SECONDS)


async def _run(readers: Sequence[Reader], folder: Path) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await asyncio.gather(*(_read(reader, folder, stopping) for reader in readers))


async def _read(reader: Reader, folder: Path, stopping: asyncio.Event) -> None:
    credentials = grpc.ssl_channel_credentials(reader.root.encode(), reader.key.encode(), reader.chain.encode())
    options = (
        ("grpc.ssl_target_name_override", reader.server_name),
        ("grpc.use_local_subchannel_pool", 1),
        # A replica that is back is found at once.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 200),
    )
    channels = [grpc.aio.secure_channel(door, credentials, options=options) for door in reader.doors]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    stubs = [federation_pb2_grpc.FederationServiceStub(channel) for channel in channels]
    with _record_of(reader, folder).open("ab", buffering=0) as record:
        reading = _Reading(reader, record, stubs, stopping)
        await asyncio.gather(*(reading.run_lane() for _ in range(reader.lanes)))
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    asyncio.run(_run([Reader(**each) for each in json.loads(sys.stdin.buffer.read())], Path(sys.argv[1])))
