"""What a gateway answers, as JSON documents: names in snake case, states in lower case, times as RFC 3339, hashes in hex."""

import json
from typing import Any

from google.protobuf.message import Message
from mosaic.federation.v1.federation_pb2 import SearchHit, Verb
from mosaic.federation.v1.query_pb2 import QueryResponse, SourceResult
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic.grants.v1.grants_pb2 import ExplainGrantResponse, GetSealStatusResponse, PreviewGrantResponse, ResourcePreview
from mosaic.grants.v1.types_pb2 import AuditEntry, Certificate, ConnectionRefusal, EnrollmentToken, Grant, Peer
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.pki import LeafDescription, PkiDescription

from mosaic_cli.certificates import EnrolledCertificate
from mosaic_cli.rotation import Stage
from mosaic_cli.times import iso, moment

Document = dict[str, Any]


def state_of(message: Message, field: str) -> str:
    """An enum field's value: `GRANT_STATUS_ACTIVE` → `active`; one of a newer gateway stays a number."""
    enum, number = _enum_of(message, field), getattr(message, field)
    value = enum.values_by_number.get(number)
    return str(number) if value is None else _state_name(enum, value)


def state_names(message: type[Message], field: str) -> tuple[str, ...]:
    """Every value of an enum field as `state_of` writes it, but the unspecified one."""
    enum = _enum_of(message, field)
    return tuple(_state_name(enum, value) for value in enum.values if value.number)


def state_value(message: type[Message], field: str, name: str) -> Any:
    """The opposite of `state_of`. Raises ValueError, naming what there is."""
    enum = _enum_of(message, field)
    for value in enum.values:
        if value.number and _state_name(enum, value) == name:
            return value.number
    raise ValueError(f"write one of {', '.join(state_names(message, field))}.")


def grant_summary(grant: Grant) -> Document:
    """A grant as lists show it."""
    return {
        "id": grant.id,
        "status": state_of(grant, "status"),
        "peer": {"id": grant.peer_id, "name": grant.peer_name},
        "subject": {"user_id": grant.subject_user_id, "email": grant.subject_email or None},
        "scope": json.loads(grant.scope_json) if grant.scope_json else None,
        "limit": {"per_second": grant.limit.per_second, "burst": grant.limit.burst} if grant.HasField("limit") else None,
        "created_by": grant.created_by,
        "approved_by": grant.approved_by or None,
        **_times(grant, "created_at", "activated_at", "expires_at", "revoked_at"),
        "revoked_reason": grant.revoked_reason or None,
    }


def grant_document(grant: Grant) -> Document:
    """A grant with all that belongs to it."""
    return {
        **grant_summary(grant),
        "certificates": [certificate_document(each) for each in grant.certificates],
        "revocations_owed": grant.revocations_owed,
        "tokens": [token_document(each) for each in grant.tokens],
        "recent": [audit_document(each) for each in grant.recent],
    }


def explanation_document(answer: ExplainGrantResponse) -> Document:
    return {
        "allowed": answer.allowed,
        "reason": None if answer.allowed else state_of(answer, "reason").upper(),
        "layer": answer.layer or None,
        "layers": [
            {"layer": each.layer, "verdict": state_of(each, "verdict"), "sentence": each.sentence} for each in answer.layers
        ],
        "remedy": answer.remedy or None,
    }


def preview_document(answer: PreviewGrantResponse) -> Document:
    return {
        "grant_status": state_of(answer, "grant_status") if answer.grant_status else None,
        "subject_user_id": answer.subject_user_id,
        "scope": json.loads(answer.scope_json),
        "resources": [_resource_preview(each) for each in answer.resources],
    }


def _resource_preview(preview: ResourcePreview) -> Document:
    """Every count; null where it was not asked for, or could not be had in time."""
    return {field.name: _value(preview, field) for field in preview.DESCRIPTOR.fields}


