"""What the engine explains is what it enforces: one table of checks, walked by both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mosaic_common.decision import (
    SUPERSEDED_GRACE,
    Allowed,
    CertificateState,
    CertificateView,
    Denied,
    Finding,
    GrantStatus,
    GrantView,
    PeerState,
    Presented,
    Verb,
    Verdict,
    decide,
    explain,
)
from mosaic_common.errors import Layer, Reason
from mosaic_common.resources import REGISTRY
from mosaic_common.scope import parse_scope

NOW: Final = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
SECOND: Final = timedelta(seconds=1)
GRANT_ID, SUBJECT, STRANGER, TEAM, PEER = (UUID(f"{digit * 8}-0000-4000-8000-000000000000") for digit in "12345")
FINGERPRINT, OTHER = b"\x01" * 32, b"\x02" * 32
NAMES: Final = {SUBJECT: "maya@example.com", TEAM: "Platform"}

GRANT: Final = GrantView(
    grant_id=GRANT_ID,
    status=GrantStatus.ACTIVE,
    subject_user_id=SUBJECT,
    subject_active=True,
    peer_id=PEER,
    peer_name="home",
    peer_state=PeerState.ACTIVE,
    scope=parse_scope(
        {"resources": ["tasks", "notes"], "filters": {"tasks": {"include_teams": [str(TEAM)]}}, "max_rows_per_query": 500}
    ),
    expires_at=NOW + timedelta(days=7),
    certificates={FINGERPRINT: CertificateView(CertificateState.ACTIVE, None, NOW + timedelta(days=7))},
)


RIGHT: Final = Presented(FINGERPRINT, GRANT_ID, SUBJECT)


@dataclass(frozen=True)
class Call:
    """One call; what a test does not spoil is right."""

    view: GrantView = GRANT
    presented: Presented = RIGHT
    verb: Verb = Verb.LIST
    resources: Sequence[str] = ("tasks",)
    page_size: int = 0

    def decide(self) -> Allowed | Denied:
        return decide(self.view, self.presented, self.verb, self.resources, NOW, page_size=self.page_size)

    def explain(self) -> tuple[Finding, ...]:
        return explain(self.view, self.presented, self.verb, self.resources, NOW, page_size=self.page_size, names=NAMES)


_edges: Final = st.sampled_from([NOW - timedelta(days=2), NOW - SECOND, NOW, NOW + SECOND])
_certificates: Final = st.builds(
    CertificateView,
    st.sampled_from(CertificateState),
    st.sampled_from([None, NOW, NOW - SUPERSEDED_GRACE, NOW - SUPERSEDED_GRACE - SECOND]),
    _edges,
)
_names: Final = st.sampled_from([*REGISTRY, "users", ""])
_scopes: Final = st.lists(st.sampled_from(list(REGISTRY)), min_size=1, unique=True).map(
    lambda names: parse_scope({"resources": names, "max_rows_per_query": 5})
)


def _mostly(right: object, *wrong: object) -> st.SearchStrategy[object]:
    """Right as often as wrong: of calls that are wrong everywhere none would reach the later checks."""
    return st.one_of(st.just(right), st.sampled_from(wrong))


_views: Final = st.builds(
    replace,
    st.just(GRANT),
    status=_mostly(GrantStatus.ACTIVE, *GrantStatus),
    subject_active=_mostly(True, False),
    peer_state=_mostly(PeerState.ACTIVE, *PeerState),
    scope=_scopes,
    expires_at=st.one_of(st.none(), _edges),
    certificates=st.dictionaries(st.sampled_from([FINGERPRINT, OTHER]), _certificates, max_size=2),
)
_calls: Final = st.builds(
    Call,
    _views | st.just(GRANT),
    st.builds(Presented, _mostly(FINGERPRINT, OTHER), _mostly(GRANT_ID, STRANGER), _mostly(SUBJECT, STRANGER)),
    st.sampled_from(Verb),
    st.lists(_names, max_size=3),
    st.integers(-2, 1000),
)


@settings(max_examples=500)
@given(_calls)
def test_the_first_refusal_that_is_explained_is_the_one_that_is_enforced(call: Call) -> None:
    """Layer and reason; before it everything has passed, after it nothing is reached; and without one the call is allowed."""
    decision, findings = call.decide(), call.explain()
    verdicts = [each.verdict for each in findings]
    refused = [each for each in findings if each.verdict is Verdict.REFUSED]
    if isinstance(decision, Allowed):
        assert set(verdicts) == {Verdict.PASSED}
        return
    assert [(each.layer, each.reason) for each in refused] == [(decision.layer, decision.reason)]
    at = verdicts.index(Verdict.REFUSED)
    assert set(verdicts[:at]) <= {Verdict.PASSED}
    assert set(verdicts[at + 1 :]) <= {Verdict.NOT_REACHED}


@given(_calls)
def test_every_finding_is_one_sentence(call: Call) -> None:
    """Something was looked at, something was found, and it is said in one line; only a refusal has a reason."""
    for finding in call.explain():
        assert finding.sentence.endswith(".")
        assert finding.sentence.isprintable()
        assert (finding.reason is not None) == (finding.verdict is Verdict.REFUSED)


def spoiled(*, presented: Presented = RIGHT, request: Mapping[str, object] = MappingProxyType({}), **view: object) -> Call:
    """A right call but for these fields of the grant's view, the certificate and the request."""
    return replace(Call(replace(GRANT, **view), presented), **request)  # type: ignore[arg-type]


