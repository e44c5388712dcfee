"""What buckets with bookings keep: those in Valkey, seen by two replicas, and those in the process, by the same tests."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from mosaic_common.errors import Layer, RateLimited, Reason
from mosaic_common.identity import EDGE_INBOUND
from mosaic_common.shared_counters import CountersUnreachable
from mosaic_federation_edge.adapters.valkey import TAKE_SECONDS, ValkeyCounters
from mosaic_federation_edge.domain.charges import (
    FIRST_HORIZONS,
    KEPT_US,
    MAX_BOOKINGS,
    Answer,
    Charge,
    Counters,
    Pace,
    Refused,
    Taken,
)
from mosaic_federation_edge.domain.leases import LeasedCounters, most_ahead
from mosaic_federation_edge.domain.limits import SEARCH_WEIGHT
from mosaic_federation_edge.domain.local_counters import LocalCounters
from mosaic_federation_edge.domain.rate_limit import Rate

from tests.support.watched_valkey import WatchedValkey

pytestmark = pytest.mark.alone

# Long beside what a test takes, so that the time that really passes changes no answer.
SLOW = Rate(per_second=0.05, burst=3)
INTERVAL = timedelta(seconds=20)
A_LITTLE = timedelta(seconds=10)
KEPT = timedelta(microseconds=KEPT_US)
HORIZON = timedelta(microseconds=Pace.of(SLOW).horizon_us)
WIDE = Rate(per_second=100_000, burst=1_000_000)
# So that a slow machine is not taken for a Valkey that is silent; where silence is the subject, the default holds.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Subject:
    """One implementation under test.

    Attributes:
        counters: of each replica; the same object twice where there is no sharing.
        let_pass: moves time on.
    """

    counters: tuple[Counters, Counters]
    let_pass: Callable[[timedelta], None]

    async def take(self, charge: Charge, *, replica: int = 0, ahead: int = 0) -> Answer:
        return await self.counters[replica].take(charge, ahead)

    async def refused(self, charge: Charge, *, replica: int = 0) -> Refused:
        answer = await self.take(charge, replica=replica)
        assert isinstance(answer, Refused)
        return answer

    async def take_all(self, charge: Charge, times: int) -> None:
        for _ in range(times):
            assert await self.take(charge) == Taken()


class Stopwatch:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_234_567.5

    def __call__(self) -> float:
        return self.seconds

    def let_pass(self, time: timedelta) -> None:
        self.seconds += time.total_seconds()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedValkey]:
    with WatchedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def replicas(server: WatchedValkey) -> AsyncIterator[tuple[ValkeyCounters, ValkeyCounters]]:
    server.flush()
    async with AsyncExitStack() as stack:
        one, other = (ValkeyCounters(server.url(EDGE_INBOUND), PATIENCE_SECONDS) for _ in range(2))
        stack.push_async_callback(one.close)
        stack.push_async_callback(other.close)
        yield one, other


@pytest.fixture(params=["in Valkey", "in the process"])
def subject(request: pytest.FixtureRequest, server: WatchedValkey, replicas: tuple[ValkeyCounters, ValkeyCounters]) -> Subject:
    if request.param == "in Valkey":
        return Subject(replicas, server.let_pass)
    stopwatch = Stopwatch()
    here = LocalCounters(stopwatch)
    return Subject((here, here), stopwatch.let_pass)


def charge(grant: Rate = SLOW, peer: Rate = WIDE, weight: int = 1) -> Charge:
    """A call of a grant and a peer that nobody has charged before."""
    return Charge(uuid4(), uuid4(), grant, peer, weight)


def wait_of(answer: Refused) -> timedelta:
    return timedelta(microseconds=answer.wait_us)


async def test_the_burst_comes_at_once_and_no_more(subject: Subject) -> None:
    """After the burst the next call is refused, on either replica, and hears when the next token is there."""
    of_a = charge()
    await subject.take_all(of_a, 3)
    wait = wait_of(await subject.refused(of_a, replica=1))
    assert INTERVAL - A_LITTLE < wait <= INTERVAL


async def test_a_refusal_names_its_lock_and_leaves_time_for_clocks_that_differ() -> None:
    """The wait that the caller hears is a little longer than the one that was counted, and not much."""
    error = Refused(10_000_000).to_error()
    assert (error.reason, error.layer) == (Reason.RATE_LIMITED, Layer.RATE)
    assert error.retry_after is not None
    assert timedelta(seconds=10) < error.retry_after <= timedelta(seconds=10.02)


@pytest.mark.parametrize("limited", ["grant", "peer"])
async def test_whoever_waits_as_long_as_he_is_told_is_not_refused_again(subject: Subject, limited: str) -> None:
    """On whichever replica he comes back, and though somebody else asks just before him all the time."""
    of_a = charge(SLOW, WIDE) if limited == "grant" else charge(WIDE, SLOW)
    rival = replace(of_a, grant_id=uuid4()) if limited == "peer" else None
    await subject.take_all(of_a, 3)
    for turn in range(4):
        wait = wait_of(await subject.refused(of_a, replica=turn % 2))
        subject.let_pass(wait)
        if rival is not None:
            assert isinstance(await subject.take(rival), Refused)
        assert await subject.take(of_a, replica=1 - turn % 2) == Taken()


async def test_each_of_many_refused_at_once_has_a_slot_of_its_own(subject: Subject) -> None:
    """Calls in flight together are told one interval after the other, and each is let in when its time has come."""
    of_a = charge()
    await subject.take_all(of_a, 3)
    waits = [wait_of(await subject.refused(of_a, replica=number % 2)) for number in range(4)]
    for number, wait in enumerate(waits, start=1):
        assert number * INTERVAL - A_LITTLE < wait <= number * INTERVAL
    subject.let_pass(waits[0])
    for number in range(4):
        assert await subject.take(of_a, replica=number % 2) == Taken()
        subject.let_pass(INTERVAL)


async def test_a_slot_is_fetched_once(subject: Subject) -> None:
    """A second call at the same time finds nothing, and is booked behind."""
    of_a = charge()
    await subject.take_all(of_a, 3)
    subject.let_pass(wait_of(await subject.refused(of_a)))
    assert await subject.take(of_a) == Taken()
    assert INTERVAL - A_LITTLE < wait_of(await subject.refused(of_a, replica=1)) <= INTERVAL


async def test_a_slot_is_fetched_by_a_call_of_its_weight(subject: Subject) -> None:
    """A list takes no search's slot, and no search comes in by a list's."""
    search = charge(Rate(1, SEARCH_WEIGHT), weight=SEARCH_WEIGHT)
    fetch = replace(search, weight=1)
    await subject.take_all(search, 1)
    wait = wait_of(await subject.refused(search))
    assert timedelta(seconds=9) < wait <= timedelta(seconds=10)
    subject.let_pass(wait)
    await subject.refused(fetch)
    assert await subject.take(search) == Taken()
    subject.let_pass(timedelta(seconds=1))
    await subject.refused(replace(search, weight=2))
    assert await subject.take(fetch) == Taken()


async def test_a_search_that_weighs_more_than_the_burst_is_let_in_by_its_slot(subject: Subject) -> None:
    """No limit is so low that a verb can never be used; it only has to be waited for."""
    search = charge(Rate(per_second=0.05, burst=3), weight=SEARCH_WEIGHT)
    wait = wait_of(await subject.refused(search))
    assert 7 * INTERVAL - A_LITTLE < wait <= 7 * INTERVAL
    subject.let_pass(wait)
    assert await subject.take(search) == Taken()


async def test_a_slot_that_nobody_fetches_is_forfeited(subject: Subject) -> None:
    """Some seconds late is in time; later the tokens are gone, and what has come back meanwhile is there."""
    in_time, late = charge(), charge()
    for each in (in_time, late):
        await subject.take_all(each, 3)
    await subject.refused(in_time)
    wait = wait_of(await subject.refused(late))
    subject.let_pass(wait + KEPT - timedelta(seconds=2))
    assert await subject.take(in_time) == Taken()
    subject.let_pass(timedelta(seconds=2))
    await subject.refused(late)


async def test_both_are_taken_or_neither(subject: Subject) -> None:
    """A booking takes from both too; what can be neither paid nor booked takes from none."""
    of_a = charge(Rate(per_second=0.05, burst=1), Rate(per_second=0.05, burst=20))
    await subject.take_all(of_a, 1)
    booked = 0
    while (await subject.refused(of_a)).full_us == 0:
        booked += 1
    for _ in range(10):
        await subject.refused(of_a)
    other = replace(of_a, grant_id=uuid4(), grant=WIDE)
    await subject.take_all(other, 20 - 1 - booked)
    await subject.refused(other)


async def test_grants_do_not_pay_for_each_other_but_their_peer_does(subject: Subject) -> None:
    """One grant's exhaustion is not another's; both together have no more than their peer."""
    one = charge(SLOW, Rate(per_second=0.05, burst=5))
    other = replace(one, grant_id=uuid4())
    await subject.take_all(one, 3)
    await subject.take_all(other, 2)
    await subject.refused(other)
    await subject.take_all(charge(), 3)


async def test_bookings_are_bounded_in_number_and_in_time(subject: Subject) -> None:
    """Whoever hammers books up to the bound, is told for how long nothing will change, and waits no longer than the horizon."""
    quick = charge(Rate(per_second=10, burst=1))
    first, *answers = await asyncio.gather(*(subject.take(quick) for _ in range(1 + MAX_BOOKINGS + 10)))
    assert first == Taken()
    booked = [isinstance(each, Refused) and each.full_us == 0 for each in answers]
    assert booked == [True] * MAX_BOOKINGS + [False] * 10

    slow = charge()
    await subject.take_all(slow, 3)
    refusals = [await subject.refused(slow) for _ in range(20)]
    assert sum(each.full_us == 0 for each in refusals) == HORIZON // INTERVAL
    assert all(timedelta(microseconds=each.full_us) <= INTERVAL for each in refusals)
    subject.let_pass(HORIZON + KEPT + 2 * INTERVAL)
    assert await subject.take(slow) == Taken()


async def test_a_grant_that_hammers_keeps_no_other_of_its_peer_out(subject: Subject) -> None:
    """It may book what its peer has for the horizon to come; who comes then waits behind it, once."""
    hammering = charge(WIDE, SLOW)
    other = replace(hammering, grant_id=uuid4())
    while (await subject.take(hammering)) == Taken() or (await subject.refused(hammering)).full_us == 0:
        pass
    answer = await subject.refused(other, replica=1)
    assert answer.full_us == 0
    for _ in range(wait_of(answer) // INTERVAL):
        subject.let_pass(INTERVAL)
        await subject.take(hammering)
        await subject.refused(hammering)
    subject.let_pass(wait_of(answer) % INTERVAL)
    assert await subject.take(other) == Taken()


async def test_replicas_spend_from_the_same_buckets(subject: Subject) -> None:
    """What one replica has given away, another does not give again; not even when both are asked at once."""
    of_a = charge(Rate(per_second=0.01, burst=40))
    answers = await asyncio.gather(*(subject.take(of_a, replica=number % 2) for number in range(80)))
    assert sum(isinstance(each, Taken) for each in answers) == 40


@pytest.mark.parametrize("limited", ["grant", "peer"])
async def test_what_is_taken_ahead_is_gone_for_the_other_replica(subject: Subject, limited: str) -> None:
    """A lease counts at once, for its peer's other grants too, is a part of what is there, and none is given by booking."""
    narrow = Rate(per_second=0.01, burst=41)
    of_a = charge(narrow) if limited == "grant" else charge(WIDE, narrow)
    of_b = replace(of_a, grant_id=uuid4()) if limited == "peer" else of_a
    assert await subject.take(of_a, ahead=1000) == Taken(10)
    await subject.take_all(of_b, 30)
    await subject.refused(of_b, replica=1)
    assert await subject.take(replace(of_a, weight=0), ahead=1000) == Taken()


