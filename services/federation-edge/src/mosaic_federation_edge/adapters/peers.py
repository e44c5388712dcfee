"""Other gateways. What one returns is believed in nothing: it may be broken, broken into, or hostile."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic.federation.v1 import resources_pb2
from mosaic_common.clock import Clock
from mosaic_common.errors import Reason
from mosaic_common.rpc.status import DETAILS_KEY, DOMAIN

from mosaic_federation_edge.adapters.peer_answers import AnswerVerifier
from mosaic_federation_edge.adapters.peer_channels import PeerChannels
from mosaic_federation_edge.adapters.wire import parse_bounded
from mosaic_federation_edge.domain.connections import OF_THE_CONNECTION, Connection
from mosaic_federation_edge.domain.fan_out import SourceFailed, SourcePage, SourceStatus
from mosaic_federation_edge.domain.questions import GetCapabilities, GetRow, ListRows, Question, SearchRows

M = TypeVar("M", bound=Message)

MOST_OTHER_FIELDS: Final = 32
"""Of an answer, beside its rows: names, a token, a head, and what a later release may add."""
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["FederationService"].full_name
_ENDS: Final = frozenset({"revoked", "expired"})
_STATUSES: Final[Mapping[grpc.StatusCode, SourceStatus]] = {
    grpc.StatusCode.UNAUTHENTICATED: SourceStatus.DENIED,
    grpc.StatusCode.PERMISSION_DENIED: SourceStatus.DENIED,
    grpc.StatusCode.NOT_FOUND: SourceStatus.DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: SourceStatus.DENIED,
    grpc.StatusCode.FAILED_PRECONDITION: SourceStatus.DENIED,
    grpc.StatusCode.UNIMPLEMENTED: SourceStatus.DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED: SourceStatus.TIMEOUT,
}
# 401, 403 and 404: of who asks. The other refusals are of one question, and say nothing about the connection.
_OF_WHO_ASKS: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND})
_SENTENCES: Final[Mapping[SourceStatus, str]] = {
    SourceStatus.DENIED: "The peer refused the query.",
    SourceStatus.TIMEOUT: "The peer did not answer in time.",
    SourceStatus.RATE_LIMITED: "The peer was asked too often; try again later.",
    SourceStatus.UNAVAILABLE: "The peer cannot be reached.",
}

Found = resources_pb2.Resource | pb.SearchHit | pb.GetCapabilitiesResponse


class Peers:
    """Asks the inbound edge of other gateways."""

    def __init__(self, channels: PeerChannels, clock: Clock) -> None:
        self._channels: Final = channels
        self._clock: Final = clock

    async def ask(self, connection: Connection, question: Question, *, position: str, seconds: float) -> SourcePage[Found]:
        if not connection.trust_bundle_pem:
            raise SourceFailed(
                SourceStatus.UNAVAILABLE, "This connection has no pinned root, so nobody can be trusted to be the peer."
            )
        asking = _Asking(self._channels.get(connection), seconds)
        verifier = AnswerVerifier(connection.name, question.resources, self._clock.now())
        try:
            return await _ask(asking, verifier, question, position)
        except grpc.aio.AioRpcError as error:
            failed = _failure(error, connection)
            if failed.reason is Reason.RESOURCE_NOT_FOUND and isinstance(question, GetRow):
                return SourcePage((), 0, "", truncated=False, reason=failed.reason)
            raise failed from None

    def drop(self, connection: Connection) -> None:
        self._channels.drop(connection)


async def _ask(asking: "_Asking", verifier: AnswerVerifier, question: Question, position: str) -> SourcePage[Found]:
    match question:
        case ListRows(resource, page_size):
            served, page_token = _parse_position(position)
            listing = pb.ListResourcesRequest(resource=resource, page_size=page_size, page_token=page_token)
            page = await asking(pb.ListResourcesResponse, "ListResources", listing, most_rows=page_size)
            return verifier.verified_page(page, page_size=page_size, served=served)
        case GetRow(resource, row_id):
            getting = pb.GetResourceRequest(resource=resource, id=str(row_id))
            row = await asking(pb.GetResourceResponse, "GetResource", getting, most_rows=1)
            return verifier.verified_row(row, row_id=str(row_id))
        case SearchRows(search, page_size):
            searching = pb.SearchResourcesRequest(
                resources=search.resources, query=search.text, embedding=search.embedding or (), page_size=page_size
            )
            hits = await asking(pb.SearchResourcesResponse, "SearchResources", searching, most_rows=page_size)
            return verifier.verified_hits(hits, page_size=page_size)
        case GetCapabilities():
            found = await asking(pb.GetCapabilitiesResponse, "GetCapabilities", pb.GetCapabilitiesRequest(), most_rows=0)
            return verifier.verified_capabilities(found)


@dataclass(frozen=True, slots=True)
class _Asking:
    """One call of FederationService, whose answer is looked at before it is unpacked."""

    channel: grpc.aio.Channel
    seconds: float

    async def __call__(self, answer: type[M], method: str, request: Message, *, most_rows: int) -> M:
        """Raises:
        grpc.aio.AioRpcError: the peer refused, or was not reached.
        SourceFailed: it said OK with no message, or with one that is none.
        """
        path = f"/{_SERVICE}/{method}"
        call: Any = self.channel.unary_unary(path, request_serializer=type(request).SerializeToString)
        unverified: bytes | None = await call(request, timeout=self.seconds)
        try:
            if unverified is None:
                raise DecodeError("OK, and no message")
            return parse_bounded(answer, unverified, most_fields=most_rows + MOST_OTHER_FIELDS)
        except DecodeError:
            raise SourceFailed(SourceStatus.UNAVAILABLE, _SENTENCES[SourceStatus.UNAVAILABLE]) from None


def _parse_position(position: str) -> tuple[int, str]:
    """Rows served so far and the peer's token; the position comes out of our own seal."""
    served, _, page_token = position.partition(":")
    return int(served or 0), page_token


def _failure(error: grpc.aio.AioRpcError, connection: Connection) -> SourceFailed:
    info = find_error_info(error)
    reason = Reason(info.reason) if info is not None else None
    status = _STATUSES.get(error.code(), SourceStatus.UNAVAILABLE)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and reason is Reason.RATE_LIMITED:
        # The library says RESOURCE_EXHAUSTED too, of a message above the limit.
        status = SourceStatus.RATE_LIMITED
    grant_status = _grant_status(info)
    sentence = _SENTENCES[status]
    if status is SourceStatus.DENIED and reason in OF_THE_CONNECTION:
        ended = f": its grant is {grant_status}" if grant_status else ""
        sentence = f"The peer refuses this connection{ended}; `mosaic federation peer show {connection.peer_id}` says what to do."
    return SourceFailed(status, sentence, reason, grant_status, refuses_us=error.code() in _OF_WHO_ASKS)


def _grant_status(info: ErrorInfo | None) -> str:
    said = info.metadata.get("grant_status", "") if info is not None else ""
    return said if said in _ENDS else ""


def find_error_info(error: grpc.aio.AioRpcError) -> ErrorInfo | None:
    """A peer's ErrorInfo, when its reason is one that exists; nothing else of its error is looked at."""
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            infos = [ErrorInfo.FromString(each.value) for each in Status.FromString(value).details if each.Is(ErrorInfo.DESCRIPTOR)]
        except DecodeError:
            return None
        for info in infos:
            if info.domain == DOMAIN and info.reason in Reason.__members__:
                return info
    return None
