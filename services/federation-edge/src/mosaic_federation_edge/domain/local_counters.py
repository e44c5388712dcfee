"""Buckets in this process, for as long as nobody can be asked who counts for all replicas."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from uuid import UUID

from mosaic_federation_edge.domain.charges import Answer, Bucket, Charge, take

MAX_KEYS: Final = 65_536


class LocalCounters:
    """Counts here.

    The number of buckets is bounded, least recently asked for out first; one that was pushed out is full again. Only grants and
    peers that exist have one.

    Args:
        monotonic: seconds, never going back.
    """

    def __init__(self, monotonic: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self._monotonic: Final = monotonic
        self._max_keys: Final = max_keys
        self._buckets: Final[OrderedDict[UUID, Bucket]] = OrderedDict()

    async def take(self, charge: Charge, ahead: int) -> Answer:
        now_us = round(self._monotonic() * 1_000_000)
        answer = take(self._bucket(charge.grant_id), self._bucket(charge.peer_id), charge, ahead, now_us)
        while len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return answer

    def _bucket(self, key: UUID) -> Bucket:
        bucket = self._buckets.setdefault(key, Bucket())
        self._buckets.move_to_end(key)
        return bucket
