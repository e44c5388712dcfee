"""What a grant may spend over several replicas, without a network: bookings, leases, and what holds while nobody counts for all."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mosaic_common.decision import GrantStatus, GrantView, PeerState, RateLimit
from mosaic_common.errors import Layer, RateLimited, Reason
from mosaic_common.scope import parse_scope
from mosaic_common.shared_counters import ASK_AGAIN_SECONDS, STRICT_PART, CountersUnreachable
from mosaic_federation_edge.adapters.failover import FailoverCounters
from mosaic_federation_edge.domain.charges import HORIZON_US, KEPT_US, Answer, Charge, Pace
from mosaic_federation_edge.domain.grant_limits import GrantLimits
from mosaic_federation_edge.domain.leases import LEASE_SECONDS, LeasedCounters, most_ahead
from mosaic_federation_edge.domain.limits import SEARCH_WEIGHT
from mosaic_federation_edge.domain.local_counters import LocalCounters
from mosaic_federation_edge.domain.rate_limit import Rate
from structlog.testing import capture_logs

GRANTS: Final = [UUID(int=number) for number in (1, 2)]
PEER: Final = UUID(int=100)
WIDE: Final = Rate(per_second=100_000, burst=1_000_000)
WEIGHTS: Final = st.sampled_from([1, 1, 1, SEARCH_WEIGHT])
RATES: Final = st.builds(Rate, per_second=st.sampled_from([0.5, 3, 7, 40, 500]), burst=st.sampled_from([1, 3, 16, 200]))


class Stopwatch:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class WatchedCounters:
    """Buckets in the process that count the questions, and fall silent when told."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._counters = LocalCounters(stopwatch)
        self.asked = 0
        self.silent = False

    async def take(self, charge: Charge, ahead: int) -> Answer:
        self.asked += 1
        await asyncio.sleep(0)
        if self.silent:
            raise CountersUnreachable("test")
        return await self._counters.take(charge, ahead)


def charge(grant: Rate, peer: Rate = WIDE, *, grant_id: UUID = GRANTS[0], weight: int = 1) -> Charge:
    return Charge(grant_id, PEER, grant, peer, weight)


