"""What other gateways said of their own record of our connections' grants."""

from typing import Final
from uuid import UUID

from mosaic_common.audit_heads import GrantHead, SignedGrantHead

from mosaic_grants.adapters.ledger.statements import Statements

KEPT: Final = 10
"""Heads of a connection that are kept, the newest. What contradicts one of them is kept too: as many again."""


class ReceivedHeads:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def list_of(self, peer_id: UUID) -> list[GrantHead]:
        """Return what a connection's other gateway said, newest first; what contradicted it is left out."""
        rows = await self._sql.all(
            """SELECT grant_id, rows, hash, time_us FROM federation.federation_received_grant_heads
               WHERE peer_id = :peer AND NOT contradicts ORDER BY rows DESC""",
            peer=peer_id,
        )
        return [GrantHead(row.grant_id, row["rows"], row["hash"], row.time_us) for row in rows]

    async def add(self, peer_id: UUID, signed: SignedGrantHead, *, contradicts: bool) -> bool:
        """Keep a head, and let go of those that are too many of its kind. Return whether it was not known."""
        head = signed.head
        added = await self._sql.changed(
            """INSERT INTO federation.federation_received_grant_heads
                   (peer_id, grant_id, rows, hash, time_us, signature, received_at_us, contradicts)
               VALUES (:peer, :grant, :rows, :hash, :time_us, :signature,
                       (extract(epoch FROM now()) * 1000000)::bigint, :contradicts) ON CONFLICT DO NOTHING""",
            peer=peer_id,
            grant=head.grant_id,
            rows=head.rows,
            hash=head.hash,
            time_us=head.time_us,
            signature=signed.signature,
            contradicts=contradicts,
        )
        if added:
            await self._sql.execute(
                f"""DELETE FROM federation.federation_received_grant_heads r
                    WHERE r.peer_id = :peer AND r.contradicts = :contradicts AND (r.rows, r.time_us, r.hash) IN (
                        SELECT o.rows, o.time_us, o.hash FROM federation.federation_received_grant_heads o
                        WHERE o.peer_id = :peer AND o.contradicts = :contradicts
                        ORDER BY CASE WHEN o.contradicts THEN -o.received_at_us ELSE o.rows END DESC OFFSET {KEPT})""",  # noqa: S608 - a constant
                peer=peer_id,
                contradicts=contradicts,
            )
        return added
