"""Refusals of this door's own, recorded by grants: one row per known token, source and second; they cost their sender nothing."""

import asyncio
from collections import defaultdict
from typing import Final

from mosaic_common.audit import AuditRow, Event
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
        # By token, so that the row can name it. Only tokens that grants knows are facts of a call, which bounds them.
        self._counted: defaultdict[bytes | None, CountedRefusals] = defaultdict(CountedRefusals)
        self._log: Final = logger("recorder")

    async def record(self, call: Call, outcome: Outcome) -> None:
        if outcome.error is not None:
            row = audit_row(call, Event.ENROLLMENT_REFUSED, self._clock.now(), error=outcome.error)
            self._counted[call.facts.token_id].count(row)

    async def run(self) -> None:
        """Hand over what was counted, once a second, for ever; what grants does not take stays counted."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            counted, self._counted = self._counted, defaultdict(CountedRefusals)
            for token_id, refusals in counted.items():
                for row in refusals.harvest():
                    await self._hand_over(row, token_id)

    async def _hand_over(self, row: AuditRow, token_id: bytes | None) -> None:
        try:
            await self._grants.record(
                row.denied_reason or Reason.INTERNAL,
                row.denied_layer,
                row.source_address,
                token_id=token_id or b"",
                repeated=row.repeated,
            )
        except MosaicError as error:
            self._counted[token_id].count(row)
            self._log.warning("refusal_not_recorded", cause=error.message, refusals=row.repeated)