async def settled() -> None:
    """Let what runs in the background come to its end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def wait_told(limiter: LeasedCounters, charge: Charge) -> float | None:
    """Call; return None when let in, else the seconds after which to come back."""
    try:
        await limiter.spend(charge)
    except RateLimited as refused:
        return refused.retry_after.total_seconds() if refused.retry_after else 0.0
    return None


async def admitted(limiter: LeasedCounters, charge: Charge, times: int) -> int:
    """Call so many times, one after the other; return how often it was let in."""
    return [await wait_told(limiter, charge) for _ in range(times)].count(None)


# --- over the limit: never


@settings(deadline=None)
@given(
    grant=RATES,
    peer=RATES,
    replicas=st.integers(2, 3),
    calls=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.02, 0.3, 2.0]),
            st.integers(0, 2),
            st.sampled_from(GRANTS),
            WEIGHTS,
            st.integers(1, 12),
        ),
        max_size=60,
    ),
)
def test_never_more_than_the_limit_whoever_calls_where_and_when(
    grant: Rate, peer: Rate, replicas: int, calls: Sequence[tuple[float, int, UUID, int, int]]
) -> None:
    """From the first call on no more than the burst and what time brought; nor later in any span, but for what was held unspent."""
    stopwatch = Stopwatch()
    shared = LocalCounters(stopwatch)
    limiters = [LeasedCounters(shared, stopwatch) for _ in range(replicas)]
    log: list[tuple[float, UUID, int]] = []

    async def run() -> None:
        for pause, replica, grant_id, weight, times in calls:
            stopwatch.seconds += pause
            for _ in range(times):
                if await admitted(limiters[replica % replicas], charge(grant, peer, grant_id=grant_id, weight=weight), 1):
                    log.append((stopwatch.seconds, grant_id, weight))
                await asyncio.sleep(0)

    asyncio.run(run())
    for rate, spent in [(peer, log), *((grant, [each for each in log if each[1] == one]) for one in GRANTS)]:
        # Of the bookings that are kept, the oldest was earned before the span over which they are kept began.
        held = rate.per_second * KEPT_US / 1e6 + SEARCH_WEIGHT + len(GRANTS) * replicas * 2 * most_ahead(grant, peer)
        for first, (since, _, _) in enumerate(spent):
            total = 0
            for until, _, weight in spent[first:]:
                total += weight
                brought = rate.per_second * (until - since) + max(rate.burst, SEARCH_WEIGHT)
                assert total <= brought + held + 1e-3
                if first == 0:
                    assert total <= rate.burst + rate.per_second * (until - 1000.0) + 1e-3


# --- whoever obeys


@settings(deadline=None)
@given(
    grant=RATES,
    peer=RATES,
    calls=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.001, 0.1, 1.0]),
            st.integers(0, 1),
            WEIGHTS,
            st.sampled_from([0.0, 0.001, 0.2, 2.5]),
            st.integers(0, 8),
        ),
        max_size=60,
    ),
)
def test_a_client_that_obeys_is_never_refused_twice(
    grant: Rate, peer: Rate, calls: Sequence[tuple[float, int, int, float, int]]
) -> None:
    """Alone on its grant, on any replica, up to seconds later than told, and though another grant of its peer hammers meanwhile."""
    stopwatch = Stopwatch()
    shared = LocalCounters(stopwatch)
    limiters = [LeasedCounters(shared, stopwatch) for _ in range(2)]

    async def run() -> None:
        for pause, replica, weight, late, rivals in calls:
            stopwatch.seconds += pause
            call = charge(grant, peer, weight=weight)
            wait = await wait_told(limiters[replica], call)
            if wait is not None:
                rival = replace(call, grant_id=GRANTS[1], weight=1)
                for step in range(rivals):
                    stopwatch.seconds += wait / rivals
                    await admitted(limiters[step % 2], rival, 3)
                stopwatch.seconds += late if rivals else wait + late
                assert await wait_told(limiters[1 - replica], call) is None
            await asyncio.sleep(0)

    asyncio.run(run())


@settings(deadline=None)
@given(grant=RATES, in_flight=st.integers(1, 12), weights=st.lists(WEIGHTS, min_size=12, max_size=12))
def test_calls_in_flight_together_are_each_let_in_the_second_time(grant: Rate, in_flight: int, weights: Sequence[int]) -> None:
    """Each refusal books a slot of its own as far as the horizon reaches, and each call finds it on the other replica."""
    stopwatch = Stopwatch()
    shared = LocalCounters(stopwatch)
    limiters = [LeasedCounters(shared, stopwatch) for _ in range(2)]
    horizon = Pace.of(grant).horizon_us / 1e6

    async def run() -> None:
        waiting: list[tuple[float, int, Charge]] = []
        for number, weight in enumerate(weights[:in_flight]):
            call = charge(grant, weight=weight)
            wait = await wait_told(limiters[number % 2], call)
            if wait is not None and wait <= horizon:
                waiting.append((stopwatch.seconds + wait, number, call))
        for due, number, call in sorted(waiting, key=lambda each: each[0]):
            stopwatch.seconds = due
            assert await wait_told(limiters[1 - number % 2], call) is None

    asyncio.run(run())


# --- leases


async def test_a_quiet_grant_takes_nothing_ahead() -> None:
    """A call now and then is one question and one token each: nothing is taken that would be lost."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter, rate = LeasedCounters(shared, stopwatch), Rate(per_second=0.001, burst=100)
    for _ in range(50):
        await limiter.spend(charge(rate))
        stopwatch.seconds += 1.0
    assert shared.asked == 50
    assert await admitted(LeasedCounters(shared, stopwatch), charge(rate), 60) == 50


