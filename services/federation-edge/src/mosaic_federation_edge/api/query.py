"""QueryService: one question of a local user, asked here and through the user's connections.

Nothing that a peer answered is kept: it goes into this answer and is forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

from mosaic.federation.v1 import federation_pb2
from mosaic.federation.v1 import query_pb2 as pb
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_common.decision import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, Verb
from mosaic_common.errors import AccessDenied, InvalidInput, Layer, Reason, Unavailable, Unimplemented, Violation
from mosaic_common.resources import REGISTRY
from mosaic_common.rpc.call import Call

from mosaic_federation_edge.api.rows import add_rows, fitting_rows
from mosaic_federation_edge.api.users import User
from mosaic_federation_edge.domain.connections import (
    OF_THE_CERTIFICATE,
    OF_THE_CONNECTION,
    Connection,
    Connections,
    PeerReads,
    PeerRefusal,
    Reports,
)
from mosaic_federation_edge.domain.fan_out import Ask, SourceAnswer, SourceFailed, SourcePage, SourceStatus, ask_all
from mosaic_federation_edge.domain.merge import fit, newest_first, positions_after
from mosaic_federation_edge.domain.pages import cut_page
from mosaic_federation_edge.domain.query_source import LOCAL, Chosen, federated, parse_source
from mosaic_federation_edge.domain.query_tokens import QueryBinding, QueryTokens
from mosaic_federation_edge.domain.rate_limit import RateLimiter
from mosaic_federation_edge.domain.reads import Keyset, LocalReads

_UNWRITTEN: Final = frozenset({federation_pb2.VERB_GET, federation_pb2.VERB_SEARCH})
_BEGINNING: Final = ""
_ALL_CONNECTIONS: Final = federated("*")

Answer = SourceAnswer[Resource]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A list, as it may be asked."""

    resource: str
    chosen: Chosen
    page_size: int


class QueryServicer:
    """Asks every chosen source in parallel and merges; who does not answer is named, and keeps nobody waiting."""

    def __init__(
        self,
        reads: LocalReads,
        connections: Connections,
        reports: Reports,
        peers: PeerReads[Resource],
        tokens: QueryTokens,
        limiter: RateLimiter,
    ) -> None:
        self._reads: Final = reads
        self._connections: Final = connections
        self._reports: Final = reports
        self._peers: Final = peers
        self._tokens: Final = tokens
        self._limiter: Final = limiter

    async def Query(self, request: pb.QueryRequest, call: Call) -> pb.QueryResponse:
        user = call.caller
        assert isinstance(user, User)
        self._limiter.spend(user.subject)
        query = _parse_list(request)
        call.facts.verb, call.facts.resource = Verb.LIST, query.resource
        binding = QueryBinding(user.user_id, Verb.LIST, query.resource, query.chosen.spelling)
        positions = self._tokens.open(request.page_token, binding) if request.page_token else None

        # 1. Whom to ask, and from where.
        connections, unreached = await self._find_connections(user, query.chosen, positions)
        before = positions if positions is not None else _beginnings(query.chosen, connections)
        asks = self._asks(user, query, connections, before)
        # 2. All at once; a source of the last page that is there no more is named like one that refused.
        asked = await ask_all(asks, remaining_seconds=call.remaining_seconds())
        self._heed_refusals(user, asked)
        gone = [_gone(each) for each in before if each not in asks] if not unreached else []
        # 3. One answer, and where it goes on.
        fitted = fit([*asked, *gone, *unreached])
        response = pb.QueryResponse()
        response.rows.extend(newest_first(row for each in fitted.answers if each.page for row in each.page.rows))
        for answer in fitted.answers:
            _add_result(response, answer)
        response.partial = any(result.status != pb.SOURCE_STATUS_OK for result in response.sources)
        if after := positions_after(fitted, before):
            response.next_page_token = self._tokens.seal(after, binding)
        call.facts.result_count = len(response.rows)
        return response

    async def _find_connections(
        self, user: User, chosen: Chosen, positions: Mapping[str, str] | None
    ) -> tuple[dict[str, Connection], list[Answer]]:
        """Return the chosen connections by source, or what to say of them when the grants service does not answer.

        Raises:
            NotFound: the one that was asked for is not the user's.
            AuthRefused: the grants service does not accept the user's token.
            Unavailable: nothing else was asked for.
        """
        if chosen.connection is not None:
            connection = await self._connections.get(user.user_id, user.token, chosen.connection)
            return {federated(connection.name): connection}, []
        if not chosen.all_connections:
            return {}, []
        try:
            found = await self._connections.get_all(user.user_id, user.token)
        except Unavailable as error:
            names = [_ALL_CONNECTIONS] if positions is None else [each for each in positions if each != LOCAL]
            return {}, [SourceAnswer(each, SourceStatus.UNAVAILABLE, 0, error.message, error.reason) for each in names]
        return {federated(each.name): each for each in found}, []

    def _asks(
        self, user: User, query: ListQuery, connections: Mapping[str, Connection], before: Mapping[str, str]
    ) -> dict[str, Ask[Resource]]:
        asks: dict[str, Ask[Resource]] = {}
        for source, position in before.items():
            if source == LOCAL:
                asks[source] = partial(self._ask_here, user.user_id, query, position)
            elif source in connections:
                asks[source] = partial(self._ask_peer, user, connections[source], query, position)
        return asks

    async def _ask_here(self, user_id: UUID, query: ListQuery, position: str, _seconds: float) -> SourcePage[Resource]:
        read = await self._reads.list_rows(user_id, query.resource, limit=query.page_size, after=_parse_position(position))
        page = pb.QueryResponse()
        add_rows(page.rows, read.rows[: query.page_size], query.resource, LOCAL)
        cut = cut_page(found=read.found, page_size=query.page_size, budget=read.found + 1, fitting=fitting_rows(page, page.rows))
        del page.rows[cut.rows :]
        last = read.rows[cut.rows - 1] if cut.has_next else None
        return SourcePage(page.rows, page.ByteSize(), f"{last[1]}:{last[0]}" if last else "", truncated=False)

    async def _ask_peer(
        self, user: User, connection: Connection, query: ListQuery, position: str, seconds: float
    ) -> SourcePage[Resource]:
        try:
            page = await self._list_rows(connection, query, position, seconds)
        except SourceFailed as failed:
            renewed = await self._find_renewed(user, connection) if failed.reason in OF_THE_CERTIFICATE else None
            if renewed is not None:
                return await self._ask_peer(user, renewed, query, position, seconds)
            if failed.reason in OF_THE_CONNECTION:
                self._reports.report(user.token, connection.peer_id, PeerRefusal(failed.reason, failed.grant_status))
            raise
        self._reports.report(user.token, connection.peer_id, None)
        return page

    async def _list_rows(self, connection: Connection, query: ListQuery, position: str, seconds: float) -> SourcePage[Resource]:
        return await self._peers.list_rows(
            connection, query.resource, page_size=query.page_size, page_token=position, seconds=seconds
        )

    async def _find_renewed(self, user: User, refused: Connection) -> Connection | None:
        """The same connection with another certificate: what is held here may be seconds older than a re-enrollment."""
        self._connections.drop(user.user_id)
        now = await self._connections.get(user.user_id, user.token, refused.name)
        return now if now.chain_pem != refused.chain_pem else None

    def _heed_refusals(self, user: User, answers: list[Answer]) -> None:
        """Raises:
        AccessDenied: this gateway's own user is gone or disabled; then nothing is answered, whatever peers say.
        """
        for answer in answers:
            if answer.status is not SourceStatus.DENIED:
                continue
            if answer.source == LOCAL:
                raise AccessDenied(answer.reason or Reason.SUBJECT_INACTIVE, "Your user is not active here.", layer=Layer.SUBJECT)
            self._connections.drop(user.user_id)


