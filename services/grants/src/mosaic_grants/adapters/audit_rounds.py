"""Countersigning: rounds over all chains with what they say of each grant, and where chains stood when a month ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from mosaic_common.audit import Head, HeadSigner, SignedHead
from mosaic_common.audit_heads import LATE, GrantHead, MonthEnd, month_after, month_start
from mosaic_common.clock import Clock

# One replica at a time: a grant's history has one order.
_TAKE_TURN: Final = "SELECT pg_advisory_xact_lock(hashtext('federation_audit_rounds'))"
_LAST_ROUND: Final = "SELECT max(time_us) FROM federation.federation_audit_heads"
_AWAKE: Final = """
    SELECT c.chain_id, c.chain_number, c.head_seq, c.head_hash, s.seq AS signed_seq
       FROM federation.federation_audit_chains c
       CROSS JOIN LATERAL (SELECT coalesce(max(h.seq), 0) AS seq FROM federation.federation_audit_heads h
                           WHERE h.chain_id = c.chain_id) s
       WHERE c.moved"""
# Only what nobody is writing to: a writer that keeps its transaction open must not hold up the rounds. The next one comes by again.
_FALL_ASLEEP: Final = """
    UPDATE federation.federation_audit_chains SET moved = false
       WHERE chain_id IN (SELECT c.chain_id FROM unnest($1::bytea[], $2::bigint[]) AS signed (chain_id, seq)
                          JOIN federation.federation_audit_chains c ON c.chain_id = signed.chain_id AND c.head_seq = signed.seq
                          FOR NO KEY UPDATE OF c SKIP LOCKED)"""
_SIGN: Final = """
    INSERT INTO federation.federation_audit_heads (chain_id, chain_number, seq, hash, time_us, signature)
       VALUES ($1, $2, $3, $4, $5, $6)"""
_COVERED: Final = """
    SELECT l.grant_id, l.time_us, l.hash
       FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[]) AS moved (chain_id, chain_number, after_seq, through_seq)
       JOIN federation.federation_audit_log l
         ON l.chain_id = moved.chain_id AND l.seq > moved.after_seq AND l.seq <= moved.through_seq
       WHERE l.grant_id IS NOT NULL
       ORDER BY l.grant_id, moved.chain_number, l.seq"""
_STANDING: Final = """
    SELECT DISTINCT ON (grant_id) grant_id, rows, hash, time_us FROM federation.federation_audit_grant_heads
       WHERE grant_id = ANY($1) ORDER BY grant_id, rows DESC"""
# Rounds from before there were heads of grants, for a grant that has none.
_EARLIER: Final = """
    SELECT l.grant_id, signed.time_us, l.hash
       FROM federation.federation_audit_log l
       JOIN federation.federation_audit_chains c ON c.chain_id = l.chain_id
       CROSS JOIN LATERAL (SELECT h.time_us FROM federation.federation_audit_heads h
                           WHERE h.chain_id = l.chain_id AND h.seq >= l.seq ORDER BY h.seq LIMIT 1) signed
       WHERE l.grant_id = ANY($1) AND signed.time_us < $2
       ORDER BY l.grant_id, signed.time_us, c.chain_number, l.seq"""
_STORE: Final = """
    INSERT INTO federation.federation_audit_grant_heads AS stored (grant_id, month, rows, hash, time_us, signature)
       SELECT * FROM unnest($1::uuid[], $2::date[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bytea[])
       ON CONFLICT (grant_id, month) DO UPDATE
       SET rows = excluded.rows, hash = excluded.hash, time_us = excluded.time_us, signature = excluded.signature"""
_PARTITIONS: Final = """
    SELECT split_part(inhrelid::regclass::text, 'federation_audit_log_', 2) FROM pg_inherits
       WHERE inhparent = 'federation.federation_audit_log'::regclass
         AND inhrelid::regclass::text ~ 'federation_audit_log_[0-9]{4}_[0-9]{2}$'"""
_ENDED: Final = """
    SELECT c.chain_id, c.chain_number, last.seq, last.hash
       FROM federation.federation_audit_chains c
       CROSS JOIN LATERAL (SELECT l.seq, l.hash FROM federation.federation_audit_log l
                           WHERE l.chain_id = c.chain_id AND l.time_us >= $1 AND l.time_us < $2 ORDER BY l.seq DESC LIMIT 1) last
       WHERE NOT EXISTS (SELECT FROM federation.federation_audit_month_ends e
                         WHERE e.chain_id = c.chain_id AND e.ends_us = $2 AND e.seq >= last.seq)"""
_SIGN_END: Final = """
    INSERT INTO federation.federation_audit_month_ends (chain_id, ends_us, chain_number, seq, hash, time_us, signature)
       VALUES ($1, $2, $3, $4, $5, $6, $7)"""


@dataclass(frozen=True, slots=True)
class _Covered:
    """One grant's rows that a round covers.

    Attributes:
        month: of the oldest of them: once that month is dropped, its history begins after this round at the earliest.
    """

    grant_id: UUID
    month: date
    hashes: Sequence[bytes]


class AuditRounds:
    """Signs with the gateway's audit key; everything within the transaction of the given connection."""

    def __init__(self, signer: HeadSigner, clock: Clock) -> None:
        self._signer: Final = signer
        self._clock: Final = clock

    async def countersign(self, connection: Any) -> list[SignedHead]:
        """Sign every head that moved since its last signature, and the heads of the grants whose rows are among them."""
        await connection.execute(_TAKE_TURN)
        awake = await connection.fetch(_AWAKE)
        moved = [row for row in awake if row.head_seq > row.signed_seq]
        if still := [row for row in awake if row.head_seq == row.signed_seq]:
            await connection.execute(_FALL_ASLEEP, [row.chain_id for row in still], [row.signed_seq for row in still])
        if not moved:
            return []
        time_us = max(self._now_us(), (await connection.fetchval(_LAST_ROUND) or 0) + 1)
        signed = [self._signer.sign(Head(row.chain_id, row.chain_number, row.head_seq, row.head_hash, time_us)) for row in moved]
        await connection.executemany(_SIGN, [_head_columns(each) for each in signed])
        columns = ("chain_id", "chain_number", "signed_seq", "head_seq")
        covered = await connection.fetch(_COVERED, *([row[name] for row in moved] for name in columns))
        await self._countersign_grants(connection, _by_grant(covered), time_us)
        return signed

    async def close_months(self, connection: Any) -> list[MonthEnd]:
        """Sign where each chain stood at the end of every month that is over, where that is not signed yet."""
        await connection.execute(_TAKE_TURN)
        over, ends = self._clock.now() - LATE, []
        for [name] in await connection.fetch(_PARTITIONS):
            month = datetime.strptime(name, "%Y_%m").replace(tzinfo=UTC)
            if month_after(month) > over:
                continue
            ends_us = _micros(month_after(month))
            for row in await connection.fetch(_ENDED, _micros(month), ends_us):
                end = MonthEnd(row.chain_id, row.chain_number, row.seq, row.hash, ends_us, self._now_us())
                signature = self._signer.sign_month_end(end).signature
                await connection.execute(
                    _SIGN_END, end.chain_id, end.ends_us, end.chain_number, end.seq, end.hash, end.time_us, signature
                )
                ends.append(end)
        return ends

    async def _countersign_grants(self, connection: Any, covered: Sequence[_Covered], time_us: int) -> None:
        if not covered:
            return
        standing = await self._standing(connection, [each.grant_id for each in covered], time_us)
        signed = [self._signer.sign_grant_head(standing[each.grant_id].after(each.hashes, time_us)) for each in covered]
        heads = [each.head for each in signed]
        await connection.execute(
            _STORE,
            [head.grant_id for head in heads],
            [each.month for each in covered],
            [head.rows for head in heads],
            [head.hash for head in heads],
            [head.time_us for head in heads],
            [each.signature for each in signed],
        )

    async def _standing(self, connection: Any, grant_ids: Sequence[UUID], before_us: int) -> dict[UUID, GrantHead]:
        """Where each grant's history stood before this round."""
        standing = {row.grant_id: GrantHead(*row) for row in await connection.fetch(_STANDING, grant_ids)}
        unknown = [each for each in grant_ids if each not in standing]
        standing |= {each: GrantHead.beginning(each) for each in unknown}
        if unknown:
            rows = await connection.fetch(_EARLIER, unknown, before_us)
            for (grant_id, time_us), together in groupby(rows, key=lambda row: (row.grant_id, row.time_us)):
                standing[grant_id] = standing[grant_id].after((row.hash for row in together), time_us)
        return standing

    def _now_us(self) -> int:
        return int(self._clock.now().timestamp() * 1_000_000)


def _by_grant(rows: Sequence[Any]) -> list[_Covered]:
    covered = []
    for grant_id, together in groupby(rows, key=lambda row: row.grant_id):
        own = list(together)
        covered.append(_Covered(grant_id, month_start(min(row.time_us for row in own)).date(), [row.hash for row in own]))
    return covered


def _head_columns(signed: SignedHead) -> tuple[object, ...]:
    head = signed.head
    return head.chain_id, head.chain_number, head.seq, head.hash, head.time_us, signed.signature


def _micros(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000
