"""The audit log, as it is read beside a grant or a peer."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from mosaic_grants.adapters.ledger.statements import Row, Statements
from mosaic_grants.domain.model import AuditEntry, Reads

RECENT: Final = 20

_COLUMNS: Final = """
    request_id, time_us, event, actor, source_address, outcome, denied_layer, denied_reason, token_id, verb, resource,
    result_count, repeated
"""


class Records:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def list_recent_of_grant(self, grant_id: UUID) -> list[AuditEntry]:
        return await self._recent("grant_id", grant_id)

    async def list_recent_of_peer(self, peer_id: UUID) -> list[AuditEntry]:
        return await self._recent("peer_id", peer_id)

    async def count_reads(self, grant_id: UUID, *, since: datetime) -> Reads:
        """Count the calls of a grant; refusals that were written as one row count as often as they happened."""
        row = await self._sql.one(
            """SELECT coalesce(sum(repeated), 0)::bigint AS calls,
                      coalesce(sum(repeated) FILTER (WHERE denied_reason = 'RATE_LIMITED'), 0)::bigint AS rate_limited
               FROM federation.federation_audit_log
               WHERE grant_id = :grant AND event = 'read' AND time_us >= :since_us""",
            grant=grant_id,
            since_us=int(since.timestamp() * 1_000_000),
        )
        return Reads(row.calls, row.rate_limited)

    async def list_last_reads(self, peer_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """When each inbound peer last asked for something and was answered, whatever the answer; microseconds since 1970 UTC."""
        rows = await self._sql.all(
            """SELECT p.id, l.time_us FROM unnest(CAST(:peers AS uuid[])) AS p (id)
               CROSS JOIN LATERAL (SELECT time_us FROM federation.federation_audit_log
                                   WHERE peer_id = p.id AND event = 'read' ORDER BY time_us DESC LIMIT 1) l""",
            peers=list(peer_ids),
        )
        return {row.id: int(row.time_us) for row in rows}

    async def _recent(self, column: str, value: UUID) -> list[AuditEntry]:
        rows = await self._sql.all(
            f"""SELECT {_COLUMNS} FROM federation.federation_audit_log
                WHERE {column} = :value ORDER BY time_us DESC, seq DESC LIMIT :limit""",  # noqa: S608 - constants
            value=value,
            limit=RECENT,
        )
        return [_entry(row) for row in rows]


def _entry(row: Row) -> AuditEntry:
    return AuditEntry(
        request_id=row.request_id,
        time_us=row.time_us,
        event=row.event,
        actor=row.actor,
        source_address=row.source_address,
        outcome=row.outcome,
        denied_layer=row.denied_layer,
        denied_reason=row.denied_reason,
        token_id=bytes(row.token_id) if row.token_id else None,
        verb=row.verb,
        resource=row.resource,
        result_count=row.result_count,
        repeated=row.repeated,
    )
