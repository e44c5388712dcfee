"""Everything that a verification of the audit log needs, piece by piece, while it grows.

What is countersigned is bounded by the last round at a moment after the heads of grants were read, so that each of those can be
recomputed from what follows. Rows are bounded by time: within a chain it never goes back, so each chain is cut at one place.
"""

from typing import Final
from uuid import UUID

from mosaic_common.audit import Head, SealedRow
from mosaic_common.audit_heads import GrantHead, MonthEnd, SignedGrantHead, SignedMonthEnd

from mosaic_grants.adapters.ledger.audit_rows import COLUMNS, sealed_of
from mosaic_grants.adapters.ledger.statements import Statements
from mosaic_grants.domain.audit_reading import Bounds, Opening, ReceivedHead

_AHEAD_US: Final = 300_000_000
"""How far append_audit lets a row be ahead of the database's clock."""


class AuditExport:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def count_rows(self) -> int:
        """How many rows there are, or a few more: those that were dropped are known as far as months were closed."""
        row = await self._sql.one(
            """SELECT coalesce(sum(c.head_seq), 0)::bigint AS rows FROM federation.federation_audit_chains c"""
        )
        return int(row["rows"])

    async def bounds(self) -> Bounds:
        row = await self._sql.one(
            f"""SELECT coalesce((SELECT max(chain_number) FROM federation.federation_audit_chains), 0) AS last_chain,
                       coalesce((SELECT max(time_us) FROM federation.federation_audit_heads), 0) AS last_round_us,
                       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {_AHEAD_US} AS rows_until_us"""  # noqa: S608 - a constant
        )
        return Bounds(row.last_chain, row.last_round_us, row.rows_until_us)

    async def list_grant_heads(self, *, after: tuple[UUID, int], limit: int) -> list[SignedGrantHead]:
        """Return heads of grants, in the order of grant and rows, after one of so many rows."""
        rows = await self._sql.all(
            """SELECT grant_id, rows, hash, time_us, signature FROM federation.federation_audit_grant_heads
               WHERE grant_id >= :grant AND (grant_id, rows) > (:grant, :rows) ORDER BY grant_id, rows LIMIT :limit""",
            grant=after[0],
            rows=after[1],
            limit=limit,
        )
        return [SignedGrantHead(GrantHead(row.grant_id, row["rows"], row["hash"], row.time_us), row.signature) for row in rows]

    async def list_openings(self, *, after: int, through: int, limit: int) -> list[Opening]:
        rows = await self._sql.all(
            """SELECT chain_id, chain_number, writer, opened_at_us, opening_hash, opening_signature
               FROM federation.federation_audit_chains
               WHERE chain_number > :after AND chain_number <= :through ORDER BY chain_number LIMIT :limit""",
            after=after,
            through=through,
            limit=limit,
        )
        return [Opening(*row.values()) for row in rows]

    async def list_rows(self, chain_id: bytes, *, after_seq: int, bounds: Bounds, limit: int) -> list[SealedRow]:
        rows = await self._sql.all(
            f"""SELECT {COLUMNS} FROM federation.federation_audit_log l
                WHERE l.chain_id = :chain AND l.seq > :after AND l.time_us <= :until ORDER BY l.seq LIMIT :limit""",  # noqa: S608 - constants
            chain=chain_id,
            after=after_seq,
            until=bounds.rows_until_us,
            limit=limit,
        )
        return [sealed_of(row) for row in rows]

    async def list_heads(self, chain_id: bytes, *, after_seq: int, through_seq: int, bounds: Bounds) -> list[tuple[Head, bytes]]:
        rows = await self._sql.all(
            """SELECT chain_id, chain_number, seq, hash, time_us, signature FROM federation.federation_audit_heads
               WHERE chain_id = :chain AND seq > :after AND seq <= :through AND time_us <= :last_round ORDER BY seq""",
            chain=chain_id,
            after=after_seq,
            through=through_seq,
            last_round=bounds.last_round_us,
        )
        return [(Head(*places), signature) for *places, signature in rows]

    async def list_month_ends(self, chain_id: bytes, *, after_seq: int, through_seq: int) -> list[SignedMonthEnd]:
        rows = await self._sql.all(
            """SELECT chain_id, chain_number, seq, hash, ends_us, time_us, signature FROM federation.federation_audit_month_ends
               WHERE chain_id = :chain AND seq > :after AND seq <= :through ORDER BY seq, ends_us""",
            chain=chain_id,
            after=after_seq,
            through=through_seq,
        )
        return [SignedMonthEnd(MonthEnd(*places), signature) for *places, signature in rows]

    async def list_received(self, *, after: tuple[UUID, int], limit: int) -> list[ReceivedHead]:
        rows = await self._sql.all(
            """SELECT r.*, coalesce(p.name, '') AS connection
               FROM federation.federation_received_grant_heads r LEFT JOIN federation.federation_peers p ON p.id = r.peer_id
               WHERE (r.peer_id, r.received_at_us) > (:peer, :received) ORDER BY r.peer_id, r.received_at_us LIMIT :limit""",
            peer=after[0],
            received=after[1],
            limit=limit,
        )
        return [
            ReceivedHead(
                row.peer_id,
                row.connection,
                row.received_at_us,
                SignedGrantHead(GrantHead(row.grant_id, row["rows"], row["hash"], row.time_us), row.signature),
            )
            for row in rows
        ]
