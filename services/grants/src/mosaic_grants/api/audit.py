"""AuditService: the record, for this gateway's operators."""

import base64
import binascii
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypeVar

from mosaic.audit.v1 import audit_pb2
from mosaic_common.audit import Event, Outcome, SealedRow
from mosaic_common.audit_heads import CHAIN_ID_BYTES
from mosaic_common.clock import Clock
from mosaic_common.errors import InvalidInput, Layer, NotFound, Reason, Violation
from mosaic_common.rpc.call import Call

from mosaic_grants.api import audit_export
from mosaic_grants.api.audit_messages import row_message
from mosaic_grants.api.requests import micros, parse_grant_id, parse_int64, parse_page_size, parse_text, parse_uuid
from mosaic_grants.domain import permissions
from mosaic_grants.domain.audit_reading import RowFilter, RowPlace
from mosaic_grants.domain.ports import Ledger, Transaction

E = TypeVar("E", bound=StrEnum)

MAX_EXPORT_PAGE: Final = 1000


class AuditServicer:
    """The record, for this gateway's operators."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def ListAuditRows(self, request: audit_pb2.ListAuditRowsRequest, _call: Call) -> audit_pb2.ListAuditRowsResponse:
        size = parse_page_size(request.page_size)
        after = _parse_place(request.page_token) if request.page_token else None
        async with self._ledger.transaction() as tx:
            rows = await tx.audit_log.list_page(wanted=await _parse_filter(tx, request), after=after, limit=size + 1)
        page = rows[:size]
        return audit_pb2.ListAuditRowsResponse(
            rows=[row_message(row) for row in page], next_page_token=_place_token(page[-1]) if len(rows) > size else ""
        )

    async def GetAuditRow(self, request: audit_pb2.GetAuditRowRequest, _call: Call) -> audit_pb2.GetAuditRowResponse:
        request_id = parse_uuid(request.request_id, field="request_id")
        async with self._ledger.transaction() as tx:
            rows = await tx.audit_log.list_of_request(request_id)
        if not rows:
            raise NotFound(
                Reason.RESOURCE_NOT_FOUND,
                f"Nothing is recorded of the request {request_id}.",
                layer=Layer.REQUEST,
                remedy="Its month may have been dropped; or it was another gateway's request.",
            )
        return audit_pb2.GetAuditRowResponse(rows=[row_message(row) for row in rows])

    async def ExportAudit(self, request: audit_pb2.ExportAuditRequest, _call: Call) -> audit_pb2.ExportAuditResponse:
        size = parse_page_size(request.page_size, default=MAX_EXPORT_PAGE, longest=MAX_EXPORT_PAGE)
        async with self._ledger.transaction() as tx:
            if request.page_token:
                position = audit_export.Position.parse(request.page_token)
            else:
                begun_us, total = micros(self._clock.now()), await tx.audit_export.count_rows()
                position = audit_export.Position(begun_us=begun_us, total=total)
            records, following = await audit_export.read_page(tx.audit_export, position, size)
        return audit_pb2.ExportAuditResponse(
            records=records,
            next_page_token=following.to_token() if following else "",
            total=position.total,
            begun_us=position.begun_us,
        )


async def _parse_filter(tx: Transaction, request: audit_pb2.ListAuditRowsRequest) -> RowFilter:
    _require_time(request)
    return RowFilter(
        peer_id=(await tx.peers.get_by_name(request.peer)).id if request.peer else None,
        grant_id=parse_grant_id(request.grant_id) if request.grant_id else None,
        subject_user_id=await permissions.find_user_id(tx, request.user) if request.user else None,
        event=_parse_event(request.event) if request.event else None,
        outcome=_parse_one_of(Outcome, request.outcome, field="outcome"),
        denied_reason=_parse_one_of(Reason, request.denied_reason, field="denied_reason"),
        request_id=parse_uuid(request.request_id, field="request_id") if request.request_id else None,
        actor=_parse_word(request.actor, field="actor"),
        since_us=request.since_us if request.HasField("since_us") else None,
        until_us=request.until_us if request.HasField("until_us") else None,
    )


def _parse_word(value: str, *, field: str) -> str | None:
    return parse_text(value, field=field, longest=64) or None


def _parse_event(value: str) -> str:
    """An event, or with a dot at its end what several begin with."""
    if not any(each == value or (value.endswith(".") and each.startswith(value)) for each in Event):
        raise _none_of(Event, "event")
    return value


def _parse_one_of(words: type[E], value: str, *, field: str) -> E | None:
    if value and value not in list(words):
        raise _none_of(words, field)
    return words(value) if value else None


def _none_of(words: Iterable[str], field: str) -> InvalidInput:
    """A word that does not exist finds nothing, which would read as if nothing had happened."""
    known = "as an error names it, such as RATE_LIMITED" if words is Reason else f"one of {', '.join(words)}"
    return InvalidInput(
        Reason.REQUEST_INVALID,
        f"{field} is none that there is.",
        layer=Layer.REQUEST,
        violations=[Violation(field, f"must be {known}")],
    )


def _require_time(request: audit_pb2.ListAuditRowsRequest) -> None:
    if request.HasField("since_us") and request.HasField("until_us") and request.since_us >= request.until_us:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "No time is since then and before that.",
            layer=Layer.REQUEST,
            violations=[Violation("since_us", "must be before until_us")],
        )


def _place_token(last: SealedRow) -> str:
    place = f"{last.row.time_us}:{last.chain_id.hex()}:{last.seq}"
    return base64.urlsafe_b64encode(place.encode()).decode()


def _parse_place(token: str) -> RowPlace:
    try:
        time_us, chain_id, seq = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii").split(":")
        place = RowPlace(parse_int64(time_us), bytes.fromhex(chain_id), parse_int64(seq))
    except (binascii.Error, ValueError):
        place = None
    if place is None or len(place.chain_id) != CHAIN_ID_BYTES:
        raise InvalidInput(
            Reason.PAGE_TOKEN_INVALID,
            "The page token is none of this list's.",
            layer=Layer.REQUEST,
            remedy="Begin again without one.",
        )
    return place
