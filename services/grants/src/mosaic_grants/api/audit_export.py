"""One page of an export, and where the next one begins."""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from heapq import merge
from typing import Final, Self, TypeVar
from uuid import UUID

from mosaic.audit.v1 import audit_pb2
from mosaic_common.errors import InvalidInput, Layer, Reason

from mosaic_grants.api import audit_messages as messages
from mosaic_grants.api.requests import parse_int64
from mosaic_grants.domain.audit_reading import Bounds, Opening
from mosaic_grants.domain.ports import AuditExport

CHAINS_OF_A_PAGE: Final = 100
"""Every process that ever ran has a chain, most of them short: a page must not visit them all."""

_ANY_SEQ: Final = 2**63 - 1
_NOBODY: Final = str(UUID(int=0))

T = TypeVar("T")
Records = list[audit_pb2.ExportRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where an export stands. The parts come one after the other: heads of grants, chains, heads received.

    Attributes:
        begun_us: when it began.
        bounds: once the heads of grants are through.
        chain: number of the chain that is being read, or was read last.
        seq: of its row that was read last; None when the next chain comes.
        id: of the grant or peer that was read last.
        count: the head's rows, or when it was received.
    """

    part: str = "grants"
    begun_us: int
    total: int
    bounds: Bounds | None = None
    chain: int = 0
    seq: int | None = None
    id: str = _NOBODY
    count: int = -1

    def to_token(self) -> str:
        """Not sealed: it names places in a record that operators may see all of anyway."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @classmethod
    def parse(cls, token: str) -> Self:
        """Raises InvalidInput: PAGE_TOKEN_INVALID."""
        try:
            told = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
            bounds = told["bounds"] and Bounds(**{name: parse_int64(value) for name, value in told.pop("bounds").items()})
            numbers = {name: parse_int64(told[name]) for name in ("begun_us", "total", "chain", "count")}
            seq = None if told["seq"] is None else parse_int64(told["seq"])
            position = cls(part=told["part"], bounds=bounds or None, seq=seq, id=str(UUID(told["id"])), **numbers)
        except (binascii.Error, ValueError, TypeError, KeyError, AttributeError):
            position = None
        if position is None or position.part not in _PARTS or (position.part != "grants" and position.bounds is None):
            raise InvalidInput(
                Reason.PAGE_TOKEN_INVALID,
                "The page token is none of an export's.",
                layer=Layer.REQUEST,
                remedy="Begin the export again.",
            )
        return position


async def read_page(export: AuditExport, at: Position, size: int) -> tuple[Records, Position | None]:
    """Return the next records and where to go on; None at the end."""
    return await _PARTS[at.part](export, at, size)


async def _grants(export: AuditExport, at: Position, size: int) -> tuple[Records, Position | None]:
    heads = await export.list_grant_heads(after=(UUID(at.id), at.count), limit=size)
    records = [messages.grant_head_record(each) for each in heads]
    if len(heads) == size:
        return records, replace(at, id=str(heads[-1].head.grant_id), count=heads[-1].head.rows)
    # Only now, so that the rounds that follow are at least those that these heads speak of.
    return records, replace(at, part="chains", bounds=await export.bounds(), id=_NOBODY, count=-1)


async def _chains(export: AuditExport, at: Position, size: int) -> tuple[Records, Position | None]:
    assert at.bounds is not None
    continued = at.seq is not None
    openings = await export.list_openings(
        after=at.chain - 1 if continued else at.chain, through=at.bounds.last_chain, limit=CHAINS_OF_A_PAGE
    )
    records: Records = []
    for opening in openings:
        seq = at.seq if continued and opening.chain_number == at.chain else None
        if seq is None:
            records.append(messages.opening_record(opening))
        rows, last = await _of_chain(export, opening, seq or 0, at.bounds, size - len(records))
        records += rows
        if last is not None:
            return records, replace(at, chain=opening.chain_number, seq=last)
        if len(records) >= size:
            return records, replace(at, chain=opening.chain_number, seq=None)
    if len(openings) == CHAINS_OF_A_PAGE:
        return records, replace(at, chain=openings[-1].chain_number, seq=None)
    return records, replace(at, part="received")


async def _of_chain(
    export: AuditExport, opening: Opening, after_seq: int, bounds: Bounds, limit: int
) -> tuple[Records, int | None]:
    """Return rows of a chain with what was countersigned at them, and the last one's seq when there may be more."""
    limit = max(limit, 1)
    rows = await export.list_rows(opening.chain_id, after_seq=after_seq, bounds=bounds, limit=limit)
    last = rows[-1].seq if len(rows) == limit else None
    through = _ANY_SEQ if last is None else last
    ends = await export.list_month_ends(opening.chain_id, after_seq=after_seq, through_seq=through)
    heads = await export.list_heads(opening.chain_id, after_seq=after_seq, through_seq=through, bounds=bounds)
    # What stands at one seq: the row, then the month's end, which may be all that is left of it, then the head.
    placed = merge(
        _placed(rows, 0, lambda row: row.seq, messages.row_record),
        _placed(ends, 1, lambda signed: signed.end.seq, messages.month_end_record),
        _placed(heads, 2, lambda signed: signed[0].seq, lambda signed: messages.head_record(*signed)),
        key=lambda each: each[0],
    )
    return [record for _, record in placed], last


async def _received(export: AuditExport, at: Position, size: int) -> tuple[Records, Position | None]:
    heads = await export.list_received(after=(UUID(at.id), at.count), limit=size)
    records = [messages.received_record(each) for each in heads]
    if len(heads) == size:
        return records, replace(at, id=str(heads[-1].peer_id), count=heads[-1].received_at_us)
    return records, None


def _placed(
    items: Sequence[T], rank: int, seq_of: Callable[[T], int], record_of: Callable[[T], audit_pb2.ExportRecord]
) -> Iterator[tuple[tuple[int, int], audit_pb2.ExportRecord]]:
    for item in items:
        yield (seq_of(item), rank), record_of(item)


_PARTS: Final = {"grants": _grants, "chains": _chains, "received": _received}