def peer_summary(peer: Peer) -> Document:
    """A peer as lists show it."""
    return {
        "id": peer.id,
        "name": peer.name,
        "common_name": peer.common_name,
        "display_name": peer.display_name or None,
        "direction": state_of(peer, "direction"),
        "state": state_of(peer, "state"),
        "endpoint": peer.endpoint or None,
        "local_user": {"user_id": peer.local_user_id, "email": peer.local_user_email or None} if peer.local_user_id else None,
        "remote_gateway": peer.remote_gateway or None,
        "remote_grant_id": peer.remote_grant_id or None,
        "remote_subject_user_id": peer.remote_subject_user_id or None,
        "created_by": peer.created_by,
        **_times(peer, "created_at", "last_seen_at", "revoked_at"),
        "revoked_reason": peer.revoked_reason or None,
        "enrollment_pending": peer.enrollment_pending,
        "refusal": _refusal_document(peer.refusal) if peer.HasField("refusal") else None,
    }


def peer_document(peer: Peer) -> Document:
    """A peer with all that belongs to it."""
    return {
        **peer_summary(peer),
        "certificates": [certificate_document(each) for each in peer.certificates],
        "recent": [audit_document(each) for each in peer.recent],
    }


def certificate_document(certificate: Certificate) -> Document:
    return {
        "fingerprint_sha256": certificate.fingerprint.hex(),
        "serial": certificate.serial,
        "state": state_of(certificate, "state"),
        **_times(certificate, "not_before", "not_after", "superseded_at", "revoked_at"),
    }


def token_document(token: EnrollmentToken) -> Document:
    return {
        "token_id": token.token_id.hex(),
        "state": state_of(token, "state"),
        "attempt": token.attempt,
        "reenroll": token.reenroll,
        "created_by": token.created_by,
        **_times(token, "created_at", "expires_at", "lease_until"),
    }


def audit_document(entry: AuditEntry) -> Document:
    return {
        **_times(entry, "time"),
        "event": entry.event,
        "outcome": entry.outcome,
        "denied_layer": entry.denied_layer or None,
        "denied_reason": entry.denied_reason or None,
        "actor": entry.actor or None,
        "source_address": entry.source_address or None,
        "token_id": entry.token_id.hex() or None,
        "verb": entry.verb or None,
        "resource": entry.resource or None,
        "result_count": entry.result_count,
        "repeated": entry.repeated,
        "request_id": entry.request_id or None,
    }


def enrolled_document(certificate: EnrolledCertificate) -> Document:
    return {
        "grant_id": certificate.grant_id,
        "subject_user_id": certificate.subject_user_id,
        "oids": {GRANT_ID_OID: certificate.grant_id, SUBJECT_USER_ID_OID: certificate.subject_user_id},
        "fingerprint_sha256": certificate.fingerprint,
        "serial": certificate.serial,
        "not_before": iso(certificate.not_before),
        "not_after": iso(certificate.not_after),
    }


def seal_document(status: GetSealStatusResponse, stage: Stage) -> Document:
    return {
        "phase": stage.phase,
        "situation": stage.situation,
        "next": stage.next,
        "current_key_id": status.current_key_id,
        "rows_to_reseal": status.rows_to_reseal,
        "keys": [{"key_id": each.key_id, "rows": each.rows} for each in status.keys],
        "replicas": [
            {
                "id": each.id,
                **_times(each, "started_at", "seen_at"),
                "current_key_id": each.current_key_id,
                "readable_key_ids": list(each.readable_key_ids),
            }
            for each in status.replicas
        ],
    }


def query_document(answer: QueryResponse) -> Document:
    return {
        "rows": [*map(row_document, answer.rows), *map(hit_document, answer.hits)],
        "_partial": answer.partial,
        "sources": [source_document(each) for each in answer.sources],
        "next_page_token": answer.next_page_token or None,
    }


