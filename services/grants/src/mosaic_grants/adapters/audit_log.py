"""This process's own audit chain.

A row is written in the transaction whose deed it records, so neither exists without the other. Rows of one chain are
sequential: whoever writes one holds the chain until its transaction has ended.
"""

import asyncio
import secrets
from typing import Any, Final

import asyncpg
from mosaic_common.audit import AuditRow, Chain, Head, HeadSigner, SealedRow, SignedHead
from mosaic_common.audit_heads import CHAIN_ID_BYTES
from mosaic_common.clock import Clock
from mosaic_common.db.audit_rows import audit_entries
from mosaic_common.db.sqlstates import AUDIT_CHAIN_NOT_OPEN, AUDIT_HASH_WRONG, AUDIT_NOT_CONTINUOUS, AUDIT_ROW_NOT_PERMITTED
from mosaic_common.errors import Layer, Reason, Unavailable
from mosaic_common.log import logger

from mosaic_grants.adapters.audit_rounds import AuditRounds

_APPEND: Final = "SELECT federation.append_audit($1, $2, $3, $4)"
# The number has no gaps: it is drawn under a lock, not from a sequence, which a rollback would leave a hole in.
_LOCK_NUMBERS: Final = "SELECT pg_advisory_xact_lock(hashtext('federation_audit_chains'))"
_NEXT_NUMBER: Final = "SELECT coalesce(max(chain_number), 0) + 1 FROM federation.federation_audit_chains"
_OPEN: Final = """
    INSERT INTO federation.federation_audit_chains
           (chain_id, chain_number, writer, opened_at_us, opening_hash, opening_signature, head_seq, head_hash)
       VALUES ($1, $2, $3, $4, $5, $6, 0, $5)"""
# Waits for a commit that is still under way: whoever asked for it has hung up, and the lock of this process is free again.
_HEAD: Final = (
    "SELECT head_seq, head_hash, head_time_us FROM federation.federation_audit_chains WHERE chain_id = $1 FOR NO KEY UPDATE"
)


class AuditLog:
    """Opens chains, and appends to its own."""

    def __init__(self, signer: HeadSigner, clock: Clock) -> None:
        self.rounds = AuditRounds(signer, clock)
        self._signer = signer
        self._clock = clock
        self._chain: Chain | None = None
        self._certain = True
        self._log = logger("audit")
        self.lock = asyncio.Lock()

    async def open(self, connection: Any, writer: str) -> SignedHead:
        """Open a chain for a writer process and return its countersigned opening."""
        chain_id, time_us = secrets.token_bytes(CHAIN_ID_BYTES), self._now_us()
        await connection.execute(_LOCK_NUMBERS)
        number = await connection.fetchval(_NEXT_NUMBER)
        chain = Chain.opened(chain_id, number, time_us)
        signed = self._signer.sign(Head(chain_id, number, 0, chain.head, time_us))
        await connection.execute(_OPEN, chain_id, number, writer, time_us, chain.head, signed.signature)
        return signed

    async def append(self, connection: Any, rows: list[AuditRow]) -> list[SealedRow]:
        """Append rows to this process's chain. The caller holds the lock until the transaction has ended."""
        if self._chain is None:
            head = (await self.open(connection, "grants")).head
            chain = Chain(head.chain_id, head.seq, head.hash, head.time_us)
        else:
            chain = await self._continued(connection, self._chain)
        first, sealed = chain, []
        for row in rows:
            sealed.append(chain.append(row))
            chain = chain.after(sealed[-1])
        try:
            await connection.execute(_APPEND, first.chain_id, first.seq + 1, first.head, audit_entries(sealed))
        except asyncpg.PostgresError as error:
            if error.sqlstate in {AUDIT_NOT_CONTINUOUS, AUDIT_CHAIN_NOT_OPEN}:
                # Closed, or behind after a failover: what it holds stays; the next row opens another.
                self._log.error("audit_chain_lost", chain_id=first.chain_id.hex(), seq=first.seq)
                self._chain = None
            if error.sqlstate in {AUDIT_ROW_NOT_PERMITTED, AUDIT_HASH_WRONG}:
                self._log.error("audit_rows_refused", cause=f"{error.sqlstate}: {error}")
                # Not a defect that may end the process: enrollments and the edges' views of grants need no row of ours.
                raise _refused(error) from error
            raise
        self._certain = False
        return sealed

    def committed(self, sealed: list[SealedRow]) -> None:
        """Move the head: the transaction that appended these rows has been committed."""
        last = sealed[-1]
        self._chain = Chain(last.chain_id, last.seq, last.hash, last.row.time_us)
        self._certain = True

    async def _continued(self, connection: Any, chain: Chain) -> Chain:
        if self._certain:
            return chain
        # A transaction ended without an answer: the database knows whether it was committed.
        row = await connection.fetchrow(_HEAD, chain.chain_id)
        return Chain(chain.chain_id, row.head_seq, row.head_hash, chain.time_us if row.head_time_us is None else row.head_time_us)

    def _now_us(self) -> int:
        return int(self._clock.now().timestamp() * 1_000_000)


def _refused(error: asyncpg.PostgresError) -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        f"The audit log takes no row of this service ({error.sqlstate}), so nothing is done.",
        layer=Layer.DEPENDENCY,
        remedy="Set the clocks of this machine and of the database, and restart grants; its log has the line audit_rows_refused.",
        metadata={"dependency": "audit"},
    )
