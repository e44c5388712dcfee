"""Acceptance 11 of the federated reads: two edges, each its own process, hold one limit, and whoever obeys is not refused twice.

Peers in processes of their own ask both edges in turn and write down each answer with its time; what is asserted is read from
there. The small form runs in every test run; `make stress` takes longer, and restarts Valkey again and again.
"""

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

import pytest
from mosaic.grants.v1 import types_pb2

from tests.support.readers import DELIVERED, Answer, Reader, Record, running_readers
from tests.support.reading_side import EDGES, Part, ReadingSide, reading_side

pytestmark = pytest.mark.alone

RATE_LIMITED: Final = "RATE_LIMITED"
SEARCH_WEIGHT: Final = 10
# Without Valkey each edge gives away this part.
STRICT_PART: Final = 4
# What an edge may hold of a grant that it has not given away.
LEASED_SECONDS: Final = 0.1
# Bookings are kept longer; on the way there and back time passes too.
FETCHED_SECONDS: Final = 2.0
CROWD: Final = 2
CROWD_LANES: Final = 10
PATIENCE_SECONDS: Final = 90.0
POLL_SECONDS: Final = 0.02
SMALL_SECONDS: Final = 5.0
LONG_SECONDS: Final = 60.0
OUTAGE_SECONDS: Final = 1.5
BETWEEN_SECONDS: Final = 2.0
# After so long no booking of an outage is left for the next: due within 64 intervals of a strict part, kept for 3 s after that.
FORGOTTEN_SECONDS: Final = 6.0
LONGEST_WAIT_SECONDS: Final = 12.0
RESTARTS: Final = 15
# Of what the limit gives, a crowd gets at least so much: the rest are calls under way, and leases that nobody spends.
GIVEN_PART: Final = 0.8
# Of the refusals of a client with several calls at once (docs/adr/0017).
FETCHED_BY_OTHERS_PART: Final = 0.05


@dataclass(frozen=True, slots=True)
class Limited:
    """A grant, and how it is read: ``at_once`` is for limits that one call after the other does not reach."""

    per_second: int
    burst: int
    asks: str
    at_once: int = 1

    @property
    def weight(self) -> int:
        return SEARCH_WEIGHT if self.asks == "search" else 1

    def given(self, seconds: float) -> float:
        """Tokens that the limit gives in so long, from the first call on."""
        return self.burst + self.per_second * seconds

    async def reader(self, side: ReadingSide, *, obeys: bool, lanes: int = 1) -> Reader:
        limit = types_pb2.RateLimit(per_second=self.per_second, burst=self.burst)
        return await side.reader(limit=limit, asks=self.asks, lanes=lanes, at_once=self.at_once, obeys=obeys)


# Each with how often it has to be refused and answered before the small form is content.
ALONE: Final[Mapping[Limited, int]] = {
    Limited(1, 2, "list"): 3,
    Limited(1, 10, "search"): 1,
    Limited(5, 5, "list"): 10,
    Limited(20, 20, "search"): 5,
    Limited(50, 4, "list", at_once=8): 20,
    Limited(500, 20, "search", at_once=8): 20,
    Limited(500, 1, "list", at_once=64): 20,
}
# Those whose strict part holds the heaviest of their calls.
SETTLED: Final = (Limited(5, 8, "list"), Limited(20, 8, "list"), Limited(200, 80, "search"))
CROWDED: Final = Limited(100, 40, "list")
ALL_CROWDED: Final = (Limited(5, 10, "list"), CROWDED, Limited(100, 100, "search"), Limited(500, 100, "list", at_once=4))


@pytest.fixture(scope="module")
async def side(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ReadingSide]:
    async with reading_side(tmp_path_factory.mktemp("limits")) as running:
        yield running


async def test_who_obeys_is_not_refused_twice_whichever_edge_it_comes_back_to(side: ReadingSide) -> None:
    """From one token a second to five hundred, lists and searches: the call that comes back as told is answered."""
    await _alone(side, refusals=1)


