"""Budgets that all replicas share, in Valkey under this service's own user and prefix."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from mosaic_common.errors import RateLimited
from mosaic_common.shared_counters import CountersUnreachable
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mosaic_enrollment.domain.budgets import MINUTE_US, Charge

PREFIX: Final = "enrollment:"
MAX_BATCH: Final = 128
PING_SECONDS: Final = 1.0
SPEND_SECONDS: Final = 0.1

# The arithmetic of domain/budgets.py, for one call after the other and by one clock for all replicas; what was counted by a clock
# that was ahead counts as an empty budget. A key expires when its budget is full again.
# ARGV: a minute in microseconds, the interval of each key, how many keys each call has.
_SPEND: Final = """
local clock, minute = redis.call('TIME'), tonumber(ARGV[1])
local now = clock[1] * 1000000 + clock[2]
local answers, first = {}, 1
for call = 1, #ARGV - 1 - #KEYS do
  local last = first + ARGV[1 + #KEYS + call] - 1
  local arrivals, refused, longest = {}, 0, 0
  for i = first, last do
    local arrival = tonumber(redis.call('GET', KEYS[i]) or now)
    arrivals[i] = math.min(math.max(arrival, now), now + minute) + ARGV[1 + i]
    local wait = arrivals[i] - now - minute
    if wait > longest then
      refused, longest = i - first + 1, wait
    end
  end
  if refused == 0 then
    for i = first, last do
      redis.call('SET', KEYS[i], arrivals[i], 'PX', math.ceil((arrivals[i] - now) / 1000))
    end
  end
  answers[call], first = {refused, longest}, last + 1
end
return answers
"""

# What a call is told: nothing when all was taken.
_Answer = RateLimited | CountersUnreachable | None
_Asked = tuple[Sequence[Charge], asyncio.Future[_Answer]]


class ValkeyCounters:
    """Counts for all replicas; what has come while the last round trip ran goes into the next one, on one connection.

    A crowd is served in turn like that. With a connection for each call, making hundreds of them took longer than a call may wait,
    and with a few of them some calls waited for ever: a flood made a Valkey that was well look dead (tried).
    """

    def __init__(self, url: str, spend_seconds: float = SPEND_SECONDS) -> None:
        self._client: Final[Redis] = Redis.from_url(
            url,
            socket_timeout=PING_SECONDS,
            socket_connect_timeout=PING_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a restart leaves a connection behind that is dead, and would fail a call
        )
        self._spend: Final = self._client.register_script(_SPEND)
        self._spend_seconds: Final = spend_seconds
        self._asked: list[_Asked] = []
        self._counting: asyncio.Task[None] | None = None

    async def spend(self, charges: Sequence[Charge]) -> None:
        answered: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._asked.append((charges, answered))
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count(), context=Context())
        if (refusal := await answered) is not None:
            raise refusal

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()

    async def _count(self) -> None:
        while self._asked:
            batch, self._asked = self._asked[:MAX_BATCH], self._asked[MAX_BATCH:]
            try:
                answers = await self._count_at_once([charges for charges, _ in batch])
            except CountersUnreachable as silence:
                # Not one timeout after the other for all who wait.
                everybody, self._asked = batch + self._asked, []
                for _, answered in everybody:
                    _tell(answered, CountersUnreachable(str(silence)))
            else:
                for (charges, answered), (refused, wait_us) in zip(batch, answers, strict=True):
                    _tell(answered, charges[refused - 1].refused(wait_us) if refused else None)

    async def _count_at_once(self, calls: Sequence[Sequence[Charge]]) -> Sequence[tuple[int, int]]:
        """Return for each call which of its charges refuses, from 1 on, or 0, and how many microseconds it has to wait."""
        charges = [charge for call in calls for charge in call]
        arguments = [MINUTE_US, *(charge.limit.interval_us for charge in charges), *(len(call) for call in calls)]
        try:
            async with asyncio.timeout(self._spend_seconds):
                answers: Sequence[tuple[int, int]] = await self._spend([PREFIX + charge.key for charge in charges], arguments)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise CountersUnreachable(type(error).__name__) from error
        return answers


def _tell(answered: asyncio.Future[_Answer], answer: _Answer) -> None:
    if not answered.done():  # else its caller hung up
        answered.set_result(answer)