async def test_a_limit_that_was_lowered_or_raised_holds_from_then_on(subject: Subject) -> None:
    """As many tokens are taken as before, and they come back at the new pace; a booking from before still lets in."""
    of_a = charge(Rate(per_second=0.01, burst=20))
    await subject.take_all(of_a, 10)
    await subject.take_all(replace(of_a, grant=Rate(per_second=0.1, burst=15)), 5)
    raised = replace(of_a, grant=Rate(per_second=0.1, burst=20))
    await subject.take_all(raised, 5)
    lowered = replace(of_a, grant=Rate(per_second=0.05, burst=19))
    wait = wait_of(await subject.refused(lowered))
    assert 2 * INTERVAL - A_LITTLE < wait <= 2 * INTERVAL
    subject.let_pass(wait)
    assert await subject.take(raised) == Taken()


# ── only in Valkey ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_key_is_gone_when_its_bucket_is_full_again(
    server: WatchedValkey, replicas: tuple[ValkeyCounters, ValkeyCounters]
) -> None:
    """One for the grant, one for the peer, under the service's own prefix; a booking keeps its grant's until it is forfeited."""
    of_a = charge(SLOW, SLOW)
    keys = [f"edge-inbound:grant:{of_a.grant_id}", f"edge-inbound:peer:{of_a.peer_id}"]
    await replicas[0].take(of_a, 0)
    lives = server.lives()
    assert list(lives) == keys or list(lives) == keys[::-1]
    assert all(INTERVAL - A_LITTLE < life <= INTERVAL for life in lives.values())
    for _ in range(3):
        await replicas[0].take(of_a, 0)
    lives = server.lives()
    assert all(4 * INTERVAL - A_LITTLE < life <= 4 * INTERVAL for life in lives.values())

    soon_full = charge(Rate(per_second=100, burst=1))
    await asyncio.gather(*(replicas[0].take(soon_full, 0) for _ in range(2)))
    life = server.lives()[f"edge-inbound:grant:{soon_full.grant_id}"]
    assert timedelta(seconds=1) < life <= KEPT + timedelta(milliseconds=11)