def certificate(state: CertificateState, *, superseded_at: datetime | None = None, not_after: datetime = NOW) -> object:
    return {FINGERPRINT: CertificateView(state, superseded_at, not_after)}


@pytest.mark.parametrize(
    ("call", "layer", "reason", "sentence"),
    [
        pytest.param(
            spoiled(status=GrantStatus.PENDING),
            Layer.GRANT,
            Reason.GRANT_NOT_ACTIVE,
            "The grant is pending: nobody has redeemed a token of it.",
            id="grant pending",
        ),
        pytest.param(
            spoiled(presented=replace(RIGHT, grant_id=STRANGER)),
            Layer.GRANT,
            Reason.GRANT_NOT_ACTIVE,
            f"The certificate names the grant {STRANGER}, and this is {GRANT_ID}.",
            id="another grant",
        ),
        pytest.param(
            spoiled(presented=replace(RIGHT, fingerprint=OTHER)),
            Layer.CERTIFICATE,
            Reason.CERTIFICATE_NOT_PINNED,
            "The certificate 0202020202020202 was never pinned for this grant.",
            id="never pinned",
        ),
        pytest.param(
            spoiled(certificates={}),
            Layer.CERTIFICATE,
            Reason.CERTIFICATE_NOT_PINNED,
            "No certificate was ever pinned for this grant.",
            id="nothing pinned",
        ),
        pytest.param(
            spoiled(status=GrantStatus.REVOKED), Layer.GRANT, Reason.GRANT_NOT_ACTIVE, "The grant is revoked.", id="grant revoked"
        ),
        pytest.param(
            spoiled(expires_at=NOW),
            Layer.GRANT,
            Reason.GRANT_NOT_ACTIVE,
            "The grant ended at 2031-05-04 12:00:00 UTC.",
            id="grant expired",
        ),
        pytest.param(
            spoiled(peer_state=PeerState.SUSPENDED),
            Layer.PEER,
            Reason.PEER_NOT_ACTIVE,
            "The peer home is suspended.",
            id="peer suspended",
        ),
        pytest.param(
            spoiled(certificates=certificate(CertificateState.REVOKED)),
            Layer.CERTIFICATE,
            Reason.CERTIFICATE_REVOKED,
            "The certificate 0101010101010101 is revoked.",
            id="certificate revoked",
        ),
        pytest.param(
            spoiled(certificates=certificate(CertificateState.SUPERSEDED, superseded_at=NOW - timedelta(hours=25))),
            Layer.CERTIFICATE,
            Reason.CERTIFICATE_REVOKED,
            "The certificate 0101010101010101 was superseded by a newer one and was accepted until 2031-05-04 11:00:00 UTC.",
            id="certificate superseded",
        ),
        pytest.param(
            spoiled(certificates=certificate(CertificateState.ACTIVE, not_after=NOW - SECOND)),
            Layer.CERTIFICATE,
            Reason.CERTIFICATE_NOT_ACCEPTED,
            "The certificate 0101010101010101 expired at 2031-05-04 11:59:59 UTC.",
            id="certificate expired",
        ),
        pytest.param(
            spoiled(presented=replace(RIGHT, subject_user_id=STRANGER)),
            Layer.SUBJECT,
            Reason.SUBJECT_MISMATCH,
            f"The certificate names the user {STRANGER}, and the grant is for maya@example.com.",
            id="another subject",
        ),
        pytest.param(
            spoiled(subject_active=False),
            Layer.SUBJECT,
            Reason.SUBJECT_INACTIVE,
            "The user maya@example.com is disabled or gone.",
            id="subject inactive",
        ),
        pytest.param(
            spoiled(request={"verb": Verb.SEARCH, "resources": ["tasks", "users"]}),
            Layer.REQUEST,
            Reason.RESOURCE_UNKNOWN,
            "There is no resource 'users'; there are tasks, notes, memory, credentials and api_keys.",
            id="resource unknown",
        ),
        pytest.param(
            spoiled(request={"verb": Verb.SEARCH, "resources": []}),
            Layer.REQUEST,
            Reason.RESOURCE_UNKNOWN,
            "No resource is named.",
            id="no resource",
        ),
        pytest.param(
            spoiled(request={"resources": ["memory"]}),
            Layer.SCOPE,
            Reason.RESOURCE_NOT_GRANTED,
            "The scope does not show memory; it shows tasks and notes.",
            id="not in scope",
        ),
        pytest.param(
            spoiled(request={"page_size": -1}),
            Layer.REQUEST,
            Reason.PAGE_SIZE_INVALID,
            "The page size is -1.",
            id="page size negative",
        ),
    ],
)
def test_says_what_was_found_where_it_refuses(call: Call, layer: Layer, reason: Reason, sentence: str) -> None:
    """Each reason of the engine, with names as operators know them."""
    [refused] = [each for each in call.explain() if each.verdict is Verdict.REFUSED]
    assert refused == Finding(layer, Verdict.REFUSED, sentence, reason)


