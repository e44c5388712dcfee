"""From a call to its audit row."""

import asyncio
from collections.abc import Hashable
from datetime import datetime
from typing import Final
from uuid import UUID

from mosaic_common.audit import AuditRow, Event
from mosaic_common.audit import Outcome as RowOutcome
from mosaic_common.auth import Principal
from mosaic_common.clock import Clock
from mosaic_common.decision import Verb
from mosaic_common.errors import AuthRefused, Code, Layer, MosaicError, Reason
from mosaic_common.identity import PeerCertificate, ServiceIdentity
from mosaic_common.rpc.call import Call, Caller, Outcome

from mosaic_federation_edge.adapters.audit_writer import AuditWriter
from mosaic_federation_edge.domain.counted_refusals import CountedRefusals

COUNT_SECONDS: Final = 1.0
_OK: Final = 0
_COUNTED_LINE: Final = "counted refusals"
_FINGERPRINT_DIGITS: Final = 32
# Nobody was refused: something of ours, or a method without its code.
_ERRORS: Final = frozenset({Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.DATA_LOSS})


class AuditRecorder:
    """One row per call, or per second for refusals that cost their sender nothing."""

    def __init__(self, writer: AuditWriter, clock: Clock) -> None:
        self._writer: Final = writer
        self._clock: Final = clock
        self._counted: Final = CountedRefusals()

    async def record(self, call: Call, outcome: Outcome) -> None:
        """Return when the row is durable; at once for a refusal that is only counted.

        Raises:
            Unavailable: it is not durable.
        """
        row = audit_row(call, outcome, self._clock.now())
        if outcome.error is not None and _is_counted(call, outcome.error):
            self._counted.count(row)
        else:
            await self._writer.append(row, _line_of(call))

    async def run(self) -> None:
        """Write what was counted, once a second, for ever."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            self.post_counted()

    def post_counted(self) -> None:
        for row in self._counted.harvest():
            self._writer.post(row, _COUNTED_LINE)


def audit_row(call: Call, outcome: Outcome, now: datetime) -> AuditRow:
    """The row of a finished call."""
    error, facts = outcome.error, call.facts
    return AuditRow(
        request_id=call.request_id,
        time_us=int(now.timestamp()) * 1_000_000 + now.microsecond,
        event=Event(call.method.audit),
        actor=_actor(call.caller),
        source_address=call.source_address,
        peer_id=facts.peer_id,
        grant_id=facts.grant_id,
        subject_user_id=facts.subject_user_id,
        token_id=facts.token_id,
        verb=Verb(facts.verb) if facts.verb else None,
        resource=facts.resource,
        outcome=_outcome(error),
        denied_layer=error.layer if error else None,
        denied_reason=error.reason if error else None,
        status_code=error.status.code.value if error else _OK,
        result_count=0 if error else facts.result_count,
        bytes_out=outcome.bytes_out,
        query_hash=facts.query_hash,
        latency_us=outcome.latency_us,
    )


def _outcome(error: MosaicError | None) -> RowOutcome:
    if error is None:
        return RowOutcome.ALLOWED
    return RowOutcome.ERROR if error.status.code in _ERRORS else RowOutcome.DENIED


def _actor(caller: Caller) -> str:
    match caller:
        case PeerCertificate():
            return f"certificate:{caller.fingerprint.hex()[:_FINGERPRINT_DIGITS]}"
        case Principal():
            return caller.subject
        case ServiceIdentity():
            return caller.name
        case None:
            return ""


def _is_counted(call: Call, error: MosaicError) -> bool:
    """Whether the sender could make any number of these: before it spent a token, or showed who it is."""
    return (
        (error.reason is Reason.RATE_LIMITED and error.layer is Layer.SOURCE)
        or error.reason is Reason.MESSAGE_MALFORMED
        or (isinstance(error, AuthRefused) and call.caller is None)
    )


def _line_of(call: Call) -> Hashable:
    """Whose queue line the row stands in: the peer's, the user's, or else the address's."""
    line: UUID | str = call.facts.peer_id or call.facts.grant_id or _actor(call.caller) or call.source_address
    return line
