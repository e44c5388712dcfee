"""Audit rows of calls that were refused; what was done has written its own."""

from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call, Outcome

from mosaic_grants.domain.ports import Ledger


class RefusalRecorder:
    """Writes one row for each refused call of a method that has an event."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def record(self, call: Call, outcome: Outcome) -> None:
        if outcome.error is None or call.method.audit is None:
            return
        async with self._ledger.transaction() as tx:
            tx.audit(audit_row(call, Event(call.method.audit), self._clock.now(), error=outcome.error))
