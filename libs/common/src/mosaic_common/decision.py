"""The decision: may this certificate, under this grant, ask this?

One table of checks, walked by `decide` for the edge before it reads, and by `explain` for operators: what is explained is what is
enforced. It serves reasons and early refusals; what it allows is only asked of the database, whose read functions check the same in
the snapshot of the answer.

The order is part of the contract. A stranger learns nothing about a grant (unknown and pending are one answer); only a pinned
certificate hears how its grant ended; what is wrong with the request is said last, to those who may ask at all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final, NamedTuple
from uuid import UUID

from mosaic_common.audit_heads import SignedGrantHead
from mosaic_common.errors import AccessDenied, CertificateRefused, InvalidInput, Layer, MosaicError, Reason, Violation
from mosaic_common.resources import REGISTRY
from mosaic_common.scope import Filter, Scope

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
class RateLimit:
    """How much a grant may ask: a bucket of ``burst`` that fills with ``per_second``."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class GrantView:
    """What the grants service says about one grant.

    Attributes:
        subject_active: the subject user exists and is enabled.
        expires_at: None when the grant has no end.
        certificates: by fingerprint, SHA-256 of the DER, 32 bytes; every one ever pinned.
        audit_head: the latest of this grant's rows; its peer may know it.
        limit: None where the gateway's own limit holds.
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
    audit_head: SignedGrantHead | None = None
    limit: RateLimit | None = None


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


@unique
class Verdict(StrEnum):
    PASSED = "passed"
    REFUSED = "refused"
    NOT_REACHED = "not_reached"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to.

    Attributes:
        sentence: what was looked at and what was found, for an operator; it may name what a peer is never told.
        reason: of a refusal.
    """

    layer: Layer
    verdict: Verdict
    sentence: str
    reason: Reason | None = None


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
    """Return what architecture.md, "A federated read", step 4 orders: the first refusal, or what to ask the database.

    Args:
        view: of the grant that the certificate names; None when there is none.
        resources: one for list and get, any number for search, none for capabilities.
        page_size: as received; 0 means the default.
    """
    if view is None:
        return Denied(Reason.GRANT_NOT_ACTIVE)
    call = _Call(view, presented, verb, resources, now, page_size)
    checks = _CHECKS[verb]
    for check in checks:
        denied = check.refuse(call)
        if denied is not None:
            return denied
    if checks is _WHO:
        return Allowed(view, (), DEFAULT_PAGE_SIZE)
    return Allowed(view, tuple(dict.fromkeys(resources)), min(page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE)


def explain(
    view: GrantView,
    presented: Presented,
    verb: Verb,
    resources: Sequence[str],
    now: datetime,
    *,
    page_size: int = 0,
    names: Mapping[UUID, str],
) -> tuple[Finding, ...]:
    """Return every check that `decide` makes of this call, in its order, with what it came to.

    Args:
        names: what operators call users and teams; who is missing is named by id.
    """
    call = _Call(view, presented, verb, resources, now, page_size)
    findings: list[Finding] = []
    refused = False
    for check in _CHECKS[verb]:
        if refused:
            findings.append(Finding(check.layer, Verdict.NOT_REACHED, f"Not looked at: {check.question}."))
        elif (denied := check.refuse(call)) is not None:
            refused = True
            findings.append(Finding(check.layer, Verdict.REFUSED, check.found(call, names), denied.reason))
        else:
            findings.append(Finding(check.layer, Verdict.PASSED, check.found(call, names)))
    return tuple(findings)


@dataclass(slots=True)  # not frozen: made for every read, and that would cost as much as three of the checks
class _Call:
    """What a check may look at."""

    view: GrantView
    presented: Presented
    verb: Verb
    resources: Sequence[str]
    now: datetime
    page_size: int


class _Check(NamedTuple):
    """One lock.

    Attributes:
        question: what it answers, as a part of a sentence.
        found: what there is to see, passed or refused; asked for only once every earlier check has passed.
    """

    layer: Layer
    question: str
    refuse: Callable[[_Call], Denied | None]
    found: Callable[[_Call, Mapping[UUID, str]], str]


# --- who asks


def _refuse_unissued(call: _Call) -> Denied | None:
    if call.view.grant_id != call.presented.grant_id or call.view.status is GrantStatus.PENDING:
        return Denied(Reason.GRANT_NOT_ACTIVE)
    return None


def _found_issued(call: _Call, _names: Mapping[UUID, str]) -> str:
    if call.view.grant_id != call.presented.grant_id:
        return f"The certificate names the grant {call.presented.grant_id}, and this is {call.view.grant_id}."
    if call.view.status is GrantStatus.PENDING:
        return "The grant is pending: nobody has redeemed a token of it."
    return "The certificate names this grant, which is not pending any more."


def _refuse_unpinned(call: _Call) -> Denied | None:
    return None if call.presented.fingerprint in call.view.certificates else Denied(Reason.CERTIFICATE_NOT_PINNED)


def _found_pinned(call: _Call, _names: Mapping[UUID, str]) -> str:
    if not call.view.certificates:
        return "No certificate was ever pinned for this grant."
    found = "was" if call.presented.fingerprint in call.view.certificates else "was never"
    return f"The certificate {_short(call)} {found} pinned for this grant."


def _refuse_ended(call: _Call) -> Denied | None:
    view = call.view
    if view.status is GrantStatus.ACTIVE and (view.expires_at is None or call.now < view.expires_at):
        return None
    # From here on the certificate is one of the grant's own: a peer may know how its own grant ended.
    ended = GrantStatus.REVOKED if view.status is GrantStatus.REVOKED else GrantStatus.EXPIRED
    return Denied(Reason.GRANT_NOT_ACTIVE, metadata={"grant_status": ended.value})


def _found_end(call: _Call, _names: Mapping[UUID, str]) -> str:
    view = call.view
    if view.status is GrantStatus.REVOKED:
        return "The grant is revoked."
    if view.expires_at is None:
        return "The grant is active and has no end." if view.status is GrantStatus.ACTIVE else "The grant has expired."
    over = view.status is GrantStatus.EXPIRED or call.now >= view.expires_at
    return f"The grant {'ended' if over else 'is active and ends'} at {_moment(view.expires_at)}."


def _refuse_peer(call: _Call) -> Denied | None:
    return None if call.view.peer_state is PeerState.ACTIVE else Denied(Reason.PEER_NOT_ACTIVE)


def _found_peer(call: _Call, _names: Mapping[UUID, str]) -> str:
    return f"The peer {call.view.peer_name} is {call.view.peer_state.value}."


def _refuse_certificate(call: _Call) -> Denied | None:
    certificate = call.view.certificates[call.presented.fingerprint]
    if certificate.state is not CertificateState.ACTIVE and (
        certificate.state is CertificateState.REVOKED
        or certificate.superseded_at is None
        or call.now > certificate.superseded_at + SUPERSEDED_GRACE
    ):
        return Denied(Reason.CERTIFICATE_REVOKED)
    if call.now > certificate.not_after:  # RFC 5280 §4.1.2.5: valid through notAfter, inclusive
        return Denied(Reason.CERTIFICATE_NOT_ACCEPTED)
    return None


def _found_certificate(call: _Call, _names: Mapping[UUID, str]) -> str:
    certificate = call.view.certificates[call.presented.fingerprint]
    named = f"The certificate {_short(call)}"
    if certificate.state is CertificateState.REVOKED:
        return f"{named} is revoked."
    expired = call.now > certificate.not_after
    if certificate.state is CertificateState.ACTIVE or expired:
        return f"{named} {'expired at' if expired else 'is valid until'} {_moment(certificate.not_after)}."
    if certificate.superseded_at is None:
        return f"{named} was superseded by a newer one, nobody knows when."
    end = certificate.superseded_at + SUPERSEDED_GRACE
    return f"{named} was superseded by a newer one and {'is' if call.now <= end else 'was'} accepted until {_moment(end)}."


def _refuse_mismatch(call: _Call) -> Denied | None:
    return None if call.presented.subject_user_id == call.view.subject_user_id else Denied(Reason.SUBJECT_MISMATCH)


def _found_subject(call: _Call, names: Mapping[UUID, str]) -> str:
    named, granted = (_name(names, user) for user in (call.presented.subject_user_id, call.view.subject_user_id))
    return f"The certificate names the user {named}, and the grant is for {'the same' if named == granted else granted}."


def _refuse_inactive(call: _Call) -> Denied | None:
    return None if call.view.subject_active else Denied(Reason.SUBJECT_INACTIVE)


def _found_active(call: _Call, names: Mapping[UUID, str]) -> str:
    found = "is active" if call.view.subject_active else "is disabled or gone"
    return f"The user {_name(names, call.view.subject_user_id)} {found}."


# --- what is asked


def _refuse_unknown(call: _Call) -> Denied | None:
    for name in call.resources:
        if name not in REGISTRY:
            break
    else:
        if call.resources:
            return None
    where = "resources" if call.verb is Verb.SEARCH else "resource"
    return Denied(Reason.RESOURCE_UNKNOWN, violations=(Violation(where, f"must be one of {', '.join(REGISTRY)}"),))


def _found_resources(call: _Call, _names: Mapping[UUID, str]) -> str:
    if not call.resources:
        return "No resource is named."
    unknown = [repr(name[:64]) for name in call.resources if name not in REGISTRY]
    if unknown:
        return f"There is no resource {_listed(unknown)}; there are {_listed(REGISTRY)}."
    return f"This gateway has {_listed(dict.fromkeys(call.resources))}."


def _refuse_ungranted(call: _Call) -> Denied | None:
    scope = call.view.scope
    for name in call.resources:
        if not scope.grants(name):
            return Denied(Reason.RESOURCE_NOT_GRANTED)
    return None


def _found_scope(call: _Call, names: Mapping[UUID, str]) -> str:
    scope, asked = call.view.scope, tuple(dict.fromkeys(call.resources))
    missing = [name for name in asked if not scope.grants(name)]
    if missing:
        return f"The scope does not show {_listed(missing)}; it shows {_listed(scope.resources)}."
    return f"The scope shows {_listed(f'{name} ({_narrowing(scope.filters.get(name), names)})' for name in asked)}."


def _narrowing(rule: Filter | None, names: Mapping[UUID, str]) -> str:
    if rule is None:
        return "all that the user sees"
    teams = [f"rows of {_listed(_name(names, team) for team in rule.include_teams)}"] if rule.include_teams else []
    return _listed([*(["personal rows"] if rule.include_personal else []), *teams]) or "no rows"


def _refuse_page_size(call: _Call) -> Denied | None:
    if call.page_size >= 0:
        return None
    return Denied(Reason.PAGE_SIZE_INVALID, violations=(Violation("page_size", "must be 0, for the default, or positive"),))


def _found_page_size(call: _Call, _names: Mapping[UUID, str]) -> str:
    if call.page_size < 0:
        return f"The page size is {call.page_size}."
    return f"A page has at most {min(call.page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE} rows."


# The order is the contract's: see above. Whoever holds a live grant may always ask what it is, and a get has no pages.
_WHO: Final = (
    _Check(Layer.GRANT, "whether the grant was ever enrolled", _refuse_unissued, _found_issued),
    _Check(Layer.CERTIFICATE, "whether the certificate was ever pinned for the grant", _refuse_unpinned, _found_pinned),
    _Check(Layer.GRANT, "whether the grant is still active", _refuse_ended, _found_end),
    _Check(Layer.PEER, "whether the peer is active", _refuse_peer, _found_peer),
    _Check(Layer.CERTIFICATE, "whether the certificate is still accepted", _refuse_certificate, _found_certificate),
    _Check(Layer.SUBJECT, "whether the certificate names the grant's user", _refuse_mismatch, _found_subject),
    _Check(Layer.SUBJECT, "whether the user is active", _refuse_inactive, _found_active),
)
_WHAT: Final = (
    _Check(Layer.REQUEST, "whether there is such a resource", _refuse_unknown, _found_resources),
    _Check(Layer.SCOPE, "whether the scope shows the resource", _refuse_ungranted, _found_scope),
)
_PAGE: Final = (_Check(Layer.REQUEST, "whether the page size can be served", _refuse_page_size, _found_page_size),)
_CHECKS: Final[Mapping[Verb, tuple[_Check, ...]]] = {
    Verb.LIST: _WHO + _WHAT + _PAGE,
    Verb.GET: _WHO + _WHAT,
    Verb.SEARCH: _WHO + _WHAT + _PAGE,
    Verb.CAPABILITIES: _WHO,
}


def _name(names: Mapping[UUID, str], whom: UUID) -> str:
    return names.get(whom) or str(whom)


def _short(call: _Call) -> str:
    """As the audit log writes who called."""
    return call.presented.fingerprint.hex()[:16]


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _listed(names: Iterable[str]) -> str:
    *most, last = [*names] or [""]
    return f"{', '.join(most)} and {last}" if most else last
