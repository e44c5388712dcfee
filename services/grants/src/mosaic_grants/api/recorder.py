"""Audit rows of calls that were refused; what was done has written its own."""

import asyncio
from dataclasses import replace
from typing import Final

from mosaic_common.audit import AuditRow, Event
from mosaic_common.clock import Clock
from mosaic_common.errors import MosaicError
from mosaic_common.log import logger
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call, Outcome
from mosaic_common.rpc.counted_refusals import CountedRefusals, is_counted

from mosaic_grants.domain.ports import Ledger

COUNT_SECONDS: Final = 1.0


class RefusalRecorder:
    """Writes one row for each refused call of a method that has an event, and one a second for those that anybody can make."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger: Final = ledger
        self._clock: Final = clock
        self._counted: Final = CountedRefusals()
        self._log: Final = logger("recorder")

    async def record(self, call: Call, outcome: Outcome) -> None:
        if outcome.error is None or call.method.audit is None:
            return
        row = audit_row(call, Event(call.method.audit), self._clock.now(), error=outcome.error)
        # A transaction for every call without a token would let anybody keep the database busy.
        if is_counted(call, outcome.error):
            self._counted.count(row)
        else:
            await self._write([row])

    async def run(self) -> None:
        """Write what was counted, once a second, for ever."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await self.write_counted()

    async def write_counted(self) -> None:
        """Write what was counted; what cannot be written now stays counted."""
        rows = self._counted.harvest()
        if not rows:
            return
        # Dated when they are written: the record takes nothing that is a day old, and an outage may have been longer.
        now_us = int(self._clock.now().timestamp() * 1_000_000)
        try:
            await self._write([replace(row, time_us=now_us) for row in rows])
        except MosaicError as error:
            for row in rows:
                self._counted.count(row)
            self._log.warning("refusals_not_recorded", cause=error.message, refusals=sum(row.repeated for row in rows))

    async def _write(self, rows: list[AuditRow]) -> None:
        async with self._ledger.transaction() as tx:
            for row in rows:
                tx.audit(row)
