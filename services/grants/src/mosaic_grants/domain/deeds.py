"""Audit rows of what grants does by itself: nobody called, but somebody will ask."""

from datetime import datetime
from uuid import UUID, uuid4

from mosaic_common.audit import AuditRow, Event, Outcome
from mosaic_common.errors import Layer, Reason
from mosaic_common.identity import GRANTS

from mosaic_grants.domain.model import Grant


def deed(
    event: Event,
    now: datetime,
    *,
    grant: Grant | None = None,
    peer_id: UUID | None = None,
    token_id: bytes | None = None,
    reason: Reason | None = None,
    layer: Layer | None = None,
    resource: str = "",
    count: int = 0,
) -> AuditRow:
    """Return the row of a deed; with a reason, of something that grants will not have."""
    return AuditRow(
        request_id=uuid4(),
        time_us=int(now.timestamp() * 1_000_000),
        event=event,
        actor=GRANTS,
        source_address="",
        peer_id=grant.peer_id if grant else peer_id,
        grant_id=grant.id if grant else None,
        subject_user_id=grant.subject_user_id if grant else None,
        token_id=token_id,
        resource=resource,
        outcome=Outcome.DENIED if reason else Outcome.ALLOWED,
        denied_layer=layer,
        denied_reason=reason,
        status_code=0,
        result_count=count,
    )
