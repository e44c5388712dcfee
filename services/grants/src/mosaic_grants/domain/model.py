"""What the ledger holds, as values. Times are aware, in UTC, by the database's clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum, unique
from typing import Any
from uuid import UUID

from mosaic_common.decision import RateLimit
from mosaic_common.errors import Reason
from mosaic_common.scope import Scope
from mosaic_common.x509 import IssuedCertificate

from mosaic_grants.domain.lifecycle import Direction, GrantStatus, PeerState


@dataclass(frozen=True, slots=True)
class User:
    """A user of this gateway, as the application's own table has them."""

    id: UUID
    email: str
    active: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate pinned for a grant, or held by a connection."""

    fingerprint: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    state: str
    superseded_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """An enrollment token's row. The token itself is nowhere.

    Attributes:
        token_id: SHA-256 of the token's public key, 32 bytes; its name.
        attempt: 0 before the first claim; the fence of every later step.
        serial: wanted by the running attempt, drawn before anything was signed.
        lease_until: another attempt for the same redemption waits until then.
        unfinished_at: when it was noticed that the token has run out with a claim that nobody finished.
        fingerprint: of the recorded certificate, once completed.
        reenroll: replaces the certificate of an active grant, instead of activating a pending one.
    """

    token_id: bytes
    grant_id: UUID
    peer_id: UUID
    created_by: str
    created_at: datetime
    expires_at: datetime
    voided_at: datetime | None
    redemption_id: UUID | None
    csr_sha256: bytes | None
    spki_sha256: bytes | None
    attempt: int
    serial: int | None
    lease_until: datetime | None
    unfinished_at: datetime | None
    fingerprint: bytes | None
    reenroll: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """A permission, with what its peer and its subject are now.

    Attributes:
        scope: the stored document; it was accepted when the grant was made.
        limit: None where the gateway's own limit holds.
    """

    id: UUID
    subject_user_id: UUID
    peer_id: UUID
    status: GrantStatus
    scope: Mapping[str, Any]
    created_by: str
    approved_by: str | None
    created_at: datetime
    activated_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_reason: str | None
    limit: RateLimit | None
    peer_name: str
    peer_common_name: str
    peer_state: PeerState
    subject: User | None

    @property
    def has_active_subject(self) -> bool:
        return self.subject is not None and self.subject.active


@dataclass(frozen=True, slots=True)
class Ticket:
    """An enrollment token with the grant that it is for. The token's row is locked."""

    token: Token
    grant: Grant


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the other gateway last answered on a connection: its reason, and the end of the grant where it named one."""

    reason: Reason
    grant_status: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Peer:
    """The other gateway: who may ask us (inbound), or one user's connection to it (outbound).

    Attributes:
        endpoint_url: outbound; ``host:port`` of its federation edge, once active.
        enrollment_url: outbound; ``https://host:port`` of its enrollment, without token.
        remote_gateway: outbound; the name under which its services present themselves.
    """

    id: UUID
    name: str
    common_name: str
    display_name: str
    direction: Direction
    state: PeerState
    endpoint_url: str | None
    enrollment_url: str | None
    trust_bundle_pem: bytes | None
    remote_gateway: str | None
    local_user_id: UUID | None
    local_user_email: str | None
    remote_grant_id: UUID | None
    remote_subject_user_id: UUID | None
    refusal: Refusal | None
    created_by: str
    created_at: datetime
    activated_at: datetime | None
    last_seen_at: datetime | None
    revoked_at: datetime | None
    revoked_reason: str | None


@dataclass(frozen=True, slots=True)
class ConnectionKey:
    """An outbound connection's key pair; the key is sealed and opens only for this row and this user.

    Attributes:
        redemption_id: of the one redemption that this key's CSR is for, however often it is repeated.
        token_id: of the token that it was last made or continued with; None for a key older than that.
    """

    id: UUID
    peer_id: UUID
    client_key_sealed: str
    csr_der: bytes
    redemption_id: UUID
    token_id: bytes | None
    certificate_pem: bytes | None
    chain_pem: bytes | None
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A completed enrollment, as it is answered every time."""

    certificate_der: bytes
    chain_der: tuple[bytes, ...]
    grant_id: UUID
    subject_user_id: UUID


@dataclass(frozen=True, slots=True)
class Claim:
    """What one guarded UPDATE writes."""

    token_id: bytes
    previous_attempt: int
    redemption_id: UUID
    csr_sha256: bytes
    spki_sha256: bytes
    serial: int
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class GrantDraft:
    """A grant that may be written."""

    subject: User
    peer: Peer
    scope: Scope
    expires_in: timedelta | None
    approved_by: str | None
    limit: RateLimit | None


@dataclass(frozen=True, slots=True)
class TokenDraft:
    """A token that may be written."""

    grant: Grant
    token_public_key: bytes
    life: timedelta
    reenroll: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A fresh key pair for a connection that is not active yet."""

    key_id: UUID
    client_key_sealed: str
    csr_der: bytes
    redemption_id: UUID
    token_id: bytes | None


@dataclass(frozen=True, slots=True)
class Received:
    """What the other gateway answered, verified."""

    issued: IssuedCertificate
    gateway: str
    endpoint: str
    trust_bundle_pem: bytes | None


@dataclass(frozen=True, slots=True)
class OwedRevocation:
    """A serial that the certificate authority has to list, whether or not it ever signed it."""

    serial: int
    grant_id: UUID
    reason: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A claim that nobody finished before its token ran out."""

    token_id: bytes
    grant_id: UUID
    peer_id: UUID
    attempt: int
    serial: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the audit log, as it is shown beside what it is about."""

    request_id: UUID
    time_us: int
    event: str
    actor: str
    source_address: str
    outcome: str
    denied_layer: str | None
    denied_reason: str | None
    token_id: bytes | None
    verb: str | None
    resource: str
    result_count: int
    repeated: int


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A connection's private key as it is stored, and what its seal is bound to."""

    id: UUID
    peer_id: UUID
    sealed: str
    csr_der: bytes
    local_user_id: UUID
    common_name: str


@dataclass(frozen=True, slots=True)
class Replica:
    """A process of grants, as it last announced itself."""

    id: UUID
    started_at: datetime
    seen_at: datetime
    current_key_id: str
    readable_key_ids: frozenset[str]


@unique
class Whereabouts(StrEnum):
    """What a get of one row would meet; OUT_OF_SCOPE: the user sees it, and the scope does not show it."""

    VISIBLE = "visible"
    OUT_OF_SCOPE = "out_of_scope"
    NOT_VISIBLE = "not_visible"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one resource; the latter two are None where there is no other scope."""

    visible: int
    visible_against: int | None
    visible_in_both: int | None


@dataclass(frozen=True, slots=True)
class Reads:
    """How often a grant was used; of those calls, how many its limits refused."""

    calls: int
    rate_limited: int