def _parse_list(request: pb.QueryRequest) -> ListQuery:
    """Read a query.

    Raises:
        Unimplemented: a verb that has its shape and not yet its code.
        InvalidInput: verb, resource, source or page size.
        NotFound: a connection of a name that none can have.
    """
    if request.verb in _UNWRITTEN:
        raise Unimplemented(Reason.NOT_IMPLEMENTED, "This gateway answers only lists so far.", layer=Layer.REQUEST)
    if request.verb != federation_pb2.VERB_LIST:
        raise _invalid(Reason.REQUEST_INVALID, "There is no such query.", "verb", "must be VERB_LIST, VERB_GET or VERB_SEARCH")
    if len(request.resources) != 1:
        raise _invalid(Reason.REQUEST_INVALID, "A list names one resource.", "resources", "must hold exactly one name")
    if request.resources[0] not in REGISTRY:
        raise _invalid(Reason.RESOURCE_UNKNOWN, "There is no such resource.", "resources", f"must be one of {', '.join(REGISTRY)}")
    if request.page_size < 0:
        raise _invalid(
            Reason.PAGE_SIZE_INVALID, "The page size cannot be negative.", "page_size", "must be 0, for the default, or positive"
        )
    page_size = min(request.page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
    return ListQuery(request.resources[0], parse_source(request.source), page_size)


def _invalid(reason: Reason, message: str, field: str, rule: str) -> InvalidInput:
    return InvalidInput(reason, message, layer=Layer.REQUEST, violations=[Violation(field, rule)])


def _beginnings(chosen: Chosen, connections: Mapping[str, Connection]) -> dict[str, str]:
    return dict.fromkeys([*([LOCAL] if chosen.local else []), *connections], _BEGINNING)


def _parse_position(position: str) -> Keyset | None:
    """Read a position of our own rows; it comes out of our own seal."""
    if position == _BEGINNING:
        return None
    updated_at_us, _, row_id = position.partition(":")
    return Keyset(int(updated_at_us), UUID(row_id))


def _gone(source: str) -> Answer:
    return SourceAnswer(source, SourceStatus.DENIED, 0, "This connection is there no more.", Reason.PEER_NOT_FOUND)


def _add_result(response: pb.QueryResponse, answer: Answer) -> None:
    result = response.sources.add()
    result.source = answer.source
    result.status = pb.SourceStatus.Value(f"SOURCE_STATUS_{answer.status.name}")
    result.reason = answer.reason.value if answer.reason else ""
    result.message = answer.message
    result.latency_us = answer.latency_us
    if answer.page is not None:
        result.row_count = len(answer.page.rows)
        result.truncated = answer.page.truncated
