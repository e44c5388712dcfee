"""Which budget a redemption spends, and what happens while nobody counts for all replicas."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosaic_common.config import load
from mosaic_common.errors import ConfigurationError, Layer, MosaicError, RateLimited, Reason, Unavailable
from mosaic_common.shared_counters import CountersUnreachable
from mosaic_enrollment.adapters.failover import FailoverCounters
from mosaic_enrollment.config import Config
from mosaic_enrollment.domain.admission import Admission, Limits
from mosaic_enrollment.domain.budgets import Charge, Limit
from mosaic_enrollment.domain.known_tokens import KnownTokens
from mosaic_enrollment.domain.local_counters import LocalCounters
from structlog.testing import capture_logs

KEY = bytes(range(32))
TOKEN_ID = hashlib.sha256(KEY).digest()
LIMITS = Limits(source=Limit(60), token=Limit(30), unknown=Limit(600))


class Stopwatch:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class FakeLedger:
    """Grants, as far as it is asked which tokens there are."""

    def __init__(self, *known: bytes) -> None:
        self.known = {hashlib.sha256(each).digest() for each in known}
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self.failure: MosaicError | None = None

    async def list_known_tokens(self) -> frozenset[bytes]:
        self.asked += 1
        known, failure = frozenset(self.known), self.failure
        await self.answering.wait()
        if failure is not None:
            raise failure
        return known


class FakeCounters:
    """Counters that are there, or silent."""

    def __init__(self) -> None:
        self.spent: list[list[tuple[str, int]]] = []
        self.outcome: Exception | None = None

    async def spend(self, charges: Sequence[Charge]) -> None:
        self.spent.append([(charge.key, charge.limit.per_minute) for charge in charges])
        if self.outcome is not None:
            raise self.outcome


# ── which budget ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("limits", "token_id", "spent"),
    [
        pytest.param(LIMITS, TOKEN_ID, {(f"token:{TOKEN_ID.hex()}", 30), ("source:192.0.2.7", 60)}, id="a known token: its own"),
        pytest.param(LIMITS, None, {("unknown", 600), ("source:192.0.2.7", 60)}, id="an unknown one: what all of them share"),
        pytest.param(Limits(None, LIMITS.token, LIMITS.unknown), None, {("unknown", 600)}, id="behind a proxy: no source"),
        pytest.param(
            Limits(None, LIMITS.token, LIMITS.unknown), TOKEN_ID, {(f"token:{TOKEN_ID.hex()}", 30)}, id="behind a proxy, known"
        ),
    ],
)
async def test_spends_the_budgets_of_whom_it_is(limits: Limits, token_id: bytes | None, spent: set[tuple[str, int]]) -> None:
    """Source and token, all at once; no key is made of a token that nobody made."""
    counters = FakeCounters()
    await Admission(limits, KnownTokens(FakeLedger(), Stopwatch()), counters).spend("192.0.2.7", token_id)
    [charges] = counters.spent
    assert set(charges) == spent


async def test_a_stranger_does_not_hear_which_tokens_are_known() -> None:
    """The refusal of a known and of an unknown token say the same."""
    stopwatch = Stopwatch()
    limits = Limits(None, Limit(60), Limit(60))
    admission = Admission(limits, KnownTokens(FakeLedger(), stopwatch), LocalCounters(stopwatch))
    refusals = []
    for token_id in (TOKEN_ID, None):
        for _ in range(60):
            await admission.spend("192.0.2.7", token_id)
        with pytest.raises(RateLimited) as refused:
            await admission.spend("192.0.2.7", token_id)
        refusals.append(refused.value)
    known, unknown = ((each.reason, each.layer, each.message, each.remedy, each.retry_after) for each in refusals)
    assert known == unknown
    assert known[:2] == (Reason.RATE_LIMITED, Layer.RATE)


async def test_exhausted_strangers_refuse_nobody_with_a_token() -> None:
    """When the budget of unknown tokens is empty, a known one from the same proxy still has all of its own."""
    stopwatch = Stopwatch()
    admission = Admission(Limits(None, Limit(30), Limit(2)), KnownTokens(FakeLedger(KEY), stopwatch), LocalCounters(stopwatch))
    for _ in range(2):
        await admission.spend("192.0.2.7", None)
    with pytest.raises(RateLimited):
        await admission.spend("192.0.2.7", None)
    for _ in range(30):
        await admission.spend("192.0.2.7", await admission.find_token(KEY))


async def test_whoever_was_too_early_to_be_known_is_known_when_he_comes_again() -> None:
    """In the middle of a flood a token is made just after grants was asked: its holder is refused once, for at most a second."""
    stopwatch, ledger = Stopwatch(), FakeLedger()
    admission = Admission(Limits(None, Limit(30), Limit(600)), KnownTokens(ledger, stopwatch), LocalCounters(stopwatch))
    for _ in range(610):
        with contextlib.suppress(RateLimited):
            await admission.spend("192.0.2.7", await admission.find_token(b"made up"))
    ledger.known.add(TOKEN_ID)
    stopwatch.seconds += 0.3
    for _ in range(3):  # the strangers take what came back
        await admission.spend("192.0.2.7", None)
    assert await admission.find_token(KEY) is None
    with pytest.raises(RateLimited) as refused:
        await admission.spend("192.0.2.7", None)
    assert refused.value.retry_after == timedelta(seconds=0.7)
    stopwatch.seconds += refused.value.retry_after.total_seconds()
    assert await admission.find_token(KEY) == TOKEN_ID
    await admission.spend("192.0.2.7", TOKEN_ID)


# ── which tokens are known ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_flood_of_made_up_tokens_asks_grants_once_a_second() -> None:
    """However many tokens are made up, and however many calls wait for one answer."""
    stopwatch, ledger = Stopwatch(), FakeLedger(KEY)
    known = KnownTokens(ledger, stopwatch)
    for second in range(3):
        found = await asyncio.gather(*(known.find(b"%d %d" % (second, each)) for each in range(1000)))
        assert set(found) == {None}
        assert await known.find(KEY) == TOKEN_ID
        assert ledger.asked == second + 1
        stopwatch.seconds += 1.0


async def test_known_tokens_are_not_asked_for() -> None:
    """The way of an honest client that retries is as short as without limits."""
    stopwatch, ledger = Stopwatch(), FakeLedger(KEY)
    known = KnownTokens(ledger, stopwatch)
    for _ in range(10):
        assert await known.find(KEY) == TOKEN_ID
        stopwatch.seconds += 10
    assert ledger.asked == 1


async def test_what_was_known_stays_known_while_grants_is_silent() -> None:
    """An outage of grants does not make honest tokens strangers, and what it lists no more is forgotten with the next answer."""
    stopwatch, ledger = Stopwatch(), FakeLedger(KEY)
    known = KnownTokens(ledger, stopwatch)
    assert await known.find(KEY) == TOKEN_ID
    ledger.failure, ledger.known = Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "grants cannot be reached."), set()
    stopwatch.seconds += 1
    assert await known.find(b"made up") is None
    assert await known.find(KEY) == TOKEN_ID
    ledger.failure = None
    stopwatch.seconds += 1
    assert await known.find(b"made up") is None
    assert await known.find(KEY) is None


async def test_a_caller_who_hangs_up_takes_the_answer_from_nobody() -> None:
    """Grants is asked once for all who wait; the one who came first may go."""
    ledger = FakeLedger(KEY)
    ledger.answering.clear()
    known = KnownTokens(ledger, Stopwatch())
    first, second = (asyncio.create_task(known.find(KEY)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    ledger.answering.set()
    assert await second == TOKEN_ID
    assert ledger.asked == 1
    assert first.cancelled()


async def test_whoever_comes_first_lends_nothing_to_those_who_wait_with_him() -> None:
    """Grants is asked in a context of its own: the deadline of one call is not that of all."""
    lent: ContextVar[str] = ContextVar("lent", default="nothing")
    seen = []

    class Listening(FakeLedger):
        async def list_known_tokens(self) -> frozenset[bytes]:
            seen.append(lent.get())
            return await super().list_known_tokens()

    lent.set("a deadline")
    await KnownTokens(Listening(), Stopwatch()).find(KEY)
    assert seen == ["nothing"]


# ── while nobody counts for all replicas ──────────────────────────────────────────────────────────────────────────────────────────

CHARGE = Charge("token:a", Limit(40), "Too many.")


async def refused(spending: Callable[[], Awaitable[None]]) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await spending()
    return caught.value


async def test_without_valkey_a_strict_part_holds_here() -> None:
    """Never open: a quarter of the limit, in this process."""
    stopwatch, shared = Stopwatch(), FakeCounters()
    shared.outcome = CountersUnreachable("ConnectionError")
    counters = FailoverCounters(shared, LocalCounters(stopwatch), stopwatch)
    for _ in range(10):
        await counters.spend([CHARGE])
    assert (await refused(lambda: counters.spend([CHARGE]))).retry_after == timedelta(seconds=6)


async def test_a_silent_valkey_is_asked_by_one_call_a_second() -> None:
    """A dead Valkey does not cost each call its timeout."""
    stopwatch, shared, local = Stopwatch(), FakeCounters(), FakeCounters()
    shared.outcome = CountersUnreachable("TimeoutError")
    counters = FailoverCounters(shared, local, stopwatch)
    for second in range(3):
        for _ in range(100):
            await counters.spend([CHARGE])
        assert len(shared.spent) == second + 1
        stopwatch.seconds += 1.0
    assert len(local.spent) == 300


@pytest.mark.parametrize("answer", [None, RateLimited(Reason.RATE_LIMITED, "Too many.")], ids=["taken", "refused"])
async def test_the_log_says_once_when_it_goes_and_once_when_it_is_back(answer: Exception | None) -> None:
    """Any answer is an answer; back with the first one, every call is counted for all replicas again."""
    stopwatch, shared, local = Stopwatch(), FakeCounters(), FakeCounters()
    counters = FailoverCounters(shared, local, stopwatch)

    async def spend() -> None:
        with contextlib.suppress(RateLimited):
            await counters.spend([CHARGE])

    with capture_logs() as events:
        await spend()
        shared.outcome = CountersUnreachable("TimeoutError")
        for _ in range(5):
            await spend()
            stopwatch.seconds += 1
        shared.outcome = answer
        for _ in range(5):
            await spend()
    assert [(each["event"], each.get("cause")) for each in events] == [
        ("limits_held_here", "TimeoutError"),
        ("limits_shared_again", None),
    ]
    assert len(shared.spent) == 11
    assert len(local.spent) == 5


async def test_a_refusal_of_the_shared_counters_stands() -> None:
    """The local ones are not asked for a second opinion."""
    shared, local = FakeCounters(), FakeCounters()
    shared.outcome = RateLimited(Reason.RATE_LIMITED, "Too many.")
    counters = FailoverCounters(shared, local, Stopwatch())
    assert await refused(lambda: counters.spend([CHARGE])) is shared.outcome
    assert local.spent == []


async def test_remembers_a_bounded_number_of_budgets() -> None:
    """Ever new addresses do not grow the process, and a budget that is asked for is not pushed out."""
    counters = LocalCounters(Stopwatch(), max_keys=10)
    one = Limit(1)
    await counters.spend([Charge("busy", one, "Too many.")])
    for number in range(100):
        await counters.spend([Charge(f"source:{number}", one, "Too many.")])
        await refused(lambda: counters.spend([Charge("busy", one, "Too many.")]))
    assert len(counters._arrivals) == 10


@given(per_minute=st.integers(1, 200), pauses=st.lists(st.floats(0, 30), max_size=20))
def test_never_gives_more_than_the_limit(per_minute: int, pauses: list[float]) -> None:
    """Over any time no more passes than a minute's worth and what came back meanwhile."""
    stopwatch = Stopwatch()
    counters = LocalCounters(stopwatch)

    async def count() -> int:
        passed = 0
        for pause in pauses:
            stopwatch.seconds += pause
            for _ in range(per_minute + 5):
                try:
                    await counters.spend([Charge("token:a", Limit(per_minute), "Too many.")])
                except RateLimited:
                    break
                passed += 1
        return passed

    # With a loop of its own making it leaves the session's alone.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        taken = runner.run(count())
    assert taken <= per_minute + sum(pauses) * 1_000_000 / Limit(per_minute).interval_us + 1e-3


