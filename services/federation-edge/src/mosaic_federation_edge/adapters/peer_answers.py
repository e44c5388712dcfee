"""What another gateway answers, checked until it can be passed on."""

import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.message import Message
from mosaic.federation.v1.federation_pb2 import (
    GetCapabilitiesResponse,
    GetResourceResponse,
    ListResourcesResponse,
    SearchHit,
    SearchResourcesResponse,
    Verb,
)
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_common.resources import REGISTRY
from mosaic_common.scope import MAX_ROWS_PER_QUERY

from mosaic_federation_edge.domain.fan_out import SourceFailed, SourcePage, SourceStatus
from mosaic_federation_edge.domain.merge import MAX_ANSWER_BYTES, clamp_time_us
from mosaic_federation_edge.domain.query_source import federated

Found = Resource | SearchHit | GetCapabilitiesResponse

CLOCK_SKEW: Final = timedelta(minutes=5)
# Ours have 119. All of a user's connections have to fit into one token of ours.
MAX_PAGE_TOKEN: Final = 256
MAX_AUDIT_HEAD: Final = 256
# A snippet is cut out of its row, up to 40 words of it marked on both sides: 160 characters, three times over.
MAX_SNIPPET_MARKS: Final = 512
# A tenth of the time it takes to make a UUID of it and to spell that again; two or three ids are in each row.
_CANONICAL_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_VERSION: Final = re.compile(r"[0-9A-Za-z.+!-]{0,64}")

_KINDS: Final[Mapping[str, str]] = {
    "tasks": "task",
    "notes": "note",
    "memory": "memory",
    "credentials": "credential",
    "api_keys": "api_key",
}
# Times that lie in the past by their meaning; a due or an expiry may well be in the future.
_PAST_TIMES: Final[Mapping[str, tuple[str, ...]]] = {
    "credential": ("created_at_us",),
    "api_key": ("created_at_us", "last_used_at_us"),
}

_Answer = ListResourcesResponse | GetResourceResponse | SearchResourcesResponse | GetCapabilitiesResponse


class AnswerVerifier:
    """Takes one answer for what it is: rows of the kinds asked for, not more than asked for, read through this connection.

    Each method changes the message that it is given, and raises SourceFailed: more rows than were asked for, one of them twice, too
    many bytes, rows of another kind, ids that are none.
    """

    def __init__(self, connection: str, resources: Collection[str], now: datetime) -> None:
        self._source: Final = federated(connection)
        self._kinds: Final = frozenset(_KINDS[each] for each in resources)
        self._latest_us: Final = int((now + CLOCK_SKEW).timestamp()) * 1_000_000

    def verified_page(self, unverified: ListResourcesResponse, *, page_size: int, served: int = 0) -> SourcePage[Found]:
        self._require(len(unverified.resources) <= page_size and _is_page_token(unverified.next_page_token))
        size = self._verify_rows(unverified, unverified.resources)
        served += len(unverified.resources)
        # A page without rows that promises another could go on for ever, and so could pages beyond what any grant shows of a query.
        promised = bool(unverified.next_page_token)
        goes_on = promised and bool(unverified.resources) and served < MAX_ROWS_PER_QUERY
        position = f"{served}:{unverified.next_page_token}" if goes_on else ""
        truncated = unverified.truncated or (promised and not goes_on)
        return SourcePage(unverified.resources, size, position, truncated=truncated, audit_head=_head_of(unverified))

    def verified_row(self, unverified: GetResourceResponse, *, row_id: str) -> SourcePage[Found]:
        self._require(unverified.resource.id == row_id)
        size = self._verify_rows(unverified, [unverified.resource])
        return SourcePage([unverified.resource], size, "", truncated=False, audit_head=_head_of(unverified))

    def verified_hits(self, unverified: SearchResourcesResponse, *, page_size: int) -> SourcePage[Found]:
        self._require(len(unverified.hits) <= page_size)
        for hit in unverified.hits:
            self._require(len(hit.snippet) <= _text_length(hit.resource) + MAX_SNIPPET_MARKS)
            # Nobody sorts by them here; whoever reads the answer might.
            if not math.isfinite(hit.rank):
                hit.rank = 0
            if not math.isfinite(hit.distance):
                hit.ClearField("distance")
        size = self._verify_rows(unverified, [hit.resource for hit in unverified.hits])
        return SourcePage(unverified.hits, size, "", truncated=unverified.truncated, audit_head=_head_of(unverified))

    def verified_capabilities(self, unverified: GetCapabilitiesResponse) -> SourcePage[Found]:
        for names in (unverified.resources, unverified.excluded_resources):
            self._require(len(names) <= len(REGISTRY) and set(names) <= REGISTRY.keys())
        self._require(0 < unverified.max_rows_per_query <= MAX_ROWS_PER_QUERY)
        self._require(_VERSION.fullmatch(unverified.server_version) is not None)
        # Verbs of a later release are none that could be asked from here.
        known = [verb for verb in unverified.supported_verbs if verb in Verb.values()]
        del unverified.supported_verbs[:]
        unverified.supported_verbs.extend(dict.fromkeys(known))
        size = self._verify_rows(unverified, [])
        head = _head_of(unverified)
        # It is kept by our own grants, and is nothing that the user asked for.
        unverified.ClearField("audit_head")
        return SourcePage([unverified], size, "", truncated=False, audit_head=head)

    def _verify_rows(self, answer: Message, rows: Collection[Resource]) -> int:
        """Return the size of the answer in bytes."""
        # What this release has no field for would otherwise pass through it unseen.
        answer.DiscardUnknownFields()
        self._require(len({(row.WhichOneof("resource"), row.id) for row in rows}) == len(rows))
        for row in rows:
            self._verify_row(row)
        size = answer.ByteSize()
        self._require(size <= MAX_ANSWER_BYTES)
        return size

    def _verify_row(self, row: Resource) -> None:
        kind = row.WhichOneof("resource")
        self._require(kind in self._kinds)
        for each in (row.id, row.owner_id, *([row.team_id] if row.HasField("team_id") else [])):
            self._require(_is_canonical(each))
        row.source = self._source
        row.updated_at_us = clamp_time_us(row.updated_at_us, latest_us=self._latest_us)
        for name in _PAST_TIMES.get(kind or "", ()):
            own = getattr(row, kind or "")
            if getattr(own, name):
                setattr(own, name, clamp_time_us(getattr(own, name), latest_us=self._latest_us))

    def _require(self, holds: bool) -> None:
        if not holds:
            raise SourceFailed(SourceStatus.UNAVAILABLE, "The peer's answer is not one that can be passed on.")


def _text_length(row: Resource) -> int:
    kind = row.WhichOneof("resource")
    fields = getattr(row, kind).ListFields() if kind else ()
    return sum(len(value) for _, value in fields if isinstance(value, str))


def _head_of(unverified: _Answer) -> bytes:
    head = unverified.audit_head.SerializeToString()
    return head if len(head) <= MAX_AUDIT_HEAD else b""


def _is_page_token(unverified: str) -> bool:
    return len(unverified) <= MAX_PAGE_TOKEN and unverified.isascii()


def _is_canonical(unverified_id: str) -> bool:
    return _CANONICAL_ID.fullmatch(unverified_id) is not None