def row_document(row: Resource) -> Document:
    """One row, its own fields beside those that every row has."""
    kind = row.WhichOneof("resource")
    own = getattr(row, kind) if kind else None
    return {
        "_source": row.source,
        "id": row.id,
        "kind": kind,
        "updated_at": iso(moment(row.updated_at_us)),
        "owner_id": row.owner_id,
        "team_id": row.team_id if row.HasField("team_id") else None,
        **({} if own is None else {_spelled(field): _value(own, field) for field in own.DESCRIPTOR.fields}),
    }


def hit_document(hit: SearchHit) -> Document:
    """A row, and why it was found."""
    return row_document(hit.resource) | {
        "_rank": hit.rank,
        "_snippet": hit.snippet or None,
        "_distance": hit.distance if hit.HasField("distance") else None,
    }


def source_document(source: SourceResult) -> Document:
    return {
        "source": source.source,
        "status": state_of(source, "status"),
        "reason": source.reason or None,
        "message": source.message or None,
        "rows": source.row_count,
        "latency_ms": source.latency_us / 1000,
        "age_seconds": source.age_us / 1_000_000 if source.HasField("age_us") else None,
        "truncated": source.truncated,
    }


def capabilities_document(answer: QueryResponse) -> Document:
    return {
        "_partial": answer.partial,
        "sources": [source_document(each) | _capabilities_of(each) for each in answer.sources],
    }


def _capabilities_of(source: SourceResult) -> Document:
    if not source.HasField("capabilities"):
        return {"capabilities": None}
    found = source.capabilities
    return {
        "capabilities": {
            "resources": list(found.resources),
            "excluded_resources": list(found.excluded_resources),
            "max_rows_per_query": found.max_rows_per_query or None,
            "verbs": [Verb.Name(each).removeprefix("VERB_").lower() for each in found.supported_verbs],
            "grant_expires_at": iso(moment(found.grant_expires_at_us)) if found.HasField("grant_expires_at_us") else None,
            "server_version": found.server_version,
        }
    }


def _refusal_document(refusal: ConnectionRefusal) -> Document:
    return {
        "reason": state_of(refusal, "reason").upper(),
        "grant_status": refusal.grant_status or None,
        **_times(refusal, "time"),
        "sentence": refusal.sentence,
    }


def _state_name(enum: Any, value: Any) -> str:
    prefix: str = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(value.name.removeprefix(prefix)).lower()


def _enum_of(message: Message | type[Message], field: str) -> Any:
    return message.DESCRIPTOR.fields_by_name[field].enum_type


def _times(message: Message, *names: str) -> Document:
    return {name: _value(message, message.DESCRIPTOR.fields_by_name[f"{name}_us"]) for name in names}


def _spelled(field: Any) -> Any:
    return field.name.removesuffix("_us")


def _value(message: Message, field: Any) -> object:
    if field.has_presence and not message.HasField(field.name):
        return None
    value = getattr(message, field.name)
    return iso(moment(value)) if field.name.endswith("_us") else value


def pki_document(pki: PkiDescription) -> Document:
    return {
        "gateway": pki.gateway,
        "public_host": pki.public_host,
        "root": {
            "certificate": str(pki.root_certificate),
            "fingerprint_sha256": pki.root_fingerprint_sha256,
            "not_after": iso(pki.root_not_after),
        },
        "identities": [
            {
                "name": identity.name,
                "folder": str(identity.folder),
                "internal": _leaf_document(identity.internal),
                "public": None if identity.public is None else _leaf_document(identity.public),
            }
            for identity in pki.identities
        ],
    }


def _leaf_document(leaf: LeafDescription) -> Document:
    return {
        "certificate": str(leaf.certificate),
        "key": str(leaf.key),
        "fingerprint_sha256": leaf.fingerprint_sha256,
        "serial": str(leaf.serial),
        "names": list(leaf.names),
        "not_after": iso(leaf.not_after),
    }
