"""Valkey, as this service's own user. So far it is only asked whether it is there; the shared rate limit will live in it."""

from typing import Final

from redis.asyncio import Redis

ANSWER_SECONDS: Final = 2.0


class Valkey:
    """Connects at the first question, and again after an outage."""

    def __init__(self, url: str) -> None:
        self._client: Final[Redis] = Redis.from_url(url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS)

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()