# ── what the operator says ────────────────────────────────────────────────────────────────────────────────────────────────────────

ENVIRONMENT = {
    "MOSAIC_ENV": "dev",
    "MOSAIC_GATEWAY": "work",
    "MOSAIC_PKI_DIR": "/nowhere",
    "MOSAIC_INTERNAL_LISTEN": "127.0.0.1:7103",
    "MOSAIC_PUBLIC_LISTEN": "127.0.0.1:7444",
    "MOSAIC_GRANTS_ADDRESS": "127.0.0.1:7102",
    "MOSAIC_CA_BROKER_ADDRESS": "127.0.0.1:7101",
    "REDIS_URL": "redis://enrollment:of-this-test-only@127.0.0.1:6379/0",
}


@pytest.mark.parametrize(
    ("given_", "limits"),
    [
        pytest.param({}, Limits(Limit(60), Limit(60), Limit(600)), id="nothing said"),
        pytest.param(
            {"MOSAIC_ENROLLMENT_SOURCE_PER_MINUTE": "1000000"}, Limits(Limit(1_000_000), Limit(60), Limit(600)), id="raised"
        ),
        pytest.param({"MOSAIC_ENROLLMENT_TOKEN_PER_MINUTE": "1"}, Limits(Limit(60), Limit(1), Limit(600)), id="lowered"),
        pytest.param({"MOSAIC_ENROLLMENT_UNKNOWN_PER_MINUTE": "7"}, Limits(Limit(60), Limit(60), Limit(7)), id="unknown ones"),
        pytest.param({"MOSAIC_BEHIND_PROXY": "true"}, Limits(None, Limit(60), Limit(600)), id="behind a proxy"),
        pytest.param({"MOSAIC_BEHIND_PROXY": "false"}, Limits(Limit(60), Limit(60), Limit(600)), id="not behind one"),
    ],
)
def test_limits_are_what_the_operator_says(given_: dict[str, str], limits: Limits) -> None:
    """Every limit has a default that holds, and can be raised until it is none."""
    assert load(Config, ENVIRONMENT | given_).limits == limits


