"""Acceptance 7 of the federated reads: whoever is killed, no answer was delivered without its row, and the record holds.

Peers in processes of their own ask two replicas of the edge, each question once, and write down what they were answered before
they ask on. Meanwhile an edge, PostgreSQL, Valkey or grants is killed with −9 at seeded moments and comes back. Afterwards the
record is exported and verified by the public key and against the log of grants; every answer that anybody has must be in it
exactly once. The small form runs in every test run; `make stress` kills twenty times each.
"""

import asyncio
import base64
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from mosaic_common.decision import Verb
from mosaic_common.identity import EDGE_INBOUND
from mosaic_common.page_tokens import QueryHasher

from tests.support.grants_replicas import until_waiting
from tests.support.readers import DELIVERED, NOT_FOUND, Answer, Record, running_readers
from tests.support.reading_side import EDGES, Part, ReadingSide, reading_side

TABLE: Final = Path(__file__).parents[2] / ".bench" / "killed_reads.md"

READERS: Final = 3
LANES: Final = 4
ROWS: Final = 6_000
STRESS_ROWS: Final = 60_000
SEED: Final = 7
STRESS_KILLS: Final = 20
POWER_CUTS: Final = 5
SMALL: Final = (Part.EDGE, Part.POSTGRES, Part.VALKEY, Part.OTHER_EDGE)
LONGEST_OUTAGE_SECONDS: Final = 0.5
PROGRESS_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02

# Whose commit is durable, and waits for a replica before its client hears of it.
BOTH_WRITERS: Final = "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = %s"
ROUND: Final = """SELECT count(*) = 1 FROM pg_stat_activity JOIN pg_locks USING (pid)
                  WHERE wait_event = 'SyncRep' AND locktype = 'advisory' AND objid::bigint = hashtext(%s) & 4294967295"""

# Beside what was asked for: refusals of ours, and calls that ended without an answer.
RATE_LIMITED: Final = "RATE_LIMITED"
UNANSWERED: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
WITHHELD: Final = "DEPENDENCY_UNAVAILABLE"


@pytest.fixture(scope="module")
async def side(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ReadingSide]:
    async with reading_side(tmp_path_factory.mktemp("killed")) as running:
        yield running


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """What came of it, written down at the end."""
    lines: list[str] = []
    yield lines
    if lines:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text("".join(f"- {line}\n" for line in lines))


async def test_no_answer_is_delivered_without_its_row(side: ReadingSide) -> None:
    """Each part killed once, in the middle of the load."""
    await _prove(side, lambda records: _kill(side, records, SMALL))


@pytest.mark.stress
async def test_no_answer_is_delivered_without_its_row_under_stress(side: ReadingSide, table: list[str]) -> None:
    """Each part killed twenty times, in a seeded order."""
    victims = list(Part) * STRESS_KILLS
    random.Random(SEED).shuffle(victims)
    tally = await _prove(side, lambda records: _kill(side, records, victims), rows=STRESS_ROWS)
    table.append(f"each of {len(Part)} killed {STRESS_KILLS} times: {tally}")


@pytest.mark.stress
async def test_no_answer_is_delivered_without_its_row_after_power_cuts(side: ReadingSide, table: list[str]) -> None:
    """Everything dies at once, and comes back in any order."""

    async def cut(records: Sequence[Record]) -> None:
        chance = random.Random(SEED)
        for _ in range(POWER_CUTS):
            await _more(records, chance.randrange(20, 200))
            await side.kill(*chance.sample(list(Part), len(Part)))
            await side.restore(*chance.sample(list(Part), len(Part)))
            await _all_doors_answer(records)

    table.append(f"{POWER_CUTS} power cuts: {await _prove(side, cut)}")


