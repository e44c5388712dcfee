"""This gateway's own rows, as a local user natively sees them."""

from importlib.metadata import version
from typing import Final
from uuid import UUID

from mosaic.federation.v1 import query_pb2 as pb
from mosaic.federation.v1.federation_pb2 import (
    VERB_CAPABILITIES,
    VERB_GET,
    VERB_LIST,
    VERB_SEARCH,
    GetCapabilitiesResponse,
    SearchHit,
)
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_common.errors import Reason
from mosaic_common.resources import REGISTRY

from mosaic_federation_edge.api.rows import add_hits, add_rows, fitting_rows
from mosaic_federation_edge.domain.fan_out import SourcePage
from mosaic_federation_edge.domain.pages import cut_page
from mosaic_federation_edge.domain.query_source import LOCAL
from mosaic_federation_edge.domain.questions import GetCapabilities, GetRow, ListRows, Question, SearchRows
from mosaic_federation_edge.domain.reads import Keyset, LocalReads

BEGINNING: Final = ""
"""Where every source's rows begin."""


Found = Resource | SearchHit | GetCapabilitiesResponse

# Whoever asks here is the user whose rows these are: no grant, no scope, no cap and no end.
_CAPABILITIES: Final[SourcePage[Found]] = SourcePage(
    [
        GetCapabilitiesResponse(
            resources=REGISTRY,
            supported_verbs=(VERB_LIST, VERB_GET, VERB_SEARCH, VERB_CAPABILITIES),
            server_version=version("mosaic-federation-edge"),
        )
    ],
    size_bytes=0,
    next_position="",
    truncated=False,
)


class OwnRows:
    """The source `local`."""

    def __init__(self, reads: LocalReads) -> None:
        self._reads: Final = reads

    async def ask(self, user_id: UUID, question: Question, position: str) -> SourcePage[Found]:
        """Answer from the database.

        Raises:
            AccessDenied: SUBJECT_INACTIVE.
            Unavailable: the database gave no answer.
        """
        match question:
            case ListRows():
                return await self._list(user_id, question, position)
            case GetRow():
                return await self._get(user_id, question)
            case SearchRows():
                return await self._search(user_id, question)
            case GetCapabilities():
                # Any read asks whether the user is still there; this one, which finds nothing, costs least.
                await self._reads.get_row(user_id, next(iter(REGISTRY)), UUID(int=0))
                return _CAPABILITIES

    async def _list(self, user_id: UUID, question: ListRows, position: str) -> SourcePage[Found]:
        size = question.page_size
        read = await self._reads.list_rows(user_id, question.resource, limit=size, after=_parse_position(position))
        page = pb.QueryResponse()
        add_rows(page.rows, read.rows[:size], question.resource, LOCAL)
        cut = cut_page(found=read.found, page_size=size, budget=read.found + 1, fitting=fitting_rows(page, page.rows))
        del page.rows[cut.rows :]
        last = read.rows[cut.rows - 1] if cut.has_next else None
        return SourcePage(page.rows, page.ByteSize(), f"{last[1]}:{last[0]}" if last else "", truncated=False)

    async def _get(self, user_id: UUID, question: GetRow) -> SourcePage[Found]:
        found = await self._reads.get_row(user_id, question.resource, question.row_id)
        page = pb.QueryResponse()
        add_rows(page.rows, [found.row] if found.row is not None else [], question.resource, LOCAL)
        reason = None if page.rows else Reason.RESOURCE_NOT_FOUND
        return SourcePage(page.rows, page.ByteSize(), "", truncated=False, reason=reason)

    async def _search(self, user_id: UUID, question: SearchRows) -> SourcePage[Found]:
        search = question.search
        matches = [await self._reads.search_rows(user_id, each, search, limit=question.page_size) for each in search.resources]
        page = pb.QueryResponse()
        add_hits(page.hits, zip(search.resources, matches, strict=True), LOCAL, most=question.page_size)
        del page.hits[fitting_rows(page, page.hits) :]
        truncated = sum(each.found for each in matches) > len(page.hits)
        return SourcePage(page.hits, page.ByteSize(), "", truncated=truncated)


def _parse_position(position: str) -> Keyset | None:
    """Read a position of our own rows; it comes out of our own seal."""
    if position == BEGINNING:
        return None
    updated_at_us, _, row_id = position.partition(":")
    return Keyset(int(updated_at_us), UUID(row_id))
