"""append_audit of schema federation: the only way by which this role writes anything."""

from collections.abc import Sequence
from typing import Final

import asyncpg
import orjson
from mosaic_common.audit import Chain, SealedRow
from mosaic_common.db.sqlstates import AUDIT_CHAIN_NOT_OPEN, AUDIT_NOT_CONTINUOUS

from mosaic_federation_edge.adapters.audit_writer import ChainLost, RowsRefused
from mosaic_federation_edge.adapters.database import Database, database_unavailable

_APPEND: Final = "SELECT federation.append_audit($1, $2, $3, $4::json)"
# Data exceptions and violated constraints (PostgreSQL, appendix A): no repetition makes these rows acceptable.
_REFUSED_CLASSES: Final = frozenset({"22", "23"})


class PostgresAuditStore:
    """Appends to one chain, over a connection of its own: reads that wait must not hold up what lets answers leave."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def append(self, chain: Chain, rows: Sequence[SealedRow]) -> None:
        try:
            await self._database.fetch_raw(_APPEND, chain.chain_id, chain.seq + 1, chain.head, rows_json(rows))
        except asyncpg.PostgresError as error:
            if error.sqlstate in {AUDIT_NOT_CONTINUOUS, AUDIT_CHAIN_NOT_OPEN}:
                raise ChainLost(error.sqlstate) from None
            if error.sqlstate and error.sqlstate[:2] in _REFUSED_CLASSES:
                raise RowsRefused(error.sqlstate) from None
            raise database_unavailable() from error


def rows_json(rows: Sequence[SealedRow]) -> str:
    """The rows as append_audit takes them: the columns by name, bytes as PostgreSQL writes them."""
    return orjson.dumps([_columns(row) for row in rows]).decode()


def _columns(sealed: SealedRow) -> dict[str, object]:
    row = sealed.row
    return {
        "request_id": row.request_id,
        "time_us": row.time_us,
        "event": row.event,
        "actor": row.actor,
        "source_address": row.source_address,
        "peer_id": row.peer_id,
        "grant_id": row.grant_id,
        "subject_user_id": row.subject_user_id,
        "token_id": _bytea(row.token_id),
        "verb": row.verb,
        "resource": row.resource,
        "outcome": row.outcome,
        "denied_layer": row.denied_layer,
        "denied_reason": row.denied_reason,
        "status_code": row.status_code,
        "result_count": row.result_count,
        "bytes_out": row.bytes_out,
        "query_hash": _bytea(row.query_hash),
        "latency_us": row.latency_us,
        "repeated": row.repeated,
        "chain_id": _bytea(sealed.chain_id),
        "seq": sealed.seq,
        "prev_hash": _bytea(sealed.prev_hash),
        "hash": _bytea(sealed.hash),
    }


def _bytea(value: bytes | None) -> str | None:
    return None if value is None else f"\\x{value.hex()}"
