"""What counters keep: those in Valkey and those in the process, by the same tests."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from mosaic_common.errors import Layer, RateLimited, Reason
from mosaic_common.identity import ENROLLMENT
from mosaic_common.shared_counters import CountersUnreachable
from mosaic_enrollment.adapters.valkey import SPEND_SECONDS, ValkeyCounters
from mosaic_enrollment.domain.admission import Admission, Limits
from mosaic_enrollment.domain.budgets import Charge, Counters, Limit
from mosaic_enrollment.domain.known_tokens import KnownTokens
from mosaic_enrollment.domain.local_counters import LocalCounters

from tests.support.watched_valkey import WatchedValkey

pytestmark = pytest.mark.alone

# Long beside what a test takes, so that the time that really passes changes no answer.
THREE_A_MINUTE = Limit(3)
INTERVAL = timedelta(seconds=20)
A_LITTLE = timedelta(seconds=5)
# So that a slow machine is not taken for a Valkey that is silent; where silence is the subject, the default holds.
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Subject:
    """One implementation under test.

    Attributes:
        other: what another replica counts with; the same object where there is no sharing.
        let_pass: moves time on.
    """

    counters: Counters
    other: Counters
    let_pass: Callable[[timedelta], None]


class Stopwatch:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1234.5678

    def __call__(self) -> float:
        return self.seconds

    def let_pass(self, time: timedelta) -> None:
        self.seconds += time.total_seconds()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedValkey]:
    with WatchedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(params=["in Valkey", "in the process"])
async def subject(request: pytest.FixtureRequest, server: WatchedValkey) -> AsyncIterator[Subject]:
    if request.param == "in the process":
        stopwatch = Stopwatch()
        here = LocalCounters(stopwatch)
        yield Subject(here, here, stopwatch.let_pass)
        return
    server.flush()
    async with AsyncExitStack() as stack:
        replicas = [ValkeyCounters(server.url(ENROLLMENT), PATIENCE_SECONDS) for _ in range(2)]
        for each in replicas:
            stack.push_async_callback(each.close)
        yield Subject(replicas[0], replicas[1], server.let_pass)


def charge(key: str, limit: Limit = THREE_A_MINUTE, not_before: timedelta = timedelta(0)) -> Charge:
    return Charge(key, limit, f"Too many of {key}.", not_before)


async def refused(counters: Counters, *charges: Charge) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await counters.spend(charges)
    return caught.value


def wait_of(error: RateLimited) -> timedelta:
    assert error.retry_after is not None
    return error.retry_after


async def test_a_minutes_worth_may_come_at_once_and_no_more(subject: Subject) -> None:
    """After the burst the next call is refused, and hears its reason, the lock and how long to wait."""
    for _ in range(3):
        await subject.counters.spend([charge("token:a")])
    error = await refused(subject.counters, charge("token:a"))
    assert (error.reason, error.layer, error.message) == (Reason.RATE_LIMITED, Layer.RATE, "Too many of token:a.")
    assert INTERVAL - A_LITTLE < wait_of(error) <= INTERVAL


async def test_whoever_waits_as_long_as_he_is_told_is_not_refused_again(subject: Subject) -> None:
    """The wait is enough, and it is not more than enough."""
    for _ in range(3):
        await subject.counters.spend([charge("token:a")])
    for _ in range(5):
        wait = wait_of(await refused(subject.counters, charge("token:a")))
        subject.let_pass(wait - A_LITTLE)
        await refused(subject.counters, charge("token:a"))
        subject.let_pass(A_LITTLE)
        await subject.counters.spend([charge("token:a")])


async def test_a_refusal_takes_nothing(subject: Subject) -> None:
    """Knocking a hundred times does not make the wait longer."""
    for _ in range(3):
        await subject.counters.spend([charge("token:a")])
    waits = [wait_of(await refused(subject.counters, charge("token:a"))) for _ in range(100)]
    assert waits[-1] <= waits[0]


async def test_one_empty_budget_takes_nothing_from_the_other(subject: Subject) -> None:
    """All or nothing: what a refused call would have taken from its source is still there."""
    for _ in range(3):
        await subject.counters.spend([charge("token:a")])
    for _ in range(10):
        error = await refused(subject.counters, charge("token:a"), charge("source:s"))
        assert error.message == "Too many of token:a."
    for _ in range(3):
        await subject.counters.spend([charge("source:s")])


@pytest.mark.parametrize("order", [1, -1], ids=["told first", "told last"])
async def test_the_longest_wait_is_told(subject: Subject, order: int) -> None:
    """With both budgets empty the answer names the time at which both have something."""
    both = [charge("source:s", Limit(1)), charge("token:a")][::order]
    await subject.counters.spend(both)
    for _ in range(2):
        await subject.counters.spend([charge("token:a")])
    error = await refused(subject.counters, *both)
    assert error.message == "Too many of source:s."
    subject.let_pass(wait_of(error))
    await subject.counters.spend(both)


async def test_budgets_do_not_pay_for_each_other(subject: Subject) -> None:
    """One key's exhaustion is no other key's."""
    for _ in range(3):
        await subject.counters.spend([charge("unknown")])
    await refused(subject.counters, charge("unknown"))
    await subject.counters.spend([charge("token:a")])


async def test_no_shorter_wait_is_told_than_the_charge_allows(subject: Subject) -> None:
    """A charge may know that coming earlier would be in vain."""
    for _ in range(3):
        await subject.counters.spend([charge("unknown")])
    error = await refused(subject.counters, charge("unknown", not_before=timedelta(minutes=2)))
    assert wait_of(error) == timedelta(minutes=2)


async def test_replicas_spend_from_the_same_budget(subject: Subject) -> None:
    """What one replica has given away, another does not give again; not even when both are asked at once."""
    limit = Limit(40)
    outcomes = await asyncio.gather(
        *(each.spend([charge("token:a", limit)]) for each in (subject.counters, subject.other) for _ in range(40)),
        return_exceptions=True,
    )
    assert sum(each is None for each in outcomes) == 40
    assert sum(isinstance(each, RateLimited) for each in outcomes) == 40


async def test_a_limit_of_a_million_refuses_nobody(subject: Subject) -> None:
    """A limit may be raised until it is none."""
    for _ in range(100):
        await subject.counters.spend([charge("token:a", Limit(1_000_000)), charge("source:s", Limit(60_000_000))])


async def test_a_limit_that_was_lowered_holds_from_then_on(subject: Subject) -> None:
    """What was counted under a higher limit is not held against the caller for longer than an interval of the lower one."""
    for _ in range(60):
        await subject.counters.spend([charge("token:a", Limit(60))])
    wait = wait_of(await refused(subject.counters, charge("token:a")))
    assert wait <= INTERVAL
    subject.let_pass(wait)
    await subject.counters.spend([charge("token:a")])


class NoTokens:
    """Grants that made none."""

    async def list_known_tokens(self) -> frozenset[bytes]:
        return frozenset()


# ── only in Valkey ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def shared(server: WatchedValkey) -> AsyncIterator[ValkeyCounters]:
    server.flush()
    counters = ValkeyCounters(server.url(ENROLLMENT), PATIENCE_SECONDS)
    yield counters
    await counters.close()


async def test_every_key_is_gone_when_its_budget_is_full_again(server: WatchedValkey, shared: ValkeyCounters) -> None:
    """Under the service's own prefix, and none for ever: one call leaves a key for one interval, three for three."""
    await shared.spend([charge("token:a"), charge("source:2001:db8::/64")])
    for _ in range(2):
        await shared.spend([charge("token:a")])
    lives = server.lives()
    assert lives.keys() == {"enrollment:token:a", "enrollment:source:2001:db8::/64"}
    assert 3 * INTERVAL - A_LITTLE < lives["enrollment:token:a"] <= 3 * INTERVAL
    assert INTERVAL - A_LITTLE < lives["enrollment:source:2001:db8::/64"] <= INTERVAL


