"""Audit rows as ``federation.append_audit`` takes them: ``federation.audit_entry[]``."""

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Final

from mosaic_common.audit import AuditRow, SealedRow

_columns: Final = attrgetter(*(each.name for each in fields(AuditRow)))


def audit_entries(sealed: Sequence[SealedRow]) -> list[tuple[object, ...]]:
    """Return consecutive rows of one chain, each with its hash; their place there follows from their order."""
    return [(*_columns(each.row), each.hash) for each in sealed]