def test_says_what_was_found_where_all_is_right() -> None:
    """Each lock, in the order in which they are passed."""
    assert [
        (each.layer, each.sentence) for each in spoiled(request={"verb": Verb.SEARCH, "resources": ["tasks", "notes"]}).explain()
    ] == [
        (Layer.GRANT, "The certificate names this grant, which is not pending any more."),
        (Layer.CERTIFICATE, "The certificate 0101010101010101 was pinned for this grant."),
        (Layer.GRANT, "The grant is active and ends at 2031-05-11 12:00:00 UTC."),
        (Layer.PEER, "The peer home is active."),
        (Layer.CERTIFICATE, "The certificate 0101010101010101 is valid until 2031-05-11 12:00:00 UTC."),
        (Layer.SUBJECT, "The certificate names the user maya@example.com, and the grant is for the same."),
        (Layer.SUBJECT, "The user maya@example.com is active."),
        (Layer.REQUEST, "This gateway has tasks and notes."),
        (Layer.SCOPE, "The scope shows tasks (personal rows and rows of Platform) and notes (all that the user sees)."),
        (Layer.REQUEST, "A page has at most 50 rows."),
    ]


def test_capabilities_pass_no_lock_on_what_is_asked() -> None:
    """Whoever holds a live grant may always ask what it is."""
    findings = spoiled(request={"verb": Verb.CAPABILITIES, "resources": ["users"], "page_size": -1}).explain()
    assert {each.layer for each in findings} == {Layer.GRANT, Layer.CERTIFICATE, Layer.PEER, Layer.SUBJECT}
    assert {each.verdict for each in findings} == {Verdict.PASSED}
