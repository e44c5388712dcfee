"""append_audit of schema federation: the only way by which this role writes anything."""

from collections.abc import Sequence
from typing import Final

import asyncpg
from mosaic_common.audit import Chain, SealedRow
from mosaic_common.db.audit_rows import audit_entries
from mosaic_common.db.pool import database_unavailable
from mosaic_common.db.sqlstates import AUDIT_CHAIN_NOT_OPEN, AUDIT_HASH_WRONG, AUDIT_NOT_CONTINUOUS, AUDIT_ROW_NOT_PERMITTED

from mosaic_federation_edge.adapters.audit_writer import ChainLost, RowsRefused
from mosaic_federation_edge.adapters.database import Database

_APPEND: Final = "SELECT federation.append_audit($1, $2, $3, $4)"
# Data exceptions and violated constraints (PostgreSQL, appendix A): no repetition makes these rows acceptable.
_REFUSED_CLASSES: Final = frozenset({"22", "23"})


class PostgresAuditStore:
    """Appends to one chain, over a connection of its own: reads that wait must not hold up what lets answers leave."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def append(self, chain: Chain, rows: Sequence[SealedRow]) -> None:
        try:
            await self._database.fetch_raw(_APPEND, chain.chain_id, chain.seq + 1, chain.head, audit_entries(rows))
        except asyncpg.PostgresError as error:
            if error.sqlstate in {AUDIT_NOT_CONTINUOUS, AUDIT_CHAIN_NOT_OPEN}:
                raise ChainLost(error.sqlstate) from None
            if error.sqlstate in {AUDIT_ROW_NOT_PERMITTED, AUDIT_HASH_WRONG}:
                raise RowsRefused(f"{error.sqlstate}: {error}") from None
            if error.sqlstate and error.sqlstate[:2] in _REFUSED_CLASSES:
                # Without the message: PostgreSQL's own quote what was written.
                raise RowsRefused(error.sqlstate) from None
            raise database_unavailable() from error