async def test_a_clock_that_was_ahead_refuses_nobody_for_long(
    server: WatchedValkey, replicas: tuple[ValkeyCounters, ValkeyCounters]
) -> None:
    """Valkey's clock is set back by a year: who was counted before it waits as for the furthest booking, not a year."""
    of_a = charge()
    for _ in range(5):
        await replicas[0].take(of_a, 0)
    server.let_pass(-timedelta(days=365))
    answer = await replicas[0].take(of_a, 0)
    assert isinstance(answer, Refused)
    assert wait_of(answer) <= FIRST_HORIZONS * HORIZON + INTERVAL
    server.let_pass(wait_of(answer))
    assert await replicas[0].take(of_a, 0) == Taken()


async def test_a_crowd_goes_in_few_round_trips_and_each_gets_its_own_answer(
    server: WatchedValkey, replicas: tuple[ValkeyCounters, ValkeyCounters]
) -> None:
    """What queues while a script runs goes into the next one; who hangs up takes nobody's answer away."""
    spent = [charge(Rate(per_second=0.1, burst=1)) for _ in range(100)]
    for each in spent:
        await replicas[0].take(each, 0)
    before = server.calls()
    calls = [each for exhausted in spent for each in (exhausted, charge())]
    asking = [asyncio.create_task(replicas[0].take(each, 0)) for each in calls]
    await asyncio.sleep(0)
    asking[0].cancel()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [isinstance(each, Refused) for each in answers[1:]] == [False, *([True, False] * 99)]
    assert server.calls() - before <= 3