async def test_a_refused_call_makes_no_key(server: WatchedValkey, shared: ValkeyCounters) -> None:
    """Neither for itself nor for the source that it came from."""
    for _ in range(3):
        await shared.spend([charge("unknown")])
    await refused(shared, charge("unknown"), charge("source:s"))
    assert server.keys() == ["enrollment:unknown"]


async def test_ten_thousand_invented_tokens_leave_no_key_of_their_own(server: WatchedValkey, shared: ValkeyCounters) -> None:
    """From ever new addresses of two IPv6 sites and from one IPv4 address: a key for each of the three, one for all invented."""
    limits = Limits(source=Limit(300), token=Limit(60), unknown=Limit(600))
    admission = Admission(limits, KnownTokens(NoTokens(), time.monotonic), shared)
    for number in range(10_000):
        address = ("::ffff:192.0.2.7", f"2001:db8:0:1::{number:x}", f"2001:db8:0:2::{number:x}")[number % 3]
        with contextlib.suppress(RateLimited):
            await admission.spend(address, await admission.find_token(secrets.token_bytes(32)))
    assert server.keys() == [
        "enrollment:source:192.0.2.7",
        "enrollment:source:2001:db8:0:1::/64",
        "enrollment:source:2001:db8:0:2::/64",
        "enrollment:unknown",
    ]
    assert all(timedelta(0) < life <= timedelta(minutes=1) for life in server.lives().values())


