"""Refusals that are too many to have a row each: one row per key and second, which says how many it stands for."""

from dataclasses import replace
from typing import Final

from mosaic_common.audit import AuditRow
from mosaic_common.errors import AuthRefused, Layer, MosaicError, Reason
from mosaic_common.identity import SERVICES, ServiceIdentity
from mosaic_common.rpc.call import Call
from mosaic_common.source_address import source_key

MAX_ROWS: Final = 1024
_ELSEWHERE: Final = "others"

_Key = tuple[str, str, Reason | None]


class CountedRefusals:
    """Counts what came since the last harvest.

    The number of rows is bounded too: whoever calls from very many addresses is counted under one row for them all.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows: Final = max_rows
        self._rows: dict[_Key, AuditRow] = {}

    def count(self, row: AuditRow) -> None:
        """Count a refusal: by who was refused (certificate, else source address) and why."""
        key = _key(row)
        if key not in self._rows and len(self._rows) >= self._max_rows:
            row = replace(row, actor=_ELSEWHERE, source_address=_ELSEWHERE, peer_id=None, grant_id=None, subject_user_id=None)
            key = _key(row)
        known = self._rows.get(key)
        if known is None:
            self._rows[key] = row
            return
        # What the row names of the first one only would be wrong of the others.
        same = known.source_address == row.source_address
        source = known.source_address if same else source_key(row.source_address)
        self._rows[key] = replace(known, token_id=None, source_address=source, repeated=known.repeated + row.repeated)

    def harvest(self) -> list[AuditRow]:
        """Return one row per key, and begin anew."""
        rows, self._rows = list(self._rows.values()), {}
        return rows


def is_counted(call: Call, error: MosaicError) -> bool:
    """Whether it cost its sender nothing, who has not proved to be anybody."""
    return (
        error.reason is Reason.ENROLLMENT_TOKEN_UNKNOWN
        or (error.reason is Reason.RATE_LIMITED and error.layer is Layer.SOURCE)
        or error.reason is Reason.MESSAGE_MALFORMED
        # What another service passes on without having looked at it, such as a redemption id that is none.
        or (isinstance(call.caller, ServiceIdentity) and error.layer is Layer.REQUEST)
        or (isinstance(error, AuthRefused) and call.caller is None)
    )


def _key(row: AuditRow) -> _Key:
    # A peer is one wherever it calls from; a service tells us of many sources.
    # And one party commands a whole network of IPv6 addresses.
    return row.actor, "" if row.actor and row.actor not in SERVICES else source_key(row.source_address), row.denied_reason
