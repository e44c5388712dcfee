"""Calls and their audit rows: one row each, or one per second where a sender could make any number of them."""

import asyncio
from collections.abc import Hashable
from typing import Final

from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call, Outcome, caller_name
from mosaic_common.rpc.counted_refusals import CountedRefusals, is_counted

from mosaic_federation_edge.adapters.audit_writer import AuditWriter

COUNT_SECONDS: Final = 1.0
_COUNTED_LINE: Final = "counted refusals"


class AuditRecorder:
    """Makes the row of a call durable before its answer leaves."""

    def __init__(self, writer: AuditWriter, clock: Clock) -> None:
        self._writer: Final = writer
        self._clock: Final = clock
        self._counted: Final = CountedRefusals()

    async def record(self, call: Call, outcome: Outcome) -> None:
        """Return when the row is durable; at once for a refusal that is only counted.

        Raises:
            Unavailable: it is not durable.
        """
        assert call.method.audit is not None, "the wrapper records methods with an event only"
        row = audit_row(call, Event(call.method.audit), self._clock.now(), error=outcome.error, bytes_out=outcome.bytes_out)
        if outcome.error is not None and is_counted(call, outcome.error):
            self._counted.count(row)
        else:
            await self._writer.append(row, _line_of(call))

    async def run(self) -> None:
        """Write what was counted, once a second, for ever."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await self.post_counted()

    async def post_counted(self) -> None:
        """Hand what was counted to the writer."""
        for row in self._counted.harvest():
            self._writer.post(row, _COUNTED_LINE)


def _line_of(call: Call) -> Hashable:
    """Whose line of the queue the row stands in: the peer's, the caller's, or else the address's."""
    return call.facts.peer_id or call.facts.grant_id or caller_name(call.caller) or call.source_address
