"""The audit log, as operators look through it."""

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from mosaic_common.audit import Outcome, SealedRow, stored_row

from mosaic_grants.adapters.ledger.statements import Row, Statements
from mosaic_grants.adapters.schema.functions import AUDIT_COLUMNS
from mosaic_grants.domain.audit_reading import RowFilter, RowPlace

COLUMNS: Final = ", ".join(f"l.{name}" for name in AUDIT_COLUMNS)
# More than any honest request leaves, and no way to have a whole log answered at once.
MOST_OF_ONE_REQUEST: Final = 1000


class AuditRows:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def list_page(self, *, wanted: RowFilter, after: RowPlace | None, limit: int) -> list[SealedRow]:
        """Return rows, newest first."""
        conditions = [*_conditions(wanted)]
        if after is not None:
            conditions.append("(l.time_us, l.chain_id, l.seq) < (:after_time, :after_chain, :after_seq)")
        rows = await self._sql.all(
            f"""SELECT {COLUMNS} FROM federation.federation_audit_log l WHERE {" AND ".join(conditions) or "true"}
                ORDER BY l.time_us DESC, l.chain_id DESC, l.seq DESC LIMIT :limit""",  # noqa: S608 - constants
            peer=wanted.peer_id,
            grant=wanted.grant_id,
            subject=wanted.subject_user_id,
            event=wanted.event,
            reason=wanted.denied_reason,
            request=wanted.request_id,
            actor=wanted.actor,
            since=wanted.since_us,
            until=wanted.until_us,
            after_time=after.time_us if after else None,
            after_chain=after.chain_id if after else None,
            after_seq=after.seq if after else None,
            limit=limit,
        )
        return [sealed_of(row) for row in rows]

    async def list_of_request(self, request_id: UUID) -> list[SealedRow]:
        """Return what is recorded of one request, oldest first."""
        rows = await self._sql.all(
            f"""SELECT {COLUMNS} FROM federation.federation_audit_log l WHERE l.request_id = :request
                ORDER BY l.time_us, l.chain_id, l.seq LIMIT {MOST_OF_ONE_REQUEST}""",  # noqa: S608 - constants
            request=request_id,
        )
        return [sealed_of(row) for row in rows]


def sealed_of(row: Row) -> SealedRow:
    return stored_row(dict(row.items()))


def _conditions(wanted: RowFilter) -> Iterator[str]:
    """Only what was asked for, so that each question finds its own index."""
    if wanted.peer_id is not None:
        yield "l.peer_id = :peer"
    if wanted.grant_id is not None:
        yield "l.grant_id = :grant"
    if wanted.subject_user_id is not None:
        yield "l.subject_user_id = :subject"
    if wanted.event is not None:
        yield "starts_with(l.event, :event)" if wanted.event.endswith(".") else "l.event = :event"
    if wanted.outcome is not None:
        # Spelled out, so that the planner sees whether the index of refusals serves.
        yield f"l.outcome = '{Outcome(wanted.outcome).value}'"
    if wanted.denied_reason is not None:
        yield "l.outcome <> 'allowed' AND l.denied_reason = :reason"
    if wanted.request_id is not None:
        yield "l.request_id = :request"
    if wanted.actor is not None:
        yield "l.actor = :actor"
    if wanted.since_us is not None:
        yield "l.time_us >= :since"
    if wanted.until_us is not None:
        yield "l.time_us < :until"