async def test_a_commit_of_which_nobody_heard_is_repeated_as_it_was(side: ReadingSide) -> None:
    """PostgreSQL dies when both edges' rows are durable and no edge has been told so: each row is there once, in its chain."""

    async def lose(records: Sequence[Record]) -> None:
        opened = _chains(side)
        async with _commits_unanswered(side) as superuser:
            await _until_unheard(superuser, BOTH_WRITERS, f"{EDGE_INBOUND} audit")
            await side.kill(Part.POSTGRES)
        await side.restore(Part.POSTGRES)
        await _all_doors_answer(records)
        assert _chains(side) == opened

    await _prove(side, lose, readers=2)


@pytest.mark.parametrize("is_durable", [pytest.param(False, id="before its commit"), pytest.param(True, id="after its commit")])
async def test_a_round_that_was_cut_short_leaves_nothing_half_signed(side: ReadingSide, is_durable: bool) -> None:
    """Grants dies while it countersigns: what it signs is there together or not at all, and the next one goes on."""

    async def cut(records: Sequence[Record]) -> None:
        async with _commits_unanswered(side) if is_durable else _grant_heads_locked(side) as superuser:
            if is_durable:
                await _until_unheard(superuser, ROUND, "federation_audit_rounds")
            else:
                await until_waiting(side.gateway, "federation_audit_grant_heads")
            await side.kill(Part.GRANTS)
        await side.restore(Part.GRANTS)
        await _all_doors_answer(records)

    await _prove(side, cut, readers=1)


# --- what happens under load


async def _kill(side: ReadingSide, records: Sequence[Record], victims: Sequence[Part]) -> None:
    """One after the other, each when the one before is back and both doors answer."""
    chance = random.Random(SEED)
    opened, killed_edges = _chains(side), 0
    for victim in victims:
        await _more(records, chance.randrange(20, 200))
        await side.kill(victim)
        await asyncio.sleep(chance.uniform(0, LONGEST_OUTAGE_SECONDS))  # at some point between two answers, and for a while
        await side.restore(victim)
        await _all_doors_answer(records)
        killed_edges += victim in EDGES
    # A writer that is back begins a chain of its own; nobody else's end was lost.
    assert _chains(side) == opened + killed_edges


async def _more(records: Sequence[Record], answers: int) -> None:
    """Return when so many further answers were delivered to each reader."""
    before = [record.delivered().total() for record in records]
    await _reached(records, lambda record, at: record.delivered().total() >= before[at] + answers)


async def _all_doors_answer(records: Sequence[Record]) -> None:
    """Return when each door has delivered further answers to each reader."""
    before = [record.delivered() for record in records]
    await _reached(records, lambda record, at: all(record.delivered()[door] > before[at][door] for door in range(len(EDGES))))


async def _reached(records: Sequence[Record], has_reached: Callable[[Record, int], bool]) -> None:
    try:
        async with asyncio.timeout(PROGRESS_SECONDS):
            while not all(has_reached(record, at) for at, record in enumerate(records)):
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        last = [Counter(each.result for each in record.answers()[-100:]) for record in records]
        raise AssertionError(f"nothing comes any more: {last}") from None


@contextlib.asynccontextmanager
async def _commits_unanswered(side: ReadingSide) -> AsyncIterator[psycopg.Connection]:
    """PostgreSQL makes commits durable meanwhile and tells nobody: they wait for a replica that does not exist."""
    with side.gateway.database.connect_superuser() as superuser:
        superuser.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        superuser.execute("SELECT pg_reload_conf()")
        try:
            yield superuser
        finally:
            with contextlib.suppress(psycopg.OperationalError):
                superuser.execute("SELECT pg_reload_conf()")


@contextlib.asynccontextmanager
async def _grant_heads_locked(side: ReadingSide) -> AsyncIterator[psycopg.Connection]:
    """A round waits meanwhile, its first half written."""
    with side.gateway.database.connect_superuser() as superuser, superuser.transaction():
        superuser.execute("LOCK TABLE federation.federation_audit_grant_heads IN SHARE ROW EXCLUSIVE MODE")
        yield superuser


