"""Other gateways. What one returns is believed in nothing: it may be broken, broken into, or hostile."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mosaic.federation.v1 import federation_pb2, federation_pb2_grpc, resources_pb2
from mosaic_common.clock import Clock
from mosaic_common.errors import Reason
from mosaic_common.rpc.status import DETAILS_KEY, DOMAIN

from mosaic_federation_edge.adapters.peer_channels import PeerChannels
from mosaic_federation_edge.domain.connections import Connection
from mosaic_federation_edge.domain.fan_out import SourceFailed, SourcePage, SourceStatus
from mosaic_federation_edge.domain.merge import MAX_ANSWER_BYTES, clamp_time_us
from mosaic_federation_edge.domain.query_source import federated

CLOCK_SKEW: Final = timedelta(minutes=5)
MAX_PAGE_TOKEN: Final = 1024

_FIELDS: Final[Mapping[str, str]] = {
    "tasks": "task",
    "notes": "note",
    "memory": "memory",
    "credentials": "credential",
    "api_keys": "api_key",
}
# Times that lie in the past by their meaning; a due or an expiry may well be in the future.
_PAST_TIMES: Final[Mapping[str, tuple[str, ...]]] = {
    "credentials": ("created_at_us",),
    "api_keys": ("created_at_us", "last_used_at_us"),
}
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


class Peers:
    """Asks the inbound edge of other gateways."""

    def __init__(self, channels: PeerChannels, clock: Clock) -> None:
        self._channels: Final = channels
        self._clock: Final = clock

    async def list_rows(
        self, connection: Connection, resource: str, *, page_size: int, page_token: str, seconds: float
    ) -> SourcePage[resources_pb2.Resource]:
        if not connection.trust_bundle_pem:
            raise SourceFailed(
                SourceStatus.UNAVAILABLE, "This connection has no pinned root, so nobody can be trusted to be the peer."
            )
        stub = federation_pb2_grpc.FederationServiceStub(self._channels.get(connection))
        request = federation_pb2.ListResourcesRequest(resource=resource, page_size=page_size, page_token=page_token)
        try:
            unverified = await stub.ListResources(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            failed = _failure(error)
            if failed.status is SourceStatus.DENIED:
                self._channels.drop(connection)
            raise failed from None
        return verified_page(unverified, connection.name, resource, page_size=page_size, now=self._clock.now())


def verified_page(
    unverified: federation_pb2.ListResourcesResponse, connection: str, resource: str, *, page_size: int, now: datetime
) -> SourcePage[resources_pb2.Resource]:
    """Return a peer's page as one that this gateway can pass on.

    Raises:
        SourceFailed: more rows than were asked for, too many bytes, rows of another kind, ids that are none.
    """
    # What this release has no field for would otherwise pass through it unseen.
    unverified.DiscardUnknownFields()
    if len(unverified.resources) > page_size or len(unverified.next_page_token) > MAX_PAGE_TOKEN:
        raise _does_not_hold()
    latest_us = int((now + CLOCK_SKEW).timestamp()) * 1_000_000
    for row in unverified.resources:
        _verify_kind(row, resource)
        row.source = federated(connection)
        row.updated_at_us = clamp_time_us(row.updated_at_us, latest_us=latest_us)
        _clamp_past_times(row, resource, latest_us)
    size = unverified.ByteSize()
    if size > MAX_ANSWER_BYTES:
        raise _does_not_hold()
    # A page without rows that promises another could go on for ever.
    goes_on = bool(unverified.resources)
    return SourcePage(
        rows=unverified.resources,
        size_bytes=size,
        next_position=unverified.next_page_token if goes_on else "",
        truncated=unverified.truncated,
    )


def _verify_kind(row: resources_pb2.Resource, resource: str) -> None:
    ids = [row.id, row.owner_id, *([row.team_id] if row.HasField("team_id") else [])]
    try:
        is_canonical = all(str(UUID(each)) == each for each in ids)
    except ValueError:
        is_canonical = False
    if row.WhichOneof("resource") != _FIELDS[resource] or not is_canonical:
        raise _does_not_hold()


def _clamp_past_times(row: resources_pb2.Resource, resource: str, latest_us: int) -> None:
    own = getattr(row, _FIELDS[resource])
    for name in _PAST_TIMES.get(resource, ()):
        if getattr(own, name):
            setattr(own, name, clamp_time_us(getattr(own, name), latest_us=latest_us))


def _does_not_hold() -> SourceFailed:
    return SourceFailed(SourceStatus.UNAVAILABLE, "The peer's answer is not one that can be passed on.")


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
