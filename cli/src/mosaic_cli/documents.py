"""What a gateway answers, as JSON documents: names in snake case, states in lower case, times as RFC 3339, hashes in hex."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from mosaic.federation.v1.query_pb2 import QueryResponse, SourceResult
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic.grants.v1.types_pb2 import Certificate, EnrollmentToken, Grant, Peer
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.pki import LeafDescription, PkiDescription
from mosaic_common.x509 import IssuedCertificate

from mosaic_cli.times import iso, moment

Document = dict[str, Any]


def state_of(message: Message, field: str) -> str:
    """An enum field's value: `GRANT_STATUS_ACTIVE` → `active`; one of a newer gateway stays a number."""
    values: Mapping[int, Any] = _enum_of(message, field).values_by_number
    number = getattr(message, field)
    return values[number].name.removeprefix(values[0].name.removesuffix("UNSPECIFIED")).lower() if number in values else str(number)


def state_value(message: type[Message], field: str, name: str) -> Any:
    """The opposite of `state_of`. Raises ValueError, naming what there is."""
    enum = _enum_of(message, field)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    known = {each.removeprefix(prefix).lower(): value.number for each, value in enum.values_by_name.items() if value.number}
    if name not in known:
        raise ValueError(f"write one of {', '.join(known)}.")
    return known[name]


def grant_document(grant: Grant) -> Document:
    return {
        "id": grant.id,
        "status": state_of(grant, "status"),
        "peer": {"id": grant.peer_id, "name": grant.peer_name},
        "subject": {"user_id": grant.subject_user_id, "email": grant.subject_email or None},
        "scope": json.loads(grant.scope_json) if grant.scope_json else None,
        "created_by": grant.created_by,
        "approved_by": grant.approved_by or None,
        **_times(grant, "created_at", "activated_at", "expires_at", "revoked_at"),
        "revoked_reason": grant.revoked_reason or None,
        "certificates": [certificate_document(each) for each in grant.certificates],
        "tokens": [token_document(each) for each in grant.tokens],
    }


def peer_document(peer: Peer) -> Document:
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
        "certificates": [certificate_document(each) for each in peer.certificates],
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
        "created_by": token.created_by,
        **_times(token, "created_at", "expires_at"),
    }


def issued_document(certificate: IssuedCertificate) -> Document:
    """The certificate that an enrollment brought, with its two OIDs."""
    return {
        "grant_id": str(certificate.grant_id),
        "subject_user_id": str(certificate.subject_user_id),
        "oids": {GRANT_ID_OID: str(certificate.grant_id), SUBJECT_USER_ID_OID: str(certificate.subject_user_id)},
        "fingerprint_sha256": certificate.fingerprint.hex(),
        "serial": str(certificate.serial),
        "not_before": iso(certificate.not_before),
        "not_after": iso(certificate.not_after),
    }


def query_document(answer: QueryResponse) -> Document:
    return {
        "rows": [row_document(row) for row in answer.rows],
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
