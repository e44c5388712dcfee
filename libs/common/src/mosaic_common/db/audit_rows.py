"""Audit rows as ``federation.append_audit`` takes them: a JSON array of objects, bytea as ``\\x`` and hexadecimal."""

from collections.abc import Sequence

import orjson

from mosaic_common.audit import SealedRow


def rows_json(sealed: Sequence[SealedRow]) -> str:
    """Return consecutive rows of one chain as one text."""
    return orjson.dumps([_columns(each) for each in sealed]).decode()


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