@pytest.mark.stress
async def test_who_obeys_is_not_refused_twice_for_long(side: ReadingSide) -> None:
    """The same, six times as long."""
    await _alone(side, refusals=6)


async def test_a_crowd_at_both_edges_gets_what_the_limit_gives(side: ReadingSide) -> None:
    """Never more up to any moment, and no less than leases explain."""
    await _crowd(side, CROWDED, SMALL_SECONDS)


@pytest.mark.stress
@pytest.mark.parametrize("limited", [pytest.param(each, id=f"{each.per_second}/s {each.asks}") for each in ALL_CROWDED])
async def test_a_crowd_at_both_edges_gets_what_the_limit_gives_for_long(side: ReadingSide, limited: Limited) -> None:
    """Slow and fast limits, for a minute each."""
    await _crowd(side, limited, LONG_SECONDS)


async def test_while_valkey_is_away_each_edge_gives_a_strict_part(side: ReadingSide) -> None:
    """One restart in the middle of a crowd, and beside those who obey."""
    await _restarted(side, restarts=1)


@pytest.mark.stress
async def test_while_valkey_is_away_each_edge_gives_a_strict_part_for_long(side: ReadingSide) -> None:
    """Killed again and again."""
    await _restarted(side, restarts=RESTARTS)


# --- who is alone


async def _alone(side: ReadingSide, *, refusals: int) -> None:
    readers = [await limited.reader(side, obeys=True) for limited in ALONE]
    with running_readers(readers, side.lifeline, side.folder) as records:
        for due, record in zip(ALONE.values(), records, strict=True):
            await _until(partial(_is_content, record, refusals * due), record)
    for limited, record in zip(ALONE, records, strict=True):
        assert {each.result for each in record.answers()} == {DELIVERED, RATE_LIMITED}
        assert all(each.retry_after > 0 for each in record.answers() if each.result == RATE_LIMITED)
        _verify_not_refused_twice(side, limited, record)
        _verify_bounded(limited, record.answers())


def _is_content(record: Record, due: int) -> bool:
    """Whether so many calls were refused and repeated until they were answered."""
    refused = {each.call for each in record.answers() if each.result == RATE_LIMITED}
    return len(refused & {each.call for each in record.answers() if each.result == DELIVERED}) >= due


def _has_begun(record: Record) -> bool:
    return len(record.answers()) > 0


def _verify_not_refused_twice(side: ReadingSide, limited: Limited, record: Record) -> None:
    """One call after the other: never. Of several at once a new one may fetch what another has booked: a booking is the grant's."""
    refused = [each for each in record.answers() if each.result == RATE_LIMITED]
    again = _unexplained(side, _refused_twice(record))
    assert len(again) <= (0 if limited.at_once == 1 else math.ceil(FETCHED_BY_OTHERS_PART * len(refused))), again


def _refused_twice(record: Record) -> list[Answer]:
    """Refusals of calls that had come back as they were told; a booking that is not fetched in time is nobody's."""
    told: dict[int, float] = {}
    found = []
    for each in record.answers():
        if each.result == RATE_LIMITED:
            if each.call in told and each.ended - told[each.call] < FETCHED_SECONDS:
                found.append(each)
            told[each.call] = each.ended + each.retry_after
    return found


def _verify_bounded(limited: Limited, answers: Sequence[Answer]) -> None:
    """Up to no moment more was given away than the limit gives by then."""
    began, given = min(each.began for each in answers), 0
    for answer in sorted(answers, key=lambda each: each.ended):
        given += limited.weight * (answer.result == DELIVERED)
        assert given <= limited.given(answer.ended - began), f"{given} tokens after {answer.ended - began:.3f} s"


# --- crowds


async def _crowd(side: ReadingSide, limited: Limited, seconds: float) -> None:
    async with _crowding(side, limited) as records:
        await asyncio.sleep(seconds)  # for so long they try
    answers = _together(records)
    _verify_bounded(limited, answers)
    refused = [each for each in answers if each.result == RATE_LIMITED]
    delivered = [each for each in answers if each.result == DELIVERED]
    assert len(refused) + len(delivered) == len(answers)
    assert {each.door for each in delivered} == set(range(len(EDGES)))
    # When the last one was refused there was nothing left.
    lasted = refused[-1].ended - min(each.began for each in answers)
    assert limited.weight * len(delivered) > GIVEN_PART * limited.given(lasted)