async def test_a_busy_grant_finds_its_tokens_in_hand() -> None:
    """At a thousand calls a second some ten questions a second, and none of the calls waits for one once it runs."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(shared, stopwatch)
    waited = 0
    for _ in range(2000):
        spending = asyncio.create_task(limiter.spend(charge(WIDE)))
        await asyncio.sleep(0)
        waited += not spending.done()
        await spending
        await settled()
        stopwatch.seconds += 0.001
    assert waited < 10
    assert shared.asked < 40


async def test_a_lease_is_a_small_part_of_the_limit() -> None:
    """Of what a quarter of a second brings and of the burst; of the grant's and of the peer's."""
    assert most_ahead(Rate(500, 1000), Rate(1000, 2000)) == 62
    assert most_ahead(Rate(100, 1000), Rate(1000, 2000)) == 25
    assert most_ahead(Rate(500, 160), Rate(1000, 2000)) == 10
    assert most_ahead(Rate(500, 1000), Rate(1000, 16)) == 1
    assert most_ahead(Rate(5, 5), WIDE) == 0


async def test_what_is_in_hand_is_lost_after_a_second() -> None:
    """Tokens of another time are not spent: they may have come back to the bucket since."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(shared, stopwatch)
    for _ in range(100):
        await limiter.spend(charge(WIDE))
        await settled()
        stopwatch.seconds += 0.001
    before = shared.asked
    await limiter.spend(charge(WIDE))
    await settled()
    stopwatch.seconds += LEASE_SECONDS
    await limiter.spend(charge(WIDE))
    assert shared.asked > before


async def test_whoever_hammers_costs_no_question_for_each_refusal() -> None:
    """Once everything is booked, nothing is asked until something can change; he gets what the limit gives all the same."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiters = [LeasedCounters(shared, stopwatch) for _ in range(2)]
    rate = Rate(per_second=5, burst=5)
    let_in = 0
    for step in range(10_000):
        let_in += await admitted(limiters[step % 2], charge(rate), 1)
        stopwatch.seconds += 0.002
    assert 5 + 5 * 20 - 2 <= let_in <= 5 + 5 * 20
    assert shared.asked < 600
    # What he has booked keeps nobody out for longer than the horizon.
    stopwatch.seconds += (HORIZON_US + KEPT_US) / 1e6
    assert await admitted(limiters[0], charge(rate), 5) == 5


async def test_a_refusal_that_is_remembered_is_of_its_weight_alone() -> None:
    """That no search can be booked any more says nothing of a list: it is booked, and no further search is asked for."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(shared, stopwatch)
    search = charge(Rate(per_second=1.2, burst=20), weight=SEARCH_WEIGHT)
    assert await admitted(limiter, search, 20) == 2
    booked_and_full = 3 + 1
    assert shared.asked == 2 + booked_and_full
    wait = await wait_told(limiter, replace(search, weight=1))
    assert wait is not None
    assert wait < HORIZON_US / 1e6
    stopwatch.seconds += wait
    assert await wait_told(limiter, replace(search, weight=1)) is None


# --- each grant's own limit


def view(limit: RateLimit | None) -> GrantView:
    return GrantView(
        grant_id=GRANTS[0],
        status=GrantStatus.ACTIVE,
        subject_user_id=UUID(int=7),
        subject_active=True,
        peer_id=PEER,
        peer_name="home",
        peer_state=PeerState.ACTIVE,
        scope=parse_scope({"resources": ["tasks"], "max_rows_per_query": 10}),
        expires_at=None,
        certificates={},
        limit=limit,
    )


