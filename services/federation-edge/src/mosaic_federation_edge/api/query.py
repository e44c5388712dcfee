"""QueryService: one question of a local user, asked here and through the user's connections.

Nothing that a peer answered is kept: it goes into this answer and is forgotten.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Final, cast

from mosaic.federation.v1 import query_pb2 as pb
from mosaic.federation.v1.federation_pb2 import GetCapabilitiesResponse, SearchHit
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_common.errors import AccessDenied, Layer, Reason, Unavailable
from mosaic_common.rpc.call import Call

from mosaic_federation_edge.api.own_rows import BEGINNING, OwnRows
from mosaic_federation_edge.api.query_requests import parse_query
from mosaic_federation_edge.api.users import User
from mosaic_federation_edge.domain.connections import Connection, Connections
from mosaic_federation_edge.domain.fan_out import Ask, SourceAnswer, SourcePage, SourceStatus, ask_all
from mosaic_federation_edge.domain.merge import fit, missing_after, newest_first, positions_after
from mosaic_federation_edge.domain.peer_source import Asker, PeerSource
from mosaic_federation_edge.domain.query_source import LOCAL, Chosen, federated
from mosaic_federation_edge.domain.query_tokens import Progress, QueryBinding, QueryTokens
from mosaic_federation_edge.domain.questions import GetRow, ListRows, Question, SearchRows
from mosaic_federation_edge.domain.rate_limit import RateLimiter
from mosaic_federation_edge.domain.search import by_position

_ALL_CONNECTIONS: Final = federated("*")
# The rest is for the peers, once it is known who they are.
_RELEASE_SHARE: Final = 0.5

Found = Resource | SearchHit | GetCapabilitiesResponse
Answer = SourceAnswer[Found]


class QueryServicer:
    """Asks every chosen source in parallel and merges; who does not answer is named, and keeps nobody waiting."""

    def __init__(
        self,
        own_rows: OwnRows,
        peers: PeerSource[Found],
        connections: Connections,
        tokens: QueryTokens,
        limiter: RateLimiter,
    ) -> None:
        self._own_rows: Final = own_rows
        self._peers: Final = peers
        self._connections: Final = connections
        self._tokens: Final = tokens
        self._limiter: Final = limiter

    async def Query(self, request: pb.QueryRequest, call: Call) -> pb.QueryResponse:
        user = self._admit(call)
        query = parse_query(request)
        question, chosen = query.question, query.chosen
        call.facts.verb, call.facts.resource = question.verb, ",".join(question.resources)
        binding = QueryBinding(user.user_id, question.verb, call.facts.resource, chosen.spelling)
        progress = self._tokens.open(request.page_token, binding) if request.page_token else None
        positions = progress.positions if progress is not None else None

        # 1. Here, at once: our own rows do not wait for our grants service, which says who the peers are.
        here = self._asks_here(user, question, positions if positions is not None else _beginnings(chosen))
        asking_here = asyncio.create_task(ask_all(here, remaining_seconds=call.remaining_seconds()))
        try:
            # 2. Whom else to ask, and from where.
            connections, unreached = await self._find_connections(user, chosen, positions, call)
            before = positions if positions is not None else _beginnings(chosen, connections)
            there = self._asks_there(user, question, connections, before)
            # 3. All of them at once; a source of the last page that is there no more is named like one that refused.
            answered = await ask_all(there, remaining_seconds=call.remaining_seconds())
            asked = [*await asking_here, *answered]
        finally:
            asking_here.cancel()
        _heed_own_refusal(asked)
        gone = [_gone(each) for each in before if each not in here | there] if not unreached else []
        missing = [_missing(*each) for each in progress.missing.items()] if progress is not None else []
        # 4. One answer, and where it goes on.
        fitted = fit([*asked, *gone, *unreached, *missing])
        response = pb.QueryResponse()
        pages = [each.page.rows for each in fitted.answers if each.page]
        match question:
            case ListRows() | GetRow():
                response.rows.extend(newest_first(cast("list[Resource]", [row for page in pages for row in page])))
            case SearchRows():
                response.hits.extend(by_position(cast("list[Sequence[SearchHit]]", pages)))
        for answer in fitted.answers:
            _add_result(response, answer)
        response.partial = any(result.status != pb.SOURCE_STATUS_OK for result in response.sources)
        after = positions_after(fitted, before) if isinstance(question, ListRows) else {}
        if after:
            response.next_page_token = self._tokens.seal(Progress(after, missing_after(fitted, after)), binding)
        call.facts.result_count = len(response.rows) + len(response.hits)
        return response

    async def ListSources(self, _request: pb.ListSourcesRequest, call: Call) -> pb.ListSourcesResponse:
        user = self._admit(call)
        connections = await self._connections.get_all(user.user_id, user.token, seconds=_release_seconds(call))
        call.facts.result_count = 1 + len(connections)
        return pb.ListSourcesResponse(sources=[LOCAL, *sorted(federated(each.name) for each in connections)])

    def _admit(self, call: Call) -> User:
        user = call.caller
        assert isinstance(user, User)
        self._limiter.spend(user.subject)
        return user

    async def _find_connections(
        self, user: User, chosen: Chosen, positions: Mapping[str, str] | None, call: Call
    ) -> tuple[dict[str, Connection], list[Answer]]:
        """Return the chosen connections by source, or what to say of them when the grants service does not answer.

        Raises:
            NotFound: the one that was asked for is not the user's.
            AuthRefused: the grants service does not accept the user's token.
            Unavailable: nothing else was asked for.
        """
        if chosen.connection is not None:
            connection = await self._connections.get(user.user_id, user.token, chosen.connection, seconds=_release_seconds(call))
            return {federated(connection.name): connection}, []
        if not chosen.all_connections or (positions is not None and positions.keys() <= {LOCAL}):
            return {}, []
        try:
            found = await self._connections.get_all(user.user_id, user.token, seconds=_release_seconds(call))
        except Unavailable as error:
            names = [_ALL_CONNECTIONS] if positions is None else [each for each in positions if each != LOCAL]
            return {}, [SourceAnswer(each, SourceStatus.UNAVAILABLE, 0, error.message, error.reason) for each in names]
        return {federated(each.name): each for each in found}, []

    def _asks_here(self, user: User, question: Question, before: Mapping[str, str]) -> dict[str, Ask[Found]]:
        return {LOCAL: partial(self._ask_here, user, question, before[LOCAL])} if LOCAL in before else {}

    def _asks_there(
        self, user: User, question: Question, connections: Mapping[str, Connection], before: Mapping[str, str]
    ) -> dict[str, Ask[Found]]:
        asker = Asker(user.user_id, user.token)
        return {
            source: partial(self._peers.ask, asker, connections[source], question, position)
            for source, position in before.items()
            if source in connections
        }

    async def _ask_here(self, user: User, question: Question, position: str, _seconds: float) -> SourcePage[Found]:
        return await self._own_rows.ask(user.user_id, question, position)


def _heed_own_refusal(answers: Sequence[Answer]) -> None:
    """Raises:
    AccessDenied: this gateway's own user is gone or disabled; then nothing is answered, whatever peers say.
    """
    for answer in answers:
        if answer.source == LOCAL and answer.reason is Reason.SUBJECT_INACTIVE:
            raise AccessDenied(
                Reason.SUBJECT_INACTIVE,
                "Your user is not active here.",
                layer=Layer.SUBJECT,
                remedy="Ask as a user that there is, or have this one enabled in the application.",
            )


def _release_seconds(call: Call) -> float:
    return call.remaining_seconds() * _RELEASE_SHARE


def _beginnings(chosen: Chosen, connections: Collection[str] = ()) -> dict[str, str]:
    return dict.fromkeys([*([LOCAL] if chosen.local else []), *connections], BEGINNING)


def _gone(source: str) -> Answer:
    return SourceAnswer(source, SourceStatus.DENIED, 0, "This connection is there no more.", Reason.PEER_NOT_FOUND)


def _missing(source: str, failure: tuple[SourceStatus, Reason | None]) -> Answer:
    status, reason = failure
    return SourceAnswer(source, status, 0, "It gave nothing to an earlier page, and is not asked again by this query.", reason)


def _add_result(response: pb.QueryResponse, answer: Answer) -> None:
    result = response.sources.add()
    result.source = answer.source
    result.status = pb.SourceStatus.Value(f"SOURCE_STATUS_{answer.status.name}")
    result.reason = answer.reason.value if answer.reason else ""
    result.message = answer.message
    result.latency_us = answer.latency_us
    if answer.page is None:
        return
    result.truncated = answer.page.truncated
    for found in answer.page.rows:
        if isinstance(found, GetCapabilitiesResponse):
            result.capabilities.CopyFrom(found)
        else:
            result.row_count += 1
