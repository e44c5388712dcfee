"""The audit row of a call."""

import time
from datetime import datetime

from mosaic_common.audit import AuditRow, Event, Outcome
from mosaic_common.errors import Code, MosaicError
from mosaic_common.rpc.call import Call, caller_name

_ERRORS = frozenset({Code.CANCELLED, Code.INTERNAL, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.DATA_LOSS})


def audit_row(
    call: Call,
    event: Event,
    now: datetime,
    *,
    error: MosaicError | None = None,
    bytes_out: int = 0,
    repeated: int = 1,
) -> AuditRow:
    """Return what is recorded of a call, from what its handler found out."""
    facts = call.facts
    return AuditRow(
        request_id=call.request_id,
        time_us=int(now.timestamp() * 1_000_000),
        event=event,
        actor=caller_name(call.caller) or "",
        source_address=call.source_address,
        peer_id=facts.peer_id,
        grant_id=facts.grant_id,
        subject_user_id=facts.subject_user_id,
        token_id=facts.token_id,
        verb=facts.verb,
        resource=facts.resource,
        outcome=_outcome(error),
        denied_layer=error.layer if error else None,
        denied_reason=error.recorded_reason if error else None,
        status_code=error.status.code.value if error else 0,
        result_count=0 if error else facts.result_count,
        bytes_out=bytes_out,
        query_hash=facts.query_hash,
        latency_us=(time.monotonic_ns() - call.started_ns) // 1000,
        repeated=repeated,
    )


def _outcome(error: MosaicError | None) -> Outcome:
    if error is None:
        return Outcome.ALLOWED
    return Outcome.ERROR if error.status.code in _ERRORS else Outcome.DENIED