@pytest.mark.parametrize(
    ("limit", "calls"),
    [
        pytest.param(None, 4, id="none of its own: the gateway's"),
        pytest.param(RateLimit(1, 2), 2, id="lower"),
        pytest.param(RateLimit(1000, 10), 6, id="higher: its peer's still holds"),
    ],
)
async def test_a_grant_is_charged_by_its_own_limit_and_its_peer(limit: RateLimit | None, calls: int) -> None:
    """The refusal says which lock it was and when to come back."""
    stopwatch = Stopwatch()
    limits = GrantLimits(LeasedCounters(LocalCounters(stopwatch), stopwatch), grant=Rate(1, 4), peer=Rate(1, 6))
    for _ in range(calls):
        await limits.spend(view(limit), 1)
    with pytest.raises(RateLimited) as refused:
        await limits.spend(view(limit), 1)
    assert (refused.value.reason, refused.value.layer) == (Reason.RATE_LIMITED, Layer.RATE)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > timedelta()


# --- while nobody counts for all


async def test_without_an_answer_a_strict_part_is_held_here() -> None:
    """Never open: a quarter of both limits, with bookings of its own; and one call a second asks whether somebody counts again."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(FailoverCounters(shared, LocalCounters(stopwatch), stopwatch), stopwatch)
    rate = Rate(per_second=8, burst=40)
    shared.silent = True
    assert await admitted(limiter, charge(rate), 100) == 40 // STRICT_PART
    assert shared.asked == 1
    for _ in range(10):
        stopwatch.seconds += ASK_AGAIN_SECONDS
        await admitted(limiter, charge(rate), 20)
    assert shared.asked == 11


async def test_when_somebody_counts_again_the_whole_limit_is_back() -> None:
    """At the latest a second after; what was spent before the silence is still counted."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(FailoverCounters(shared, LocalCounters(stopwatch), stopwatch), stopwatch)
    rate = Rate(per_second=0.001, burst=40)
    assert await admitted(limiter, charge(rate), 10) == 10
    shared.silent = True
    assert await admitted(limiter, charge(rate), 100) <= 10 + 40 // STRICT_PART
    shared.silent = False
    stopwatch.seconds += ASK_AGAIN_SECONDS
    assert await admitted(limiter, charge(rate), 100) <= 30


async def test_tokens_in_hand_pay_for_calls_while_nobody_answers() -> None:
    """They were taken before: a Valkey that is gone for a moment is not noticed by a call that has no question."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(shared, stopwatch)
    for _ in range(200):
        await limiter.spend(charge(WIDE))
        await settled()
        stopwatch.seconds += 0.001
    asked, shared.silent = shared.asked, True
    await limiter.spend(charge(WIDE))
    assert shared.asked == asked


async def test_an_outage_is_said_once() -> None:
    """When it begins and when it ends, with its cause; not for each call, nor because somebody was refused from memory."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(FailoverCounters(shared, LocalCounters(stopwatch), stopwatch), stopwatch)
    with capture_logs() as logs:
        for silent in (False, True, True, True, False):
            shared.silent = silent
            await admitted(limiter, charge(Rate(per_second=0.01, burst=1)), 100)
            stopwatch.seconds += ASK_AGAIN_SECONDS
            await admitted(limiter, charge(WIDE, grant_id=GRANTS[1]), 3)
    said = [(each["event"], each.get("cause")) for each in logs]
    assert said == [("limits_held_here", "test"), ("limits_shared_again", None)]


async def test_a_caller_that_hangs_up_stops_no_lease() -> None:
    """Whoever asked for more and left does not keep the others from asking."""
    stopwatch = Stopwatch()
    shared = WatchedCounters(stopwatch)
    limiter = LeasedCounters(shared, stopwatch)
    for _ in range(3):
        await limiter.spend(charge(WIDE))
        stopwatch.seconds += 0.001
    left = asyncio.create_task(limiter.spend(charge(WIDE, weight=SEARCH_WEIGHT)))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    for _ in range(100):
        await limiter.spend(charge(WIDE))
        await settled()
        stopwatch.seconds += 0.001
    assert shared.asked < 40
