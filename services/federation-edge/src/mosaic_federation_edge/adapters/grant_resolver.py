"""Grant views from the grants service."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import grpc
from mosaic.audit.v1 import audit_pb2
from mosaic.grants.v1 import ledger_pb2, ledger_pb2_grpc, types_pb2
from mosaic_common.audit_heads import GrantHead, SignedGrantHead
from mosaic_common.decision import CertificateState, CertificateView, GrantStatus, GrantView, PeerState, RateLimit
from mosaic_common.errors import Layer, MosaicError, Reason, ScopeRefused, Unavailable
from mosaic_common.rpc.client import answer_of
from mosaic_common.scope import parse_scope_json

# A call waits for this: the rest of its time is for the read and the audit.
RESOLVE_SECONDS: Final = 2.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class GrantsResolver:
    """GrantResolverService of this gateway."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Final = ledger_pb2_grpc.GrantResolverServiceStub(channel)

    async def find_grant(self, grant_id: UUID) -> GrantView | None:
        request = ledger_pb2.ResolveGrantRequest(grant_id=str(grant_id))
        try:
            response = await answer_of(self._stub.ResolveGrant(request, timeout=RESOLVE_SECONDS), dependency="grants")
        except MosaicError as error:
            # Whatever grants says of itself is between the two of us.
            raise _no_view(
                f"The grants service gave no grant: {error.message}", "Check that grants runs and is healthy."
            ) from error
        if not response.HasField("view"):
            return None
        try:
            return _parse_view(response.view)
        except (ValueError, OverflowError, ScopeRefused) as error:
            # A view that cannot be read decides nothing.
            raise _no_view(
                "The grants service gave a grant that cannot be read.", "Run the same release of grants and edge."
            ) from error


def _no_view(message: str, remedy: str) -> Unavailable:
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE, message, layer=Layer.DEPENDENCY, remedy=remedy, metadata={"dependency": "grants"}
    )


def _parse_view(view: ledger_pb2.GrantView) -> GrantView:
    return GrantView(
        grant_id=UUID(view.grant_id),
        status=GrantStatus(_word(types_pb2.GrantStatus.Name(view.status), "GRANT_STATUS_")),
        subject_user_id=UUID(view.subject_user_id),
        subject_active=view.subject_active,
        peer_id=UUID(view.peer_id),
        peer_name=view.peer_name,
        peer_state=PeerState(_word(types_pb2.PeerState.Name(view.peer_state), "PEER_STATE_")),
        scope=parse_scope_json(view.scope_json),
        expires_at=_moment(view.expires_at_us) if view.HasField("expires_at_us") else None,
        certificates={each.fingerprint: _parse_certificate(each) for each in view.certificates},
        audit_head=_parse_head(view.audit_head) if view.HasField("audit_head") else None,
        limit=_parse_limit(view.limit) if view.HasField("limit") else None,
    )


def _parse_certificate(certificate: types_pb2.Certificate) -> CertificateView:
    return CertificateView(
        state=CertificateState(_word(types_pb2.CertificateState.Name(certificate.state), "CERTIFICATE_STATE_")),
        superseded_at=_moment(certificate.superseded_at_us) if certificate.HasField("superseded_at_us") else None,
        not_after=_moment(certificate.not_after_us),
    )


def _parse_head(head: audit_pb2.GrantAuditHead) -> SignedGrantHead:
    return SignedGrantHead(GrantHead(UUID(head.grant_id), head.rows, head.hash, head.time_us), head.signature)


def _parse_limit(limit: types_pb2.RateLimit) -> RateLimit:
    if not (limit.per_second > 0 and limit.burst > 0):
        raise ValueError("a limit that lets nothing through")
    return RateLimit(limit.per_second, limit.burst)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def _moment(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
