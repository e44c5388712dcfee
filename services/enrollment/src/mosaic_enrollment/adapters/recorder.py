"""Refusals of this door's own, recorded by grants: one row per source and second, because they cost their sender nothing."""

import asyncio
from typing import Final

from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.errors import MosaicError, Reason
from mosaic_common.log import logger
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call, Outcome
from mosaic_common.rpc.counted_refusals import CountedRefusals

from mosaic_enrollment.adapters.services import Grants

COUNT_SECONDS: Final = 1.0


class RefusalRecorder:
    """Counts what was refused before grants heard of it."""

    def __init__(self, grants: Grants, clock: Clock) -> None:
        self._grants: Final = grants
        self._clock: Final = clock
        self._counted: Final = CountedRefusals()
        self._log: Final = logger("recorder")

    async def record(self, call: Call, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._counted.count(audit_row(call, Event.ENROLLMENT_REFUSED, self._clock.now(), error=outcome.error))

    async def run(self) -> None:
        """Hand over what was counted, once a second, for ever; what grants does not take stays counted."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            for row in self._counted.harvest():
                try:
                    await self._grants.record(
                        row.denied_reason or Reason.INTERNAL, row.denied_layer, row.source_address, repeated=row.repeated
                    )
                except MosaicError as error:
                    self._counted.count(row)
                    self._log.warning("refusal_not_recorded", cause=error.message, refusals=row.repeated)
