"""Who may ask what: the denial table as far as the engine decides it, and the order of its checks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Final
from uuid import UUID

import pytest
from mosaic_common.decision import (
    SUPERSEDED_GRACE,
    Allowed,
    CertificateState,
    CertificateView,
    Denied,
    GrantStatus,
    GrantView,
    PeerState,
    Presented,
    Verb,
    decide,
)
from mosaic_common.errors import STATUS, AccessDenied, CertificateRefused, Code, InvalidInput, Layer, Reason
from mosaic_common.scope import parse_scope

NOW: Final = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
SECOND: Final = timedelta(seconds=1)
GRANT_ID: Final = UUID("11111111-1111-4111-8111-111111111111")
SUBJECT: Final = UUID("22222222-2222-4222-8222-222222222222")
STRANGER: Final = UUID("99999999-9999-4999-8999-999999999999")
FINGERPRINT: Final = b"\x01" * 32


@dataclass(frozen=True)
class Case:
    """One call, everything right until a step of a test spoils it."""

    view: GrantView | None
    presented: Presented
    verb: Verb = Verb.LIST
    resources: tuple[str, ...] = ("tasks",)
    page_size: int = 0

    def decide(self) -> Allowed | Denied:
        return decide(self.view, self.presented, self.verb, self.resources, NOW, page_size=self.page_size)


GRANT: Final = GrantView(
    grant_id=GRANT_ID,
    status=GrantStatus.ACTIVE,
    subject_user_id=SUBJECT,
    subject_active=True,
    peer_id=UUID("33333333-3333-4333-8333-333333333333"),
    peer_name="home",
    peer_state=PeerState.ACTIVE,
    scope=parse_scope({"resources": ["tasks", "notes"], "excluded_resources": ["credentials"], "max_rows_per_query": 500}),
    expires_at=NOW + timedelta(days=7),
    certificates={FINGERPRINT: CertificateView(CertificateState.ACTIVE, None, NOW + timedelta(days=7))},
)
RIGHT: Final = Case(GRANT, Presented(FINGERPRINT, GRANT_ID, SUBJECT))

Spoil = Callable[[Case], Case]


def grant(**changes: object) -> Spoil:
    return lambda case: case if case.view is None else replace(case, view=replace(case.view, **changes))  # type: ignore[arg-type]


def certificate(**changes: object) -> Spoil:
    def spoil(case: Case) -> Case:
        if case.view is None:
            return case
        pinned = {name: replace(view, **changes) for name, view in case.view.certificates.items()}  # type: ignore[arg-type]
        return replace(case, view=replace(case.view, certificates=pinned))

    return spoil


def presented(**changes: object) -> Spoil:
    return lambda case: replace(case, presented=replace(case.presented, **changes))  # type: ignore[arg-type]


def request(**changes: object) -> Spoil:
    return lambda case: replace(case, **changes)  # type: ignore[arg-type]


def unknown_grant(case: Case) -> Case:
    return replace(case, view=None)


superseded_long_ago: Final = certificate(state=CertificateState.SUPERSEDED, superseded_at=NOW - SUPERSEDED_GRACE - SECOND)

DENIALS: Final = [
    pytest.param(unknown_grant, Layer.GRANT, Reason.GRANT_NOT_ACTIVE, {}, id="grant unknown"),
    pytest.param(presented(grant_id=STRANGER), Layer.GRANT, Reason.GRANT_NOT_ACTIVE, {}, id="the view of another grant"),
    pytest.param(grant(status=GrantStatus.PENDING), Layer.GRANT, Reason.GRANT_NOT_ACTIVE, {}, id="grant pending"),
    pytest.param(presented(fingerprint=b"\x02" * 32), Layer.CERTIFICATE, Reason.CERTIFICATE_NOT_PINNED, {}, id="never pinned"),
    pytest.param(
        grant(status=GrantStatus.REVOKED), Layer.GRANT, Reason.GRANT_NOT_ACTIVE, {"grant_status": "revoked"}, id="grant revoked"
    ),
    pytest.param(
        grant(status=GrantStatus.EXPIRED), Layer.GRANT, Reason.GRANT_NOT_ACTIVE, {"grant_status": "expired"}, id="grant expired"
    ),
    pytest.param(
        grant(expires_at=NOW),
        Layer.GRANT,
        Reason.GRANT_NOT_ACTIVE,
        {"grant_status": "expired"},
        id="grant at its end, not yet marked expired",
    ),
    pytest.param(grant(peer_state=PeerState.PENDING), Layer.PEER, Reason.PEER_NOT_ACTIVE, {}, id="peer pending"),
    pytest.param(grant(peer_state=PeerState.SUSPENDED), Layer.PEER, Reason.PEER_NOT_ACTIVE, {}, id="peer suspended"),
    pytest.param(grant(peer_state=PeerState.REVOKED), Layer.PEER, Reason.PEER_NOT_ACTIVE, {}, id="peer revoked"),
    pytest.param(
        certificate(state=CertificateState.REVOKED), Layer.CERTIFICATE, Reason.CERTIFICATE_REVOKED, {}, id="certificate revoked"
    ),
    pytest.param(superseded_long_ago, Layer.CERTIFICATE, Reason.CERTIFICATE_REVOKED, {}, id="superseded more than 24 h ago"),
    pytest.param(
        certificate(state=CertificateState.SUPERSEDED, superseded_at=None),
        Layer.CERTIFICATE,
        Reason.CERTIFICATE_REVOKED,
        {},
        id="superseded, nobody knows when",
    ),
    pytest.param(
        certificate(not_after=NOW - SECOND),
        Layer.CERTIFICATE,
        Reason.CERTIFICATE_NOT_ACCEPTED,
        {},
        id="certificate expired on an open connection",
    ),
    pytest.param(presented(subject_user_id=STRANGER), Layer.SUBJECT, Reason.SUBJECT_MISMATCH, {}, id="names another subject"),
    pytest.param(grant(subject_active=False), Layer.SUBJECT, Reason.SUBJECT_INACTIVE, {}, id="subject gone or disabled"),
    pytest.param(request(resources=("users",)), Layer.REQUEST, Reason.RESOURCE_UNKNOWN, {}, id="resource unknown"),
    pytest.param(request(resources=("",)), Layer.REQUEST, Reason.RESOURCE_UNKNOWN, {}, id="resource empty"),
    pytest.param(request(verb=Verb.SEARCH, resources=()), Layer.REQUEST, Reason.RESOURCE_UNKNOWN, {}, id="search in nothing"),
    pytest.param(request(resources=("memory",)), Layer.SCOPE, Reason.RESOURCE_NOT_GRANTED, {}, id="resource not in scope"),
    pytest.param(request(resources=("credentials",)), Layer.SCOPE, Reason.RESOURCE_NOT_GRANTED, {}, id="resource excluded"),
    pytest.param(
        request(verb=Verb.SEARCH, resources=("tasks", "memory")),
        Layer.SCOPE,
        Reason.RESOURCE_NOT_GRANTED,
        {},
        id="search: one of two not in scope",
    ),
    pytest.param(request(page_size=-1), Layer.REQUEST, Reason.PAGE_SIZE_INVALID, {}, id="page size negative"),
]


@pytest.mark.parametrize(("spoil", "layer", "reason", "metadata"), DENIALS)
def test_refuses(spoil: Spoil, layer: Layer, reason: Reason, metadata: dict[str, str]) -> None:
    """Each row of the denial table that the engine decides: the layer that said no, its reason, and not a word more."""
    denied = spoil(RIGHT).decide()
    assert isinstance(denied, Denied)
    assert (denied.layer, denied.reason, dict(denied.metadata)) == (layer, reason, metadata)


# The order of architecture.md, "A federated read", step 4. Each step leaves the view and the rest of the call as it is.
ORDER: Final[dict[str, tuple[Spoil, Reason]]] = {
    "grant unknown": (unknown_grant, Reason.GRANT_NOT_ACTIVE),
    "grant pending": (grant(status=GrantStatus.PENDING), Reason.GRANT_NOT_ACTIVE),
    "never pinned": (presented(fingerprint=b"\x02" * 32), Reason.CERTIFICATE_NOT_PINNED),
    "grant expired": (grant(expires_at=NOW - SECOND), Reason.GRANT_NOT_ACTIVE),
    "peer suspended": (grant(peer_state=PeerState.SUSPENDED), Reason.PEER_NOT_ACTIVE),
    "certificate superseded": (superseded_long_ago, Reason.CERTIFICATE_REVOKED),
    "certificate expired": (certificate(not_after=NOW - SECOND), Reason.CERTIFICATE_NOT_ACCEPTED),
    "another subject": (presented(subject_user_id=STRANGER), Reason.SUBJECT_MISMATCH),
    "subject inactive": (grant(subject_active=False), Reason.SUBJECT_INACTIVE),
    "resource unknown": (request(resources=("users",)), Reason.RESOURCE_UNKNOWN),
    "page size negative": (request(page_size=-1), Reason.PAGE_SIZE_INVALID),
}


@pytest.mark.parametrize(
    ("earlier", "later"), [pytest.param(*pair, id=f"{pair[0]} before {pair[1]}") for pair in combinations(ORDER, 2)]
)
def test_says_the_earlier_of_two_reasons(earlier: str, later: str) -> None:
    """With two things wrong the earlier check answers: a later reason would tell what only an earlier pass entitles to know."""
    (spoil_earlier, reason), (spoil_later, _) = ORDER[earlier], ORDER[later]
    both = spoil_later(spoil_earlier(RIGHT))
    assert both.decide() == spoil_earlier(RIGHT).decide()
    assert isinstance(both.decide(), Denied)
    assert both.decide().reason is reason  # type: ignore[union-attr]


def test_checks_the_scope_after_the_name_and_before_the_page_size() -> None:
    """What is no resource at all is said before what is not granted, and both before the size of a page of it."""
    not_granted = request(resources=("memory",), page_size=-1)(RIGHT).decide()
    unknown = request(verb=Verb.SEARCH, resources=("memory", "users"))(RIGHT).decide()
    assert isinstance(not_granted, Denied)
    assert not_granted.reason is Reason.RESOURCE_NOT_GRANTED
    assert isinstance(unknown, Denied)
    assert unknown.reason is Reason.RESOURCE_UNKNOWN


def test_does_not_tell_a_pending_grant_from_one_that_does_not_exist() -> None:
    """Whoever holds a well-made certificate learns from no answer whether a grant id exists."""
    unknown, pending = unknown_grant(RIGHT).decide(), grant(status=GrantStatus.PENDING)(RIGHT).decide()
    assert unknown == pending
    assert isinstance(unknown, Denied)
    assert isinstance(pending, Denied)
    assert vars(unknown.to_error()) == vars(pending.to_error())


@pytest.mark.parametrize("status", [GrantStatus.REVOKED, GrantStatus.EXPIRED])
def test_tells_only_a_pinned_certificate_how_the_grant_ended(status: GrantStatus) -> None:
    """A peer may know its own grant's end; someone else's certificate hears only that it was never accepted."""
    denied = presented(fingerprint=b"\x02" * 32)(grant(status=status)(RIGHT)).decide()
    assert denied == Denied(Reason.CERTIFICATE_NOT_PINNED)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(
            certificate(state=CertificateState.SUPERSEDED, superseded_at=NOW - SUPERSEDED_GRACE),
            id="superseded 24 h ago to the second",
        ),
        pytest.param(certificate(not_after=NOW), id="certificate in its last second"),
        pytest.param(grant(expires_at=NOW + SECOND), id="grant in its last second"),
        pytest.param(grant(expires_at=None), id="grant without an end"),
    ],
)
def test_allows_up_to_the_boundary(spoil: Spoil) -> None:
    """A renewal or an expiry cuts nobody off before its time."""
    assert isinstance(spoil(RIGHT).decide(), Allowed)


@pytest.mark.parametrize(
    ("asked", "served"),
    [pytest.param(0, 50, id="default"), (1, 1), (500, 500), pytest.param(501, 500, id="capped"), (2**31 - 1, 500)],
)
def test_settles_the_page_size(asked: int, served: int) -> None:
    """0 means 50, more than 500 means 500."""
    allowed = request(page_size=asked)(RIGHT).decide()
    assert isinstance(allowed, Allowed)
    assert allowed.page_size == served


def test_searches_each_resource_once_in_the_order_asked() -> None:
    """A resource named twice in a search is searched once."""
    allowed = request(verb=Verb.SEARCH, resources=("notes", "tasks", "notes"))(RIGHT).decide()
    assert isinstance(allowed, Allowed)
    assert allowed.resources == ("notes", "tasks")


def test_always_answers_capabilities_of_a_live_grant() -> None:
    """Whoever holds a live grant may ask what it is, whatever else the request says."""
    allowed = request(verb=Verb.CAPABILITIES, resources=("users",), page_size=-1)(RIGHT).decide()
    assert isinstance(allowed, Allowed)
    assert allowed.resources == ()


def test_refuses_capabilities_of_a_grant_that_is_not_live() -> None:
    """Capabilities are no way around the grant checks."""
    assert isinstance(grant(peer_state=PeerState.SUSPENDED)(request(verb=Verb.CAPABILITIES)(RIGHT)).decide(), Denied)


@pytest.mark.parametrize(("spoil", "layer", "reason", "metadata"), DENIALS)
def test_turns_a_denial_into_the_answer_of_the_table(spoil: Spoil, layer: Layer, reason: Reason, metadata: dict[str, str]) -> None:
    """The error has the reason, the layer for the audit row, the public metadata, a class to fit its status, and names nobody."""
    denied = spoil(RIGHT).decide()
    assert isinstance(denied, Denied)
    error = denied.to_error()
    assert (error.reason, error.layer, error.metadata) == (reason, layer, metadata)
    kinds = {Code.INVALID_ARGUMENT: InvalidInput, Code.UNAUTHENTICATED: CertificateRefused, Code.PERMISSION_DENIED: AccessDenied}
    assert type(error) is kinds[STATUS[reason].code]
    assert bool(error.violations) == isinstance(error, InvalidInput)
    assert not any(str(secret) in str(vars(error)) for secret in (GRANT_ID, SUBJECT, STRANGER, "home"))
