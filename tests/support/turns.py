"""Two transactions at once, statement by statement in an order that the test draws."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Final

from mosaic_grants.adapters.ledger.statements import Row, Statements

Work = Callable[[], Awaitable[str]]

_BLOCKED_SECONDS: Final = 0.02
_pace: Final[ContextVar[Callable[[], Awaitable[None]] | None]] = ContextVar("pace", default=None)


class PacedStatements(Statements):
    """Waits for its task's turn before each statement; without turns it is the real thing."""

    async def all(self, sql: str, **values: object) -> Sequence[Row]:
        await _take_turn()
        return await super().all(sql, **values)

    async def first(self, sql: str, **values: object) -> Row | None:
        await _take_turn()
        return await super().first(sql, **values)

    async def one(self, sql: str, **values: object) -> Row:
        await _take_turn()
        return await super().one(sql, **values)

    async def execute(self, sql: str, **values: object) -> None:
        await _take_turn()
        await super().execute(sql, **values)

    async def changed(self, sql: str, **values: object) -> bool:
        await _take_turn()
        return await super().changed(sql, **values)


async def _take_turn() -> None:
    pace = _pace.get()
    if pace is not None:
        await pace()


class Turns:
    """Who runs the next statement, 0 or 1. Whoever waits for a row of the other's is not waited for."""

    def __init__(self, order: Iterable[int]) -> None:
        self._order: Final = deque(order)
        self._holder: int | None = None
        self._running: Final = {0, 1}
        self._moved: Final = asyncio.Event()

    async def both(self, first: Work, second: Work) -> tuple[str, str]:
        """Run both and return what they return."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._run(who, work)) for who, work in enumerate((first, second))]
        return running[0].result(), running[1].result()

    async def _run(self, who: int, work: Work) -> str:
        _pace.set(lambda: self._take(who))
        try:
            return await work()
        finally:
            self._pass_on(who)
            self._running.discard(who)
            self._moved.set()

    async def _take(self, who: int) -> None:
        self._pass_on(who)
        try:
            async with asyncio.timeout(_BLOCKED_SECONDS):
                while self._order and self._order[0] != who and len(self._running) == 2:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return  # the other one's statement does not come back: it waits for what this one holds
        if self._order and self._order[0] == who:
            self._holder = who

    def _pass_on(self, who: int) -> None:
        if self._holder == who:
            self._order.popleft()
            self._holder = None
            self._moved.set()
