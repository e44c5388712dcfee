"""Valkey, as this service's own user and under its own prefix: buckets that all replicas share."""

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from mosaic_common.shared_counters import CountersUnreachable
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mosaic_federation_edge.domain.charges import (
    AHEAD_PART,
    FIRST_HORIZONS,
    KEPT_US,
    MAX_BOOKINGS,
    Answer,
    Charge,
    Pace,
    Refused,
    Taken,
)

PREFIX: Final = "edge-inbound:"
MAX_BATCH: Final = 128
PING_SECONDS: Final = 1.0
# A busy machine takes a tenth of a second now and then, and falling over to the strict part costs honest callers more than that.
TAKE_SECONDS: Final = 0.25

# What domain/charges.py takes, one call after the other and by one clock for all replicas. A key holds its arrival and interval,
# then due time and weight of each booking; it expires when its bucket is full again and its last booking forfeited.
# KEYS: grant and peer of each call. ARGV: four constants, then for each call weight, ahead, and interval, burst, horizon of both.
_TAKE: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local kept, most, part, horizons = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local function load(key, first)
  local bucket = {key = key, bookings = {}}
  bucket.interval, bucket.burst, bucket.horizon = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2])
  local numbers = string.gmatch(redis.call('GET', key) or '0 1', '%d+')
  local taken, interval = math.max(0, numbers() - now), tonumber(numbers())
  local counted = math.min(math.floor(taken * bucket.interval / interval), bucket.burst + horizons * bucket.horizon)
  bucket.start, bucket.differs = now + counted, counted ~= taken
  for due in numbers do
    table.insert(bucket.bookings, {due = tonumber(due), weight = tonumber(numbers())})
  end
  return bucket
end

local function store(bucket, arrival)
  local numbers, life = {string.format('%.0f %d', arrival, bucket.interval)}, arrival - now
  for _, booking in ipairs(bucket.bookings) do
    table.insert(numbers, string.format('%.0f %d', booking.due, booking.weight))
    life = math.max(life, booking.due + kept - now)
  end
  redis.call('SET', bucket.key, table.concat(numbers, ' '), 'PX', math.max(1, math.ceil(life / 1000)))
end

local function take(grant, peer, weight, ahead)
  local furthest, bookings, ripe = now + horizons * math.max(grant.horizon, peer.horizon), {}, false
  for _, booking in ipairs(grant.bookings) do
    if not ripe and weight == booking.weight and now - kept < booking.due and booking.due <= now then
      ripe = true
    elseif now - kept < booking.due and booking.due <= furthest then
      table.insert(bookings, booking)
    end
  end
  grant.bookings = bookings
  if ripe then
    store(grant, grant.start)
    return {1, 0}
  end

  local wait, beyond = -math.huge, -math.huge
  for _, bucket in ipairs({grant, peer}) do
    bucket.arrival = bucket.start + weight * bucket.interval
    bucket.wait = bucket.arrival - now - bucket.burst
    wait = math.max(wait, bucket.wait)
    beyond = math.max(beyond, bucket.wait - bucket.horizon * (#bookings > 0 and 1 or horizons))
  end
  if wait <= 0 then
    for _, bucket in ipairs({grant, peer}) do
      ahead = math.min(ahead, math.floor(math.floor(-bucket.wait / bucket.interval) / part))
    end
    store(grant, grant.arrival + ahead * grant.interval)
    store(peer, peer.arrival + ahead * peer.interval)
    return {1, ahead}
  end
  if weight == 0 then
    return {1, 0}
  end

  if beyond > 0 or #bookings >= most then
    local full = beyond > 0 and beyond or math.huge
    for _, booking in ipairs(bookings) do
      full = math.min(full, booking.due - now)
    end
    for _, bucket in ipairs({grant, peer}) do
      if bucket.differs then
        store(bucket, bucket.start)
      end
    end
    return {0, wait, math.max(0, full)}
  end
  table.insert(bookings, {due = now + wait, weight = weight})
  store(grant, grant.arrival)
  store(peer, peer.arrival)
  return {0, wait, 0}
end

local answers = {}
for call = 1, #KEYS / 2 do
  local first = 8 * call - 3
  local grant, peer = load(KEYS[2 * call - 1], first + 2), load(KEYS[2 * call], first + 5)
  answers[call] = take(grant, peer, tonumber(ARGV[first]), tonumber(ARGV[first + 1]))
end
return answers
"""

_Asked = tuple[Charge, int, asyncio.Future[Answer]]


class Valkey:
    """Answers whether it is there. Connects at the first question, and again after an outage."""

    def __init__(self, url: str) -> None:
        self._client: Final[Redis] = Redis.from_url(
            url,
            socket_timeout=PING_SECONDS,
            socket_connect_timeout=PING_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a restart leaves a connection behind that is dead, and would fail a call
        )

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()


class ValkeyCounters(Valkey):
    """Counts for all replicas; what has come while the last round trip ran goes into the next one, on one connection.

    With a connection for each call a flood makes a Valkey that is well look dead (tried, services/enrollment).
    """

    def __init__(self, url: str, take_seconds: float = TAKE_SECONDS) -> None:
        super().__init__(url)
        self._take: Final = self._client.register_script(_TAKE)
        self._take_seconds: Final = take_seconds
        self._asked: list[_Asked] = []
        self._counting: asyncio.Task[None] | None = None

    async def take(self, charge: Charge, ahead: int) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked.append((charge, ahead, answered))
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count(), context=Context())
        return await answered

    async def _count(self) -> None:
        while self._asked:
            batch, self._asked = self._asked[:MAX_BATCH], self._asked[MAX_BATCH:]
            try:
                answers = await self._count_at_once(batch)
            except CountersUnreachable as silence:
                # Not one timeout after the other for all who wait.
                everybody, self._asked = batch + self._asked, []
                for _, _, answered in everybody:
                    if not answered.done():
                        answered.set_exception(CountersUnreachable(str(silence)))
            else:
                for (_, _, answered), answer in zip(batch, answers, strict=True):
                    if not answered.done():  # else its caller hung up
                        answered.set_result(_parse(answer))

    async def _count_at_once(self, batch: Sequence[_Asked]) -> Sequence[Sequence[int]]:
        """Return for each call 1 and how many tokens were taken ahead, or 0, its wait and for how long nothing can be booked."""
        keys: list[str] = []
        arguments: list[int] = [KEPT_US, MAX_BOOKINGS, AHEAD_PART, FIRST_HORIZONS]
        for charge, ahead, _ in batch:
            keys += (f"{PREFIX}grant:{charge.grant_id}", f"{PREFIX}peer:{charge.peer_id}")
            arguments += (charge.weight, ahead)
            for pace in (Pace.of(charge.grant), Pace.of(charge.peer)):
                arguments += (pace.interval_us, pace.burst_us, pace.horizon_us)
        try:
            async with asyncio.timeout(self._take_seconds):
                answers: Sequence[Sequence[int]] = await self._take(keys, arguments)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise CountersUnreachable(type(error).__name__) from error
        return answers


def _parse(answer: Sequence[int]) -> Answer:
    if answer[0]:
        return Taken(answer[1])
    return Refused(answer[1], answer[2])