async def test_a_clock_that_was_ahead_refuses_nobody_for_long(server: WatchedValkey, shared: ValkeyCounters) -> None:
    """Valkey's clock is set back by a year: who was counted before it waits an interval, not a year."""
    await shared.spend([charge("token:a")])
    server.let_pass(-timedelta(days=365))
    assert wait_of(await refused(shared, charge("token:a"))) <= INTERVAL


async def test_one_call_is_one_round_trip(server: WatchedValkey, shared: ValkeyCounters) -> None:
    """Two budgets or one: one script; and a hundred calls at once are not a hundred."""
    await shared.spend([charge("token:a")])
    before = server.calls()
    for number in range(10):
        await shared.spend([charge(f"token:{number}"), charge(f"source:{number}")])
    assert server.calls() - before == 10
    await asyncio.gather(*(shared.spend([charge(f"token:together-{number}")]) for number in range(100)))
    assert server.calls() - before <= 12


async def test_calls_that_go_together_are_answered_each_for_itself(shared: ValkeyCounters) -> None:
    """With one budget or two, allowed or refused: nobody gets the answer of another, also when one of them hung up."""
    one_a_minute = Limit(1)
    for number in range(0, 30, 3):
        await shared.spend([charge(f"token:{number}", one_a_minute)])
    asking = [
        asyncio.create_task(
            shared.spend([charge(f"token:{number}", one_a_minute), *([charge(f"source:{number}")] if number % 2 else [])])
        )
        for number in range(30)
    ]
    await asyncio.sleep(0)
    asking[1].cancel()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(outcomes[1], asyncio.CancelledError)
    refused_ = {number: str(each) for number, each in enumerate(outcomes) if isinstance(each, RateLimited)}
    assert refused_ == {number: f"Too many of token:{number}." for number in range(0, 30, 3)}
    assert [outcomes[number] for number in range(2, 30) if number % 3] == [None] * 19


async def test_a_crowd_is_served_in_turn(shared: ValkeyCounters) -> None:
    """Hundreds at once wait for each other, and none of them takes that for a Valkey that is gone."""
    await asyncio.gather(*(shared.spend([charge("token:a", Limit(1_000_000))]) for _ in range(2000)))


async def test_a_crowd_before_a_valkey_that_hangs_waits_once(server: WatchedValkey) -> None:
    """Whoever queued behind a call that was not answered hears at once that nobody counts."""
    counters = ValkeyCounters(server.url(ENROLLMENT))
    await counters.ping()
    with server.hanging():
        began = time.monotonic()
        outcomes = await asyncio.gather(*(counters.spend([charge("token:a")]) for _ in range(2000)), return_exceptions=True)
        took = time.monotonic() - began
    assert all(isinstance(each, CountersUnreachable) for each in outcomes)
    assert SPEND_SECONDS <= took < 1.0
    await counters.close()


async def test_a_valkey_that_started_anew_is_told_the_script_again(tmp_path: Path) -> None:
    """A restart fails no call: dead connections are made again, the script is loaded again, counting begins from nothing."""
    with WatchedValkey(tmp_path) as own:
        counters = ValkeyCounters(own.url(ENROLLMENT), PATIENCE_SECONDS)
        for _ in range(3):
            await counters.spend([charge("token:a")])
        await refused(counters, charge("token:a"))
        own.stop()
        own.start()
        await counters.spend([charge("token:a")])
        await counters.close()
