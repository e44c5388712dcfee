"""The audit writer against a store that does what stores do on bad days."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
from mosaic_common.audit import AuditRow, Chain, Event, Outcome, SealedRow, verify_chain
from mosaic_common.errors import Reason, Unavailable
from mosaic_federation_edge.adapters.audit_writer import BUSY_ROWS, AuditWriter, ChainLost, RowsRefused
from structlog.testing import capture_logs

UNAVAILABLE = Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "No answer.")
POISON = "poison"


def row(actor: str = "") -> AuditRow:
    return AuditRow(
        request_id=uuid4(),
        time_us=1_800_000_000_000_000,
        event=Event.READ,
        actor=actor,
        source_address="192.0.2.7",
        outcome=Outcome.ALLOWED,
        status_code=0,
    )


class Store:
    """append_audit in memory: continuity, idempotence and rows that no database takes, with failures as scripted.

    Attributes:
        failures: what the next appends do: "before" loses the statement, "after" loses its answer.
        batches: what was sent, each time.
    """

    def __init__(self) -> None:
        self.written: dict[bytes, list[SealedRow]] = {}
        self.batches: list[list[SealedRow]] = []
        self.failures: list[str] = []
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, chain: Chain, rows: Sequence[SealedRow]) -> None:
        self.batches.append(list(rows))
        await self.gate.wait()
        failure = self.failures.pop(0) if self.failures else ""
        if self.down or failure == "before":
            raise UNAVAILABLE
        self._write(chain, rows)
        if failure == "after":
            raise UNAVAILABLE

    def _write(self, chain: Chain, rows: Sequence[SealedRow]) -> None:
        if chain.chain_id not in self.written:
            raise ChainLost("MF031")
        written = self.written[chain.chain_id]
        if rows[0].seq <= len(written):
            if written[rows[0].seq - 1 :] != list(rows):
                raise ChainLost("MF030")
            return
        if rows[0].seq != len(written) + 1:
            raise ChainLost("MF030")
        if any(each.row.actor == POISON for each in rows):
            raise RowsRefused("23514")
        written.extend(rows)

    async def open(self) -> Chain:
        if self.down:
            raise UNAVAILABLE
        chain_id = uuid4().bytes
        self.written[chain_id] = []
        return Chain(chain_id, 0, b"\0" * 32)

    @property
    def actors(self) -> list[str]:
        return [each.row.actor for rows in self.written.values() for each in rows]


class Bed:
    def __init__(self, *, capacity: int = 4096) -> None:
        self.store = Store()
        self.seconds = 0.0
        self.pauses = 0
        self.writer = AuditWriter(self.store, self.store, capacity=capacity, pause=self.pause, monotonic=lambda: self.seconds)

    async def pause(self, seconds: float) -> None:
        self.pauses += 1
        self.seconds += seconds
        await asyncio.sleep(0)

    def append(self, actor: str, key: str = "a") -> asyncio.Task[None]:
        return asyncio.create_task(self.writer.append(row(actor), key))


@asynccontextmanager
async def running(bed: Bed) -> AsyncIterator[Bed]:
    work = asyncio.create_task(bed.writer.run())
    try:
        yield bed
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def turns(until: Callable[[], bool]) -> None:
    """Let the loop run until something has come true."""
    for _ in range(1000):
        if until():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came true")


async def outcome(call: asyncio.Task[None]) -> str:
    try:
        await call
    except Unavailable:
        return "withheld"
    return "durable"


async def test_a_call_waits_for_its_row() -> None:
    """Nobody is told before the commit has answered."""
    async with running(Bed()) as bed:
        bed.store.gate.clear()
        call = bed.append("one")
        await turns(lambda: bool(bed.store.batches))
        assert not call.done()
        bed.store.gate.set()
        await call
        assert bed.store.actors == ["one"]


async def test_what_queues_during_a_commit_goes_with_the_next() -> None:
    """Group commit without a timer: one row, then all that came meanwhile, and the chain holds."""
    async with running(Bed()) as bed:
        bed.store.gate.clear()
        calls = [bed.append("first")]
        await turns(lambda: bool(bed.store.batches))
        calls += [bed.append(f"row {number}") for number in range(50)]
        await asyncio.sleep(0)
        bed.store.gate.set()
        await asyncio.gather(*calls)
        assert [len(batch) for batch in bed.store.batches] == [1, 50]
        (chain_id, rows), *_ = bed.store.written.items()
        assert verify_chain(rows, Chain(chain_id, 0, b"\0" * 32), []).end.seq == 51


@pytest.mark.parametrize("failures", [["after"], ["before"], ["after", "before", "after"], ["before", "before"]])
async def test_an_ambiguous_commit_is_repeated_identically(failures: list[str]) -> None:
    """Whether a COMMIT arrived or not, the rows stand in the log exactly once, and the repetition is byte for byte the same."""
    async with running(Bed()) as bed:
        bed.store.failures = list(failures)
        await asyncio.gather(*(bed.append(f"row {number}") for number in range(5)))
        assert sorted(bed.store.actors) == [f"row {number}" for number in range(5)]
        assert all(batch == bed.store.batches[0] for batch in bed.store.batches)
        await bed.append("later")
        assert bed.store.actors[-1] == "later"


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("poisoned", [0, -1])
async def test_a_row_that_is_never_taken_withholds_only_its_own_answer(size: int, poisoned: int) -> None:
    """A failing batch is bisected until the poison stands alone; every other row becomes durable."""
    async with running(Bed()) as bed:
        bed.store.gate.clear()
        first = bed.append("first")
        await turns(lambda: bool(bed.store.batches))
        actors = [f"row {number}" for number in range(size)]
        actors[poisoned] = POISON
        calls = [bed.append(actor) for actor in actors]
        await asyncio.sleep(0)
        bed.store.gate.set()
        await first
        outcomes = [await outcome(call) for call in calls]
        assert outcomes == ["withheld" if actor == POISON else "durable" for actor in actors]
        assert bed.store.actors == ["first", *(actor for actor in actors if actor != POISON)]


async def test_only_a_busy_gateway_waits_for_more_rows() -> None:
    """Where a commit had many rows and others came meanwhile, the next one waits a moment for company; a lone row never does."""
    async with running(Bed()) as bed:
        bed.store.gate.clear()
        calls = [bed.append("first")]
        await turns(lambda: len(bed.store.batches) == 1)
        calls += [bed.append(str(number)) for number in range(BUSY_ROWS)]
        await asyncio.sleep(0)
        bed.store.gate.set()
        await asyncio.gather(*calls)
        assert (len(bed.store.batches), bed.pauses) == (2, 0)

        await bed.append("alone")
        assert (len(bed.store.batches), bed.pauses) == (3, 0)

        bed.store.gate.clear()
        calls = [bed.append(str(number)) for number in range(BUSY_ROWS)]
        await turns(lambda: len(bed.store.batches) == 4)
        calls.append(bed.append("meanwhile"))
        await asyncio.sleep(0)
        bed.store.gate.set()
        await turns(lambda: bed.pauses == 1)
        await asyncio.gather(*calls)
        assert [len(batch) for batch in bed.store.batches] == [1, BUSY_ROWS, 1, BUSY_ROWS, 1]


async def test_nobody_waits_for_company_that_is_there() -> None:
    """As many rows as the last commit had go at once, and so does what an outage left in the queue."""
    async with running(Bed()) as bed:
        calls = []
        for number in range(3):
            bed.store.gate.clear()
            calls += [bed.append(str(each)) for each in range(2 * BUSY_ROWS)]
            await turns(lambda due=number + 1: len(bed.store.batches) == due)  # type: ignore[misc]
            calls += [bed.append(str(each)) for each in range(2 * BUSY_ROWS)]
            await asyncio.sleep(0)
            bed.store.gate.set()
        await asyncio.gather(*calls)
        assert bed.pauses == 0


async def test_what_waits_for_company_is_written_when_the_process_ends() -> None:
    """A writer that is stopped in that moment leaves its rows to the drain."""
    bed = Bed()
    waiting = asyncio.Event()

    async def pause(_seconds: float) -> None:
        waiting.set()
        await asyncio.sleep(3600)

    bed.writer = AuditWriter(bed.store, bed.store, pause=pause)
    async with running(bed):
        bed.store.gate.clear()
        calls = [bed.append(str(number)) for number in range(BUSY_ROWS)]
        await turns(lambda: len(bed.store.batches) == 1)
        calls.append(bed.append("last"))
        await asyncio.sleep(0)
        bed.store.gate.set()
        await waiting.wait()
    await bed.writer.drain()
    await asyncio.gather(*calls)
    assert bed.store.actors[-1] == "last"


async def test_a_lost_chain_is_replaced() -> None:
    """When the store knows another end of the chain, a new one is opened and the row stands there."""
    async with running(Bed()) as bed:
        await bed.append("one")
        bed.store.written.clear()
        await bed.append("two")
        assert bed.store.actors == ["two"]


async def test_an_outage_withholds_answers_and_loses_no_row() -> None:
    """With the store down a waiting call hears so within seconds, later ones at once; when it is back their rows are written.

    The log says once why."""
    with capture_logs() as logs:
        await _outlive_an_outage()
    assert [line["cause"] for line in logs if line["event"] == "audit_not_written"] == [UNAVAILABLE.message]


async def _outlive_an_outage() -> None:
    async with running(Bed()) as bed:
        await bed.append("before")
        bed.store.down = True
        assert await outcome(bed.append("waiting")) == "withheld"
        assert bed.seconds < 5
        assert await outcome(bed.append("refused at once")) == "withheld"
        bed.store.down = False
        await turns(lambda: len(bed.store.actors) == 3)
        await bed.append("after")
        assert bed.store.actors == ["before", "waiting", "refused at once", "after"]


async def test_nothing_is_needed_at_the_start() -> None:
    """The chain is opened by the first row that can be written, however long grants is away before."""
    bed = Bed()
    bed.store.down = True
    async with running(bed):
        assert await outcome(bed.append("early")) == "withheld"
        bed.store.down = False
        await turns(lambda: bed.store.actors == ["early"])


async def test_a_call_that_gave_up_is_still_written() -> None:
    """The log may say more than what left, never less."""
    async with running(Bed()) as bed:
        bed.store.gate.clear()
        call = bed.append("gone")
        await turns(lambda: bool(bed.store.batches))
        call.cancel()
        bed.store.gate.set()
        await bed.append("next")
        assert bed.store.actors == ["gone", "next"]


async def test_overload_costs_whoever_causes_it() -> None:
    """With the queue full of one peer's rows another peer's row is written, and the flood's newest answers are withheld."""
    async with running(Bed(capacity=10)) as bed:
        bed.store.gate.clear()
        first = bed.append("first", key="flood")
        await turns(lambda: bool(bed.store.batches))
        flood = [bed.append(f"flood {number}", key="flood") for number in range(30)]
        await asyncio.sleep(0)
        quiet = [bed.append(f"quiet {number}", key="quiet") for number in range(3)]
        await asyncio.sleep(0)
        bed.store.gate.set()
        await first
        assert [await outcome(call) for call in quiet] == ["durable"] * 3
        outcomes = [await outcome(call) for call in flood]
        assert outcomes == ["durable"] * 7 + ["withheld"] * 23


async def test_drains_what_a_stopped_writer_left() -> None:
    """A writer that is stopped in a commit leaves nothing behind: the row in it and the row behind it are written, once."""
    bed = Bed()
    async with running(bed):
        bed.store.gate.clear()
        call = bed.append("in the commit")
        await turns(lambda: bool(bed.store.batches))
    bed.store.gate.set()
    bed.writer.post(row("behind it"), "a")
    await bed.writer.drain()
    await call
    assert bed.store.actors == ["in the commit", "behind it"]


async def test_draining_ends_with_the_store_away() -> None:
    """A process whose database is gone still ends."""
    bed = Bed()
    bed.store.down = True
    bed.writer.post(row("lost"), "a")
    await bed.writer.drain()
    assert bed.store.actors == []
