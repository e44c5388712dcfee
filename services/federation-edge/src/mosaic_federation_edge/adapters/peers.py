"""Other gateways. What one returns is believed in nothing: it may be broken, broken into, or hostile."""

from collections.abc import Awaitable, Mapping
from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mosaic.federation.v1 import federation_pb2, federation_pb2_grpc, resources_pb2
from mosaic_common.clock import Clock
from mosaic_common.errors import Reason
from mosaic_common.rpc.status import DETAILS_KEY, DOMAIN

from mosaic_federation_edge.adapters.peer_answers import AnswerVerifier
from mosaic_federation_edge.adapters.peer_channels import PeerChannels
from mosaic_federation_edge.domain.connections import Connection
from mosaic_federation_edge.domain.fan_out import SourceFailed, SourcePage, SourceStatus
from mosaic_federation_edge.domain.questions import GetCapabilities, GetRow, ListRows, Question, SearchRows

M = TypeVar("M")

_STATUSES: Final[Mapping[grpc.StatusCode, SourceStatus]] = {
    grpc.StatusCode.UNAUTHENTICATED: SourceStatus.DENIED,
    grpc.StatusCode.PERMISSION_DENIED: SourceStatus.DENIED,
    grpc.StatusCode.NOT_FOUND: SourceStatus.DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: SourceStatus.DENIED,
    grpc.StatusCode.FAILED_PRECONDITION: SourceStatus.DENIED,
    grpc.StatusCode.UNIMPLEMENTED: SourceStatus.DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED: SourceStatus.TIMEOUT,
}
_SENTENCES: Final[Mapping[SourceStatus, str]] = {
    SourceStatus.DENIED: "The peer refused the query.",
    SourceStatus.TIMEOUT: "The peer did not answer in time.",
    SourceStatus.RATE_LIMITED: "The peer was asked too often; try again later.",
    SourceStatus.UNAVAILABLE: "The peer cannot be reached.",
}


Found = resources_pb2.Resource | federation_pb2.SearchHit | federation_pb2.GetCapabilitiesResponse


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
        stub = federation_pb2_grpc.FederationServiceStub(self._channels.get(connection))
        try:
            return await self._asked(stub, connection.name, question, position, seconds)
        except grpc.aio.AioRpcError as error:
            failed = _failure(error)
            if failed.reason is Reason.RESOURCE_NOT_FOUND and isinstance(question, GetRow):
                return SourcePage((), 0, "", truncated=False, reason=failed.reason)
            if failed.status is SourceStatus.DENIED:
                self._channels.drop(connection)
            raise failed from None

    async def _asked(
        self,
        stub: "federation_pb2_grpc.FederationServiceAsyncStub",  # a name for type checkers only
        connection: str,
        question: Question,
        position: str,
        seconds: float,
    ) -> SourcePage[Found]:
        verifier = AnswerVerifier(connection, question.resources, self._clock.now())
        match question:
            case ListRows(resource, page_size):
                listing = federation_pb2.ListResourcesRequest(resource=resource, page_size=page_size, page_token=position)
                return verifier.verified_page(await _message_of(stub.ListResources(listing, timeout=seconds)), page_size=page_size)
            case GetRow(resource, row_id):
                getting = federation_pb2.GetResourceRequest(resource=resource, id=str(row_id))
                return verifier.verified_row(await _message_of(stub.GetResource(getting, timeout=seconds)), row_id=str(row_id))
            case SearchRows(search, page_size):
                searching = federation_pb2.SearchResourcesRequest(
                    resources=search.resources, query=search.text, embedding=search.embedding or (), page_size=page_size
                )
                return verifier.verified_hits(
                    await _message_of(stub.SearchResources(searching, timeout=seconds)), page_size=page_size
                )
            case GetCapabilities():
                asking = federation_pb2.GetCapabilitiesRequest()
                return verifier.verified_capabilities(await _message_of(stub.GetCapabilities(asking, timeout=seconds)))


async def _message_of(call: Awaitable[M]) -> M:
    """The message, where the peer sent one.

    Raises:
        SourceFailed: it said OK with none, or with bytes that are none: the library gives None then.
    """
    message: M | None = await call
    if message is None:
        raise SourceFailed(SourceStatus.UNAVAILABLE, _SENTENCES[SourceStatus.UNAVAILABLE])
    return message


def _failure(error: grpc.aio.AioRpcError) -> SourceFailed:
    info = find_error_info(error)
    reason = Reason(info.reason) if info is not None else None
    status = _STATUSES.get(error.code(), SourceStatus.UNAVAILABLE)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and reason is Reason.RATE_LIMITED:
        # The library says RESOURCE_EXHAUSTED too, of a message above the limit.
        status = SourceStatus.RATE_LIMITED
    return SourceFailed(status, _SENTENCES[status], reason, info.metadata.get("grant_status", "") if info is not None else "")


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