@contextlib.asynccontextmanager
async def _crowding(side: ReadingSide, limited: Limited) -> AsyncIterator[Sequence[Record]]:
    """One grant's clients in several processes, none of which does as it is told."""
    first = await limited.reader(side, obeys=False, lanes=CROWD_LANES)
    readers = [first, *(side.another(first) for _ in range(1, CROWD))]
    with contextlib.ExitStack() as stack:
        records = [stack.enter_context(running_readers([each], side.lifeline, side.folder))[0] for each in readers]
        for record in records:
            await _until(partial(_has_begun, record), record)
        yield records


def _together(records: Sequence[Record]) -> list[Answer]:
    return sorted((each for record in records for each in record.answers()), key=lambda each: each.ended)


# --- without Valkey


async def _restarted(side: ReadingSide, *, restarts: int) -> None:
    settled = [replace(await limited.reader(side, obeys=True), doors=side.doors[:1]) for limited in SETTLED]
    wandering = [await limited.reader(side, obeys=True) for limited in ALONE]
    with running_readers([*settled, *wandering], side.lifeline, side.folder) as alone:
        async with _crowding(side, CROWDED) as crowd:
            outages = [await _outage(side)]
            for _ in range(1, restarts):
                await asyncio.sleep(FORGOTTEN_SECONDS)
                outages.append(await _outage(side))
            await asyncio.sleep(BETWEEN_SECONDS)

    answers = _together(crowd)
    for killed_at, restored_at in outages:
        meanwhile = [each for each in answers if killed_at < each.began and each.ended < restored_at]
        delivered = [each for each in meanwhile if each.result == DELIVERED]
        assert delivered
        leased = CROWDED.per_second * LEASED_SECONDS
        assert len(delivered) <= len(EDGES) * (CROWDED.given(restored_at - killed_at) / STRICT_PART + leased)
    for record in alone[: len(settled)]:
        assert not _refused_twice(record)
    for limited, record in zip(ALONE, alone[len(settled) :], strict=True):
        _verify_not_refused_twice(side, limited, record)


async def _outage(side: ReadingSide) -> tuple[float, float]:
    """Begin and end, by the machine's monotonic clock."""
    await asyncio.sleep(BETWEEN_SECONDS)  # with Valkey, and then without it
    await side.kill(Part.VALKEY)
    killed_at = time.monotonic()
    await asyncio.sleep(OUTAGE_SECONDS)
    restored_at = time.monotonic()
    await side.restore(Part.VALKEY)
    return killed_at, restored_at


def _unexplained(side: ReadingSide, refusals: Sequence[Answer]) -> list[Answer]:
    """Those that came while both edges counted together: what one has booked by itself the other does not know."""
    periods = [period for edge in EDGES for period in _counted_alone(side, edge)]
    return [each for each in refusals if not any(begin < each.ended < end for begin, end in periods)]


def _counted_alone(side: ReadingSide, edge: Part) -> Iterator[tuple[float, float]]:
    """When an edge did without Valkey, as its log says, and as long as a booking from before or from then may be asked for."""
    to_monotonic = time.monotonic() - time.time()
    begin = None
    for line in side.log_of(edge).read_text().splitlines():
        said = json.loads(line)
        if said["event"] not in {"limits_held_here", "limits_shared_again"}:
            continue
        at = datetime.fromisoformat(said["timestamp"]).timestamp() + to_monotonic
        if said["event"] == "limits_held_here":
            begin = at
        elif begin is not None:
            yield begin - LONGEST_WAIT_SECONDS, at + LONGEST_WAIT_SECONDS
            begin = None
    if begin is not None:
        yield begin - LONGEST_WAIT_SECONDS, math.inf


async def _until(is_reached: Callable[[], bool], record: Record) -> None:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_reached():
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"not reached: {Counter(each.result for each in record.answers())}") from None
