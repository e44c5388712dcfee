"""The decision: may this certificate, under this grant, ask this?

A pure function, used by the edge before it reads, by `explain` and by `preview`. It serves reasons and early refusals; what it
allows is only asked of the database, whose read functions check the same in the snapshot of the answer.

The order is part of the contract. A stranger learns nothing about a grant (unknown and pending are one answer); only a pinned
certificate hears how its grant ended; what is wrong with the request is said last, to those who may ask at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final
from uuid import UUID

from mosaic_common.errors import AccessDenied, CertificateRefused, InvalidInput, Layer, MosaicError, Reason, Violation
from mosaic_common.resources import REGISTRY
from mosaic_common.scope import Scope

SUPERSEDED_GRACE: Final = timedelta(hours=24)
DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 500


@unique
class Verb(StrEnum):
    LIST = "list"
    GET = "get"
    SEARCH = "search"
    CAPABILITIES = "capabilities"


@unique
class GrantStatus(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"


@unique
class PeerState(StrEnum):
    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


@unique
class CertificateState(StrEnum):
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class CertificateView:
    """A certificate that was pinned for the grant; REVOKED also when its serial is on the CRL."""

    state: CertificateState
    superseded_at: datetime | None
    not_after: datetime


@dataclass(frozen=True, slots=True)
class GrantView:
    """What the grants service says about one grant.

    Attributes:
        subject_active: the subject user exists and is enabled.
        expires_at: None when the grant has no end.
        certificates: by fingerprint, SHA-256 of the DER, 32 bytes; every one ever pinned.
    """

    grant_id: UUID
    status: GrantStatus
    subject_user_id: UUID
    subject_active: bool
    peer_id: UUID
    peer_name: str
    peer_state: PeerState
    scope: Scope
    expires_at: datetime | None
    certificates: Mapping[bytes, CertificateView]


@dataclass(frozen=True, slots=True)
class Presented:
    """What the client certificate of a call says: SHA-256 of the DER, 32 bytes, and both OIDs."""

    fingerprint: bytes
    grant_id: UUID
    subject_user_id: UUID


@dataclass(frozen=True, slots=True)
class Allowed:
    """Ask the database.

    Attributes:
        resources: without duplicates, in the order asked; empty for capabilities.
        page_size: 1…500.
    """

    grant: GrantView
    resources: tuple[str, ...]
    page_size: int


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal. Two denials of one reason look the same to the peer, whatever led to them.

    Also made from a reason alone, where the database is the one that refused.
    """

    reason: Reason
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    violations: tuple[Violation, ...] = ()

    @property
    def layer(self) -> Layer:
        return _DENIALS[self.reason][0]

    def to_error(self) -> MosaicError:
        layer, sentence = _DENIALS[self.reason]
        return _KINDS.get(layer, AccessDenied)(
            self.reason, sentence, layer=layer, violations=self.violations, metadata=self.metadata
        )


_DENIALS: Final[Mapping[Reason, tuple[Layer, str]]] = {
    Reason.GRANT_NOT_ACTIVE: (Layer.GRANT, "No active grant answers to this certificate."),
    Reason.CERTIFICATE_NOT_PINNED: (Layer.CERTIFICATE, "This certificate was never accepted for its grant."),
    Reason.PEER_NOT_ACTIVE: (Layer.PEER, "The peer of this grant is not active."),
    Reason.CERTIFICATE_REVOKED: (Layer.CERTIFICATE, "This certificate is no longer accepted."),
    Reason.CERTIFICATE_NOT_ACCEPTED: (Layer.CERTIFICATE, "This certificate has expired."),
    Reason.SUBJECT_MISMATCH: (Layer.SUBJECT, "The certificate names another user than its grant."),
    Reason.SUBJECT_INACTIVE: (Layer.SUBJECT, "The user whose data this grant shows is not active."),
    Reason.RESOURCE_UNKNOWN: (Layer.REQUEST, "There is no such resource."),
    Reason.RESOURCE_NOT_GRANTED: (Layer.SCOPE, "The grant does not show this resource."),
    Reason.PAGE_SIZE_INVALID: (Layer.REQUEST, "The page size cannot be negative."),
}

