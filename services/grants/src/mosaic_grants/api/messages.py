"""Domain values to messages."""

from collections.abc import Sequence
from datetime import datetime

from mosaic.audit.v1 import audit_pb2
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import ledger_pb2, types_pb2
from mosaic_common.audit_heads import SignedGrantHead
from mosaic_common.decision import RateLimit
from mosaic_common.scope import parse_scope

from mosaic_grants.api.requests import micros
from mosaic_grants.domain.connections import refusal_sentence
from mosaic_grants.domain.model import AuditEntry, Certificate, ConnectionKey, Grant, Peer, Recorded, Token
from mosaic_grants.domain.permissions import token_state


def grant_message(grant: Grant) -> types_pb2.Grant:
    message = types_pb2.Grant(
        id=str(grant.id),
        subject_user_id=str(grant.subject_user_id),
        subject_email=grant.subject.email if grant.subject else "",
        peer_id=str(grant.peer_id),
        peer_name=grant.peer_name,
        status=types_pb2.GrantStatus.Value(f"GRANT_STATUS_{grant.status.name}"),
        scope_json=parse_scope(grant.scope).to_json(),
        created_by=grant.created_by,
        approved_by=grant.approved_by or "",
        created_at_us=micros(grant.created_at),
        revoked_reason=grant.revoked_reason or "",
    )
    if grant.activated_at:
        message.activated_at_us = micros(grant.activated_at)
    if grant.expires_at:
        message.expires_at_us = micros(grant.expires_at)
    if grant.revoked_at:
        message.revoked_at_us = micros(grant.revoked_at)
    if grant.limit:
        message.limit.CopyFrom(_limit_message(grant.limit))
    return message


def certificate_message(certificate: Certificate) -> types_pb2.Certificate:
    message = types_pb2.Certificate(
        fingerprint=certificate.fingerprint,
        serial=str(certificate.serial),
        not_before_us=micros(certificate.not_before),
        not_after_us=micros(certificate.not_after),
        state=types_pb2.CertificateState.Value(f"CERTIFICATE_STATE_{certificate.state.upper()}"),
    )
    if certificate.superseded_at:
        message.superseded_at_us = micros(certificate.superseded_at)
    if certificate.revoked_at:
        message.revoked_at_us = micros(certificate.revoked_at)
    return message


def certificates_of(key: ConnectionKey | None) -> list[Certificate]:
    """Return the certificate that a connection uses, if it has one."""
    return [key.certificate] if key is not None and key.certificate is not None else []


def token_message(token: Token, now: datetime) -> types_pb2.EnrollmentToken:
    return types_pb2.EnrollmentToken(
        token_id=token.token_id,
        state=types_pb2.EnrollmentTokenState.Value(f"ENROLLMENT_TOKEN_STATE_{token_state(token, now).upper()}"),
        created_at_us=micros(token.created_at),
        expires_at_us=micros(token.expires_at),
        attempt=token.attempt,
        created_by=token.created_by,
        reenroll=token.reenroll,
        lease_until_us=micros(token.lease_until) if token.lease_until and token.fingerprint is None else None,
    )


def entry_message(entry: AuditEntry) -> types_pb2.AuditEntry:
    return types_pb2.AuditEntry(
        request_id=str(entry.request_id),
        time_us=entry.time_us,
        event=entry.event,
        actor=entry.actor,
        source_address=entry.source_address,
        outcome=entry.outcome,
        denied_layer=entry.denied_layer or "",
        denied_reason=entry.denied_reason or "",
        token_id=entry.token_id or b"",
        verb=entry.verb or "",
        resource=entry.resource,
        result_count=entry.result_count,
        repeated=entry.repeated,
    )


def peer_message(peer: Peer, certificates: Sequence[Certificate] = ()) -> types_pb2.Peer:
    message = types_pb2.Peer(
        id=str(peer.id),
        name=peer.name,
        common_name=peer.common_name,
        display_name=peer.display_name,
        direction=types_pb2.PeerDirection.Value(f"PEER_DIRECTION_{peer.direction.name}"),
        state=types_pb2.PeerState.Value(f"PEER_STATE_{peer.state.name}"),
        endpoint=peer.endpoint_url or "",
        local_user_id=_text(peer.local_user_id),
        local_user_email=peer.local_user_email or "",
        remote_grant_id=_text(peer.remote_grant_id),
        remote_subject_user_id=_text(peer.remote_subject_user_id),
        remote_gateway=peer.remote_gateway or "",
        created_by=peer.created_by,
        created_at_us=micros(peer.created_at),
        revoked_reason=peer.revoked_reason or "",
        certificates=[certificate_message(certificate) for certificate in certificates],
    )
    if peer.last_seen_at:
        message.last_seen_at_us = micros(peer.last_seen_at)
    if peer.revoked_at:
        message.revoked_at_us = micros(peer.revoked_at)
    if peer.refusal:
        message.refusal.CopyFrom(
            types_pb2.ConnectionRefusal(
                reason=errors_pb2.Reason.Value(f"REASON_{peer.refusal.reason.name}"),
                grant_status=peer.refusal.grant_status,
                time_us=micros(peer.refusal.at),
                sentence=refusal_sentence(peer, peer.refusal),
            )
        )
    return message


def enrolled_message(recorded: Recorded, *, gateway: str, federation_endpoint: str) -> ledger_pb2.Enrolled:
    return ledger_pb2.Enrolled(
        certificate_der=recorded.certificate_der,
        chain_der=recorded.chain_der,
        grant_id=str(recorded.grant_id),
        subject_user_id=str(recorded.subject_user_id),
        gateway=gateway,
        federation_endpoint=federation_endpoint,
    )


def view_message(
    grant: Grant, certificates: Sequence[Certificate], audit_head: SignedGrantHead | None = None
) -> ledger_pb2.GrantView:
    message = ledger_pb2.GrantView(
        grant_id=str(grant.id),
        status=types_pb2.GrantStatus.Value(f"GRANT_STATUS_{grant.status.name}"),
        subject_user_id=str(grant.subject_user_id),
        subject_active=grant.has_active_subject,
        peer_id=str(grant.peer_id),
        peer_name=grant.peer_name,
        peer_state=types_pb2.PeerState.Value(f"PEER_STATE_{grant.peer_state.name}"),
        scope_json=parse_scope(grant.scope).to_json(),
        certificates=[certificate_message(certificate) for certificate in certificates],
    )
    if grant.expires_at:
        message.expires_at_us = micros(grant.expires_at)
    if grant.limit:
        message.limit.CopyFrom(_limit_message(grant.limit))
    if audit_head:
        message.audit_head.CopyFrom(grant_head_message(audit_head))
    return message


def grant_head_message(signed: SignedGrantHead) -> audit_pb2.GrantAuditHead:
    head = signed.head
    return audit_pb2.GrantAuditHead(
        grant_id=str(head.grant_id), rows=head.rows, hash=head.hash, time_us=head.time_us, signature=signed.signature
    )


def _limit_message(limit: RateLimit) -> types_pb2.RateLimit:
    return types_pb2.RateLimit(per_second=limit.per_second, burst=limit.burst)


def _text(value: object) -> str:
    return "" if value is None else str(value)
