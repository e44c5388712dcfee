"""Audit rows as one JSON text, for sessions that know no type of schema federation."""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from mosaic_common.audit import AuditRow, SealedRow

APPEND: Final = """
    SELECT federation.append_audit(%s, %s, %s, ARRAY(SELECT r FROM json_populate_recordset(NULL::federation.audit_entry, %s) r))"""
"""Takes the chain's id, the first row's seq, the hash before it, and rows_json."""


def rows_json(sealed: Sequence[SealedRow]) -> str:
    """Return an array of objects with the columns of federation_audit_log."""
    return json.dumps([_columns(each) for each in sealed])


def _columns(sealed: SealedRow) -> dict[str, object]:
    row = {each.name: getattr(sealed.row, each.name) for each in fields(AuditRow)}
    place = {name: getattr(sealed, name) for name in ("chain_id", "seq", "prev_hash", "hash")}
    return {name: _value(value) for name, value in (row | place).items()}


def _value(value: object) -> object:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return value if value is None or isinstance(value, int) else str(value)
