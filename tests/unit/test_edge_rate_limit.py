"""How much a key may ask, without a network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosaic_common.errors import Layer, RateLimited, Reason
from mosaic_federation_edge.domain.rate_limit import Rate, TokenBuckets


class Stopwatch:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def buckets(stopwatch: Stopwatch, *, per_second: float = 10, burst: int = 3, max_keys: int = 100) -> TokenBuckets:
    return TokenBuckets(Rate(per_second, burst), Layer.RATE, stopwatch, max_keys)


def spend_all(limiter: TokenBuckets, key: str, times: int) -> None:
    for _ in range(times):
        limiter.spend(key)


def test_refuses_beyond_the_burst_and_says_when_to_come_back() -> None:
    """After the burst the next call is refused; coming back when RetryInfo said is early enough."""
    stopwatch = Stopwatch()
    limiter = buckets(stopwatch)
    spend_all(limiter, "a", 3)
    with pytest.raises(RateLimited) as refused:
        limiter.spend("a")
    assert (refused.value.reason, refused.value.layer) == (Reason.RATE_LIMITED, Layer.RATE)
    assert refused.value.retry_after is not None
    stopwatch.seconds += refused.value.retry_after.total_seconds()
    limiter.spend("a")


def test_keys_do_not_pay_for_each_other() -> None:
    """One key's exhaustion is no other key's."""
    limiter = buckets(Stopwatch())
    spend_all(limiter, "a", 3)
    spend_all(limiter, "b", 3)


def test_looking_costs_nothing() -> None:
    """However often a key is only looked at, its calls are still there; an exhausted one is refused at the look."""
    limiter = buckets(Stopwatch())
    for _ in range(1000):
        limiter.check("a")
    spend_all(limiter, "a", 3)
    with pytest.raises(RateLimited):
        limiter.check("a")


def test_a_refusal_costs_nothing() -> None:
    """A heavy call that is refused leaves what a light one needs."""
    limiter = buckets(Stopwatch())
    with pytest.raises(RateLimited):
        limiter.spend("a", weight=4)
    limiter.spend("a", weight=3)


def test_remembers_a_bounded_number_of_keys() -> None:
    """Whoever calls from ever new addresses does not grow the process, and a key that keeps calling is not pushed out."""
    limiter = buckets(Stopwatch(), max_keys=10)
    spend_all(limiter, "busy", 3)
    for number in range(100):
        limiter.spend(f"passing-{number}")
        with pytest.raises(RateLimited):
            limiter.check("busy")
    assert len(limiter._buckets) == 10


@given(st.lists(st.floats(0, 5), max_size=30))
def test_never_gives_more_than_the_rate(pauses: list[float]) -> None:
    """Over any time no more passes than the burst and what filled up meanwhile."""
    stopwatch = Stopwatch()
    limiter = buckets(stopwatch, per_second=2, burst=5)
    passed = 0
    for pause in pauses:
        stopwatch.seconds += pause
        for _ in range(20):
            try:
                limiter.spend("a")
            except RateLimited:
                break
            passed += 1
    assert passed <= 5 + 2 * sum(pauses) + 1e-6