async def test_a_valkey_that_hangs_is_silent_after_a_tenth_of_a_second_for_everybody(server: WatchedValkey) -> None:
    """Whoever queued behind a call that was not answered hears at once that nobody counts."""
    counters = ValkeyCounters(server.url(EDGE_INBOUND))
    await counters.ping()
    with server.hanging():
        began = time.monotonic()
        answers = await asyncio.gather(*(counters.take(charge(), 0) for _ in range(1000)), return_exceptions=True)
        took = time.monotonic() - began
    assert all(isinstance(each, CountersUnreachable) for each in answers)
    assert TAKE_SECONDS <= took < 1.0
    await counters.close()


async def test_a_valkey_that_started_anew_is_told_the_script_again(tmp_path: Path) -> None:
    """A restart fails no call: dead connections are made again, the script is loaded again, counting begins from nothing."""
    with WatchedValkey(tmp_path) as own:
        counters = ValkeyCounters(own.url(EDGE_INBOUND), PATIENCE_SECONDS)
        of_a = charge()
        answers = [await counters.take(of_a, 0) for _ in range(4)]
        assert isinstance(answers[-1], Refused)
        own.stop()
        own.start()
        assert await counters.take(of_a, 0) == Taken()
        await counters.close()


async def test_two_replicas_with_leases_together_keep_to_the_limit(
    server: WatchedValkey, replicas: tuple[ValkeyCounters, ValkeyCounters]
) -> None:
    """Both flooded at once for a second and more: never more in all than the burst and what time brought, and nearly all of it."""
    of_a = charge(Rate(per_second=300, burst=160))
    leased = [LeasedCounters(each, time.monotonic) for each in replicas]
    began = time.monotonic()
    ends = began + 1.5
    admitted = 0

    async def hammer(replica: LeasedCounters) -> None:
        nonlocal admitted
        while time.monotonic() < ends:
            try:
                await replica.spend(of_a)
            except RateLimited:
                await asyncio.sleep(0)
            else:
                admitted += 1

    scripts = server.calls()
    await asyncio.gather(*(hammer(each) for each in leased for _ in range(4)))
    most = 160 + 300 * (time.monotonic() - began)
    lost = 2 * most_ahead(of_a.grant, of_a.peer)
    assert most / 2 - lost < admitted <= most
    # A few questions for each token, none for each of the thousands that were refused.
    assert server.calls() - scripts < 6 * most


async def test_a_lease_makes_most_calls_without_a_question(
    server: WatchedValkey, replicas: tuple[ValkeyCounters, ValkeyCounters]
) -> None:
    """A busy grant asks Valkey some ten times a second, not for each call."""
    leased = LeasedCounters(replicas[0], time.monotonic)
    busy = charge(WIDE)
    before, began = server.calls(), time.monotonic()
    for _ in range(5000):
        await leased.spend(busy)
        await asyncio.sleep(0)
    assert server.calls() - before < 50 + 50 * (time.monotonic() - began)