async def _until_unheard(superuser: psycopg.Connection, waiting: str, whose: str) -> None:
    """Return when such a commit waits; from the next start or reload on they are answered again."""
    async with asyncio.timeout(PROGRESS_SECONDS):
        while superuser.execute(waiting.encode(), (whose,)).fetchone() != (True,):
            await asyncio.sleep(0.001)
    superuser.execute("ALTER SYSTEM RESET synchronous_standby_names")


def _chains(side: ReadingSide) -> int:
    [(opened,)] = side.gateway.rows("SELECT count(*) FROM federation.federation_audit_chains WHERE writer = %s", EDGE_INBOUND)
    return int(opened)


# --- what has to hold afterwards


@dataclass(frozen=True, slots=True)
class Tally:
    """Attributes:
    delivered: answers that a reader has, refusals included; each has its row.
    undelivered: rows of answers that nobody has.
    withheld, unanswered: calls that got no answer because it could not be recorded or found, or because somebody died.
    """

    delivered: int
    undelivered: int
    withheld: int
    unanswered: int


async def _prove(
    side: ReadingSide, happen: Callable[[Sequence[Record]], Awaitable[None]], readers: int = READERS, rows: int = ROWS
) -> Tally:
    """Let readers read while it happens, and compare what they have with the record."""
    asking = [await side.reader(asks="once", lanes=LANES, rows=rows) for _ in range(readers)]
    with contextlib.ExitStack() as stack:
        records = [stack.enter_context(running_readers([each], side.lifeline, side.folder))[0] for each in asking]
        await _all_doors_answer(records)
        await happen(records)
    await side.be_countersigned()
    exported = await asyncio.to_thread(side.export)
    return _verify_delivered(side, records, [line for line in exported if line["kind"] == "row" and line["event"] == "read"])


def _verify_delivered(side: ReadingSide, records: Sequence[Record], rows: Sequence[dict[str, Any]]) -> Tally:
    hasher = QueryHasher(base64.b64decode((side.gateway.pki / EDGE_INBOUND / "query-hmac.key").read_bytes()))
    by_request = Counter(row["request_id"] for row in rows)
    assert set(by_request.values()) == {1}
    by_question: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    by_refusal = {row["request_id"]: row["denied_reason"] for row in rows if row["outcome"] == "denied"}
    for row in rows:
        if row["query_hash"] is not None:
            by_question[row["grant_id"], row["query_hash"]].append(row)

    results: Counter[str] = Counter()
    undelivered = 0
    for record in records:
        for answer in record.answers():
            results[answer.result] += 1
            question = hasher.hash(Verb(answer.verb), ["tasks"], answer.text).hex()
            recorded = by_question[record.reader.grant_id, question]
            if answer.result in {DELIVERED, NOT_FOUND}:
                assert [_said(row) for row in recorded] == [_heard(answer)]
            elif answer.result == RATE_LIMITED:
                assert by_refusal[answer.request_id] == RATE_LIMITED
            else:
                assert len(recorded) <= 1
                undelivered += len(recorded)
    assert results.keys() <= {DELIVERED, NOT_FOUND, RATE_LIMITED, WITHHELD, *UNANSWERED}, results
    assert results[DELIVERED]
    assert results[NOT_FOUND]
    return Tally(
        delivered=sum(results[each] for each in (DELIVERED, NOT_FOUND, RATE_LIMITED)),
        undelivered=undelivered,
        withheld=results[WITHHELD],
        unanswered=sum(results[each] for each in UNANSWERED),
    )


def _said(row: dict[str, Any]) -> tuple[str, int, str]:
    """Outcome, rows, and the request id where the caller was told it."""
    return row["outcome"], row["result_count"], row["request_id"] if row["outcome"] == "denied" else ""


def _heard(answer: Answer) -> tuple[str, int, str]:
    return ("allowed" if answer.result == DELIVERED else "denied"), answer.rows, answer.request_id
