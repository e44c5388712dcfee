"""Audit rows made durable by group commit: what queued while the last commit ran goes with the next one.

No timer delays a row of a quiet gateway. A commit costs the database as much as six rows, though: where the last one had several,
the next one waits a few milliseconds for more, which spares a busy gateway a twentieth of what each call costs (decision 22).

A call waits for its row. The log may say more than what left (a row whose call gave up waiting is still written), never less.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from mosaic_common.audit import AuditRow, Chain, SealedRow
from mosaic_common.errors import Layer, Reason, Unavailable
from mosaic_common.log import logger

from mosaic_federation_edge.domain.fair_queue import FairQueue

CAPACITY: Final = 4096
MAX_BATCH: Final = 256
BUSY_ROWS: Final = 4
GATHER_SECONDS: Final = 0.005
STALLED_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0


class RowsRefused(Exception):
    """The store takes one of these rows never; none of them was written."""


class ChainLost(Exception):
    """The store knows no such chain, or another end of it."""


class AuditStore(Protocol):
    """Where rows become durable."""

    async def append(self, chain: Chain, rows: Sequence[SealedRow]) -> None:
        """Write consecutive rows, all or none. Rows that are there already, identical, are accepted again.

        Raises:
            RowsRefused: none was written, and a repetition would not help.
            ChainLost: they do not continue the chain.
            Unavailable: nobody knows whether they were written.
        """
        ...


class ChainOpener(Protocol):
    """Who starts chains: grants, which alone holds the audit key."""

    async def open(self) -> Chain:
        """Raises Unavailable."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    row: AuditRow
    durable: asyncio.Future[None] | None

    def settle(self, error: Exception | None = None) -> None:
        """Tell the call, if there is one and it still waits."""
        if self.durable is None or self.durable.done():
            return
        if error is None:
            self.durable.set_result(None)
        else:
            self.durable.set_exception(error)


class AuditWriter:
    """This process's own chain and the queue in front of it. `run` is its one writer."""

    def __init__(
        self,
        store: AuditStore,
        chains: ChainOpener,
        *,
        capacity: int = CAPACITY,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store: Final = store
        self._chains: Final = chains
        self._pause: Final = pause
        self._monotonic: Final = monotonic
        self._queue: Final[FairQueue[_Waiting]] = FairQueue(capacity)
        self._arrived: Final = asyncio.Event()
        # What has left the queue and is not certain yet, in the order in which it has to be written; outlives a cancelled `run`.
        self._parts: Final[deque[list[_Waiting]]] = deque()
        self._chain: Chain | None = None
        self._last_size = 0
        self._failing_since: float | None = None
        self._log: Final = logger("audit")

    async def append(self, row: AuditRow, key: Hashable) -> None:
        """Wait until the row is durable.

        Args:
            key: whose line of the queue it stands in.

        Raises:
            Unavailable: it is not, or not yet; the answer must not leave.
        """
        if self._is_stalled():
            self.post(row, key)
            raise _not_durable()
        durable = asyncio.get_running_loop().create_future()
        self._put(_Waiting(row, durable), key)
        await durable

    def post(self, row: AuditRow, key: Hashable) -> None:
        """Queue a row that no answer waits for."""
        self._put(_Waiting(row, None), key)

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            if not self._parts:
                await self._gather()
            await self._write_next()

    async def drain(self) -> None:
        """Write what is left; for a process that ends and whose `run` was cancelled. Gives up when the store does not answer."""
        while (self._parts or self._queue) and self._failing_since is None:
            await self._write_next(attempts=1)

    def _put(self, waiting: _Waiting, key: Hashable) -> None:
        given_way = self._queue.put(key, waiting)
        if given_way is not None:
            self._log.error("audit_queue_full", lost_request_id=str(given_way.row.request_id))
            given_way.settle(_not_durable())
        self._arrived.set()

    async def _gather(self) -> None:
        """Wait for a row; where the last commit had many and fewer have come while it ran, a moment longer for more."""
        if not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        elif len(self._queue) < self._last_size >= BUSY_ROWS:
            await self._pause(GATHER_SECONDS)

    async def _write_next(self, attempts: int | None = None) -> None:
        if not self._parts:
            self._parts.append(self._queue.take(MAX_BATCH))
        part = self._parts[0]
        try:
            written = await self._commit(part, attempts)
        except RowsRefused as refused:
            self._parts.popleft()
            if len(part) == 1:
                # One row that the database never takes must not hold up the log: its own answer is withheld, and it is named here.
                self._log.error("audit_row_refused", request_id=str(part[0].row.request_id), cause=str(refused))
                part[0].settle(_not_durable())
            else:
                middle = len(part) // 2
                self._parts.extendleft([part[middle:], part[:middle]])
            return
        if written:
            self._last_size = len(part)
            self._parts.popleft()
            for waiting in part:
                waiting.settle()

    async def _commit(self, part: Sequence[_Waiting], attempts: int | None) -> bool:
        """Write one part, whatever it takes, and move the chain. False only when the attempts were used up."""
        pause = _FIRST_PAUSE_SECONDS
        while attempts is None or (attempts := attempts - 1) >= 0:
            try:
                if self._chain is None:
                    self._chain = await self._chains.open()
                # A COMMIT whose answer was lost is repeated with identical rows: sealed anew from where the chain stood, they are.
                sealed = _seal(self._chain, part)
                await self._store.append(self._chain, sealed)
            except ChainLost as lost:
                self._log.error("audit_chain_lost", cause=str(lost))
                self._chain = None
            except Unavailable as unavailable:
                if self._failing_since is None:
                    self._log.error("audit_not_written", cause=unavailable.message, remedy=unavailable.remedy)
            else:
                self._chain = self._chain.after(sealed[-1])
                self._failing_since = None
                return True
            self._failed(part)
            await self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return False

    def _failed(self, part: Sequence[_Waiting]) -> None:
        if self._failing_since is None:
            self._failing_since = self._monotonic()
        if self._is_stalled():
            # An outage, not a hiccup: whoever waits hears now that nothing is answered.
            for waiting in (*part, *self._queue):
                waiting.settle(_not_durable())

    def _is_stalled(self) -> bool:
        return self._failing_since is not None and self._monotonic() - self._failing_since > STALLED_SECONDS


def _seal(chain: Chain, part: Sequence[_Waiting]) -> list[SealedRow]:
    sealed: list[SealedRow] = []
    for waiting in part:
        sealed.append(chain.append(waiting.row))
        chain = chain.after(sealed[-1])
    return sealed


def _not_durable() -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        "The audit log cannot be written, so nothing is answered.",
        layer=Layer.DEPENDENCY,
        remedy="Check the database that holds the audit log, and the grants service, which opens its chains.",
        metadata={"dependency": "audit"},
    )