@pytest.mark.parametrize("limit", ["SOURCE", "TOKEN", "UNKNOWN"])
@pytest.mark.parametrize("value", ["0", "-1", "60000001", "many", "1.5"])
def test_a_limit_that_is_none_stops_the_start(limit: str, value: str) -> None:
    """One sentence that names the variable and what it needs."""
    variable = f"MOSAIC_ENROLLMENT_{limit}_PER_MINUTE"
    with pytest.raises(ConfigurationError, match=rf"^{variable} cannot be used: it needs a whole number from 1 to 60000000: .*\.$"):
        load(Config, ENVIRONMENT | {variable: value})


def test_a_proxy_is_there_or_not() -> None:
    """A word that is neither true nor false stops the start."""
    with pytest.raises(ConfigurationError, match=r"^MOSAIC_BEHIND_PROXY cannot be used: it needs true when .*\.$"):
        load(Config, ENVIRONMENT | {"MOSAIC_BEHIND_PROXY": "perhaps"})


@given(st.integers(1, 60_000_000))
def test_a_strict_part_is_never_nothing_and_never_more(per_minute: int) -> None:
    """Four replicas on their own give away no more than all would together, but for limits below four."""
    strict = Limit(per_minute).strict().per_minute
    assert strict >= 1
    assert strict * 4 <= max(per_minute, 4)