_KINDS: Final[Mapping[Layer, type[MosaicError]]] = {Layer.CERTIFICATE: CertificateRefused, Layer.REQUEST: InvalidInput}


def decide(
    view: GrantView | None,
    presented: Presented,
    verb: Verb,
    resources: Sequence[str],
    now: datetime,
    *,
    page_size: int = 0,
) -> Allowed | Denied:
    """Return what architecture.md, "A federated read", step 4 orders.

    Args:
        view: of the grant that the certificate names; None when there is none.
        resources: one for list and get, any number for search, none for capabilities.
        page_size: as received; 0 means the default.
    """
    if view is None or view.grant_id != presented.grant_id:
        return Denied(Reason.GRANT_NOT_ACTIVE)
    return (
        _refuse_grant(view, presented, now)
        or _refuse_peer(view)
        or _refuse_certificate(view.certificates[presented.fingerprint], now)
        or _refuse_subject(view, presented)
        or _decide_request(view, verb, resources, page_size)
    )


def _refuse_grant(view: GrantView, presented: Presented, now: datetime) -> Denied | None:
    if view.status is GrantStatus.PENDING:
        return Denied(Reason.GRANT_NOT_ACTIVE)
    if presented.fingerprint not in view.certificates:
        return Denied(Reason.CERTIFICATE_NOT_PINNED)
    if view.status is GrantStatus.ACTIVE and (view.expires_at is None or now < view.expires_at):
        return None
    # From here on the certificate is one of the grant's own: a peer may know how its own grant ended.
    ended = GrantStatus.REVOKED if view.status is GrantStatus.REVOKED else GrantStatus.EXPIRED
    return Denied(Reason.GRANT_NOT_ACTIVE, metadata={"grant_status": ended.value})


def _refuse_peer(view: GrantView) -> Denied | None:
    return None if view.peer_state is PeerState.ACTIVE else Denied(Reason.PEER_NOT_ACTIVE)


def _refuse_certificate(certificate: CertificateView, now: datetime) -> Denied | None:
    if certificate.state is CertificateState.REVOKED:
        return Denied(Reason.CERTIFICATE_REVOKED)
    if certificate.state is CertificateState.SUPERSEDED and (
        certificate.superseded_at is None or now > certificate.superseded_at + SUPERSEDED_GRACE
    ):
        return Denied(Reason.CERTIFICATE_REVOKED)
    if now > certificate.not_after:  # RFC 5280 §4.1.2.5: valid through notAfter, inclusive
        return Denied(Reason.CERTIFICATE_NOT_ACCEPTED)
    return None


def _refuse_subject(view: GrantView, presented: Presented) -> Denied | None:
    if presented.subject_user_id != view.subject_user_id:
        return Denied(Reason.SUBJECT_MISMATCH)
    return None if view.subject_active else Denied(Reason.SUBJECT_INACTIVE)


def _decide_request(view: GrantView, verb: Verb, resources: Sequence[str], page_size: int) -> Allowed | Denied:
    if verb is Verb.CAPABILITIES:  # whoever holds a live grant may always ask what it is
        return Allowed(view, (), DEFAULT_PAGE_SIZE)
    if not resources or any(name not in REGISTRY for name in resources):
        where = "resources" if verb is Verb.SEARCH else "resource"
        return Denied(Reason.RESOURCE_UNKNOWN, violations=(Violation(where, f"must be one of {', '.join(REGISTRY)}"),))
    if not all(view.scope.grants(name) for name in resources):
        return Denied(Reason.RESOURCE_NOT_GRANTED)
    if page_size < 0:
        return Denied(Reason.PAGE_SIZE_INVALID, violations=(Violation("page_size", "must be 0, for the default, or positive"),))
    return Allowed(view, tuple(dict.fromkeys(resources)), min(page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE)
