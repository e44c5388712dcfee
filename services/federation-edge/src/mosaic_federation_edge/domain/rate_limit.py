"""How much a key may ask of this process: step 0 of a federated read, and local users at the other edge."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from mosaic_common.errors import Layer, RateLimited, Reason

MAX_KEYS: Final = 65_536


class RateLimiter(Protocol):
    """Counts what each key spends, without waiting for anybody."""

    def check(self, key: str) -> None:
        """Refuse a key that has nothing left, without spending.

        Raises:
            RateLimited: carries when to come back.
        """
        ...

    def spend(self, key: str, weight: int = 1) -> None:
        """Take what one call costs.

        Raises:
            RateLimited: not that much is left, and nothing was taken; carries when to come back.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket of ``burst`` tokens that fills with ``per_second``."""

    per_second: float
    burst: int


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class TokenBuckets:
    """A token bucket per key, in this process.

    The number of keys is bounded, least recently used out first. A key that is pushed out comes back with a full bucket; to push it
    out, more than 65,536 others have to call meanwhile.

    Args:
        layer: which lock the refusals name: SOURCE before anything else, RATE after the decision.
        monotonic: seconds, never going back.
    """

    def __init__(self, rate: Rate, layer: Layer, monotonic: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._rate: Final = rate
        self._layer: Final = layer
        self._monotonic: Final = monotonic
        self._max_keys: Final = max_keys
        self._buckets: Final[OrderedDict[str, _Bucket]] = OrderedDict()

    def check(self, key: str) -> None:
        self._require(self._filled(key), 1)

    def spend(self, key: str, weight: int = 1) -> None:
        bucket = self._filled(key)
        self._require(bucket, weight)
        bucket.tokens -= weight

    def _filled(self, key: str) -> _Bucket:
        now = self._monotonic()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._rate.burst, now)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
            return bucket
        self._buckets.move_to_end(key)
        bucket.tokens = min(self._rate.burst, bucket.tokens + (now - bucket.filled_at) * self._rate.per_second)
        bucket.filled_at = now
        return bucket

    def _require(self, bucket: _Bucket, weight: int) -> None:
        if bucket.tokens < weight:
            raise RateLimited(
                Reason.RATE_LIMITED,
                "Too many calls; try again later.",
                layer=self._layer,
                retry_after=timedelta(seconds=(weight - bucket.tokens) / self._rate.per_second),
            )
