"""What a call would meet, lock by lock, without making it: the engine's findings, then what only the database and the log know."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from mosaic_common.decision import (
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
from mosaic_common.scope import parse_scope

from mosaic_grants.domain.model import Certificate, Grant, Whereabouts
from mosaic_grants.domain.ports import Ledger, Transaction
from mosaic_grants.domain.preview import count

_RECENT: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Question:
    """A call that might be made.

    Attributes:
        resources: one for list and get, any number for search, none for capabilities.
        unverified_row_id: of a get; "" asks for no particular row.
        fingerprint: of the certificate that would be presented; None: the newest one that is accepted.
        subject_user_id: whom that certificate would name; None: the grant's.
    """

    grant_id: UUID
    verb: Verb
    resources: tuple[str, ...]
    unverified_row_id: str
    fingerprint: bytes | None
    subject_user_id: UUID | None
    page_size: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the call would meet.

    Attributes:
        findings: in the order in which the locks are passed.
        refused: the one that refuses.
        cap: what the cap would do; None for a call without rows, or where an earlier lock refuses.
        rate: reported, not decided.
        remedy: what an operator can do about the refusal; "" when there is none.
    """

    findings: tuple[Finding, ...]
    refused: Finding | None
    cap: str | None
    rate: str
    remedy: str


async def explain_grant(ledger: Ledger, question: Question) -> Explanation:
    """Ask what enforcement would say.

    Raises:
        NotFound: GRANT_NOT_FOUND.
    """
    async with ledger.transaction() as tx:
        grant = await tx.grants.get(question.grant_id)
        certificates = await tx.certificates.list_of(grant.id)
        view = view_of(grant, certificates)
        names = await _names(tx, grant, question)
        call = (_presented(view, certificates, question, tx.now), question.verb, question.resources, tx.now)
        findings = explain(view, *call, page_size=question.page_size, names=names)
        if question.verb is Verb.GET and question.unverified_row_id and not _refused(findings):
            findings += await _look_for_row(tx, view, question, names)
        rate = await _rate(tx, grant)
    refused = _refused(findings)
    counts = await _count(ledger, view, question) if refused is None else {}
    if question.verb is not Verb.CAPABILITIES and not any(each.layer is Layer.ROW for each in findings):
        findings += (_native_rights(view, question, counts, names),)
    cap = None if refused else _cap(view, question, counts)
    return Explanation(findings, refused, cap, rate, _remedy(refused, grant) if refused else "")


def view_of(grant: Grant, certificates: Sequence[Certificate]) -> GrantView:
    """Return what the inbound edge is told of a grant, as far as its decision depends on it."""
    return GrantView(
        grant_id=grant.id,
        status=grant.status,
        subject_user_id=grant.subject_user_id,
        subject_active=grant.has_active_subject,
        peer_id=grant.peer_id,
        peer_name=grant.peer_name,
        peer_state=grant.peer_state,
        scope=parse_scope(grant.scope),
        expires_at=grant.expires_at,
        certificates={
            each.fingerprint: CertificateView(CertificateState(each.state), each.superseded_at, each.not_after)
            for each in certificates
        },
    )


def _presented(view: GrantView, certificates: Sequence[Certificate], question: Question, now: datetime) -> Presented:
    subject = question.subject_user_id or view.subject_user_id
    if question.fingerprint is not None:
        return Presented(question.fingerprint, view.grant_id, subject)
    newest_first = [Presented(each.fingerprint, view.grant_id, view.subject_user_id) for each in certificates]
    accepted = (each for each in newest_first if not _is_refused_at_certificate(decide(view, each, Verb.CAPABILITIES, (), now)))
    fallback = newest_first[0] if newest_first else Presented(b"", view.grant_id, subject)
    return Presented(next(accepted, fallback).fingerprint, view.grant_id, subject)


def _is_refused_at_certificate(decision: object) -> bool:
    return isinstance(decision, Denied) and decision.layer is Layer.CERTIFICATE


async def _names(tx: Transaction, grant: Grant, question: Question) -> Mapping[UUID, str]:
    """What operators call the users and teams that the findings may name."""
    names = dict(await tx.users.team_names([team for _, team in parse_scope(grant.scope).team_references()]))
    named = await tx.users.find(str(question.subject_user_id)) if question.subject_user_id else None
    return names | {user.id: user.email for user in (named, grant.subject) if user is not None}


async def _look_for_row(tx: Transaction, view: GrantView, question: Question, names: Mapping[UUID, str]) -> tuple[Finding, ...]:
    """What get says of a row that its user does not see, and of one outside the scope, is the same; an operator may know which."""
    [resource] = question.resources
    user, named = names.get(view.subject_user_id, str(view.subject_user_id)), question.unverified_row_id
    row_id = _find_row_id(named)
    if row_id is None:
        sentence = f"{named[:64]!r} is no id of a row: a UUID of 36 lower-case characters is."
        return (Finding(Layer.REQUEST, Verdict.REFUSED, sentence, Reason.REQUEST_INVALID),)
    match await tx.sight.locate(resource, view.subject_user_id, view.scope, row_id):
        case Whereabouts.NOT_VISIBLE:
            sentence = (
                f"{user} sees no row {row_id} among {resource}: there is none, or it is neither theirs nor a team's of theirs."
            )
            return (
                Finding(Layer.ROW, Verdict.REFUSED, sentence, Reason.RESOURCE_NOT_FOUND),
                Finding(Layer.SCOPE, Verdict.NOT_REACHED, "Not looked at: whether the scope's filter shows the row."),
            )
        case Whereabouts.OUT_OF_SCOPE:
            shown = Finding(Layer.SCOPE, Verdict.REFUSED, "The scope's filter does not show this row.", Reason.RESOURCE_NOT_FOUND)
        case _:
            shown = Finding(Layer.SCOPE, Verdict.PASSED, "The scope's filter shows this row.")
    return Finding(Layer.ROW, Verdict.PASSED, f"{user} sees the row {row_id} among {resource}."), shown


def _find_row_id(unverified: str) -> UUID | None:
    try:
        row_id = UUID(unverified)
    except ValueError:
        return None
    return row_id if str(row_id) == unverified else None


async def _count(ledger: Ledger, view: GrantView, question: Question) -> Mapping[str, int | None]:
    """How many rows a list or a search has before it, by resource: those that the user sees here and the scope shows."""
    if question.verb not in {Verb.LIST, Verb.SEARCH}:
        return {}
    resources = tuple(dict.fromkeys(question.resources))
    counted = await asyncio.gather(*(count(ledger, view.subject_user_id, name, view.scope) for name in resources))
    return {name: found.visible if found else None for name, found in zip(resources, counted, strict=True)}


def _native_rights(view: GrantView, question: Question, counts: Mapping[str, int | None], names: Mapping[UUID, str]) -> Finding:
    """The lock that the user's own rights are: it refuses no list and no search, and leaves out what they do not see here."""
    user = names.get(view.subject_user_id, str(view.subject_user_id))
    if not counts:
        what = "whether the user sees the row" if question.verb is Verb.GET else "which rows the user sees"
        unnamed = "" if question.unverified_row_id or question.verb is not Verb.GET else ", since none is named"
        return Finding(Layer.ROW, Verdict.NOT_REACHED, f"Not looked at: {what}{unnamed}.")
    told = " and ".join(f"{'an unknown number' if found is None else found} of {name}" for name, found in counts.items())
    return Finding(Layer.ROW, Verdict.PASSED, f"Of the rows that {user} sees here, the scope shows {told}.")


def _cap(view: GrantView, question: Question, counts: Mapping[str, int | None]) -> str | None:
    cap = view.scope.max_rows_per_query
    match question.verb:
        case Verb.LIST:
            [visible] = counts.values()
            counted = "The visible rows could not be counted in time" if visible is None else f"{visible} rows are visible"
            most = cap if visible is None else min(cap, visible)
            return f"{counted}; one query gives at most {most} over all its pages (cap {cap})."
        case Verb.SEARCH:
            return f"One search gives at most {cap} rows, all its resources together."
        case Verb.GET:
            return "The cap never hides a row from get."
        case Verb.CAPABILITIES:
            return None


async def _rate(tx: Transaction, grant: Grant) -> str:
    reads = await tx.records.count_reads(grant.id, since=tx.now - _RECENT)
    own = f"The limit is {grant.limit.per_second:g} calls a second, {grant.limit.burst} at once" if grant.limit else None
    limit = own or "The limit is the gateway's own"
    calls = "1 call" if reads.calls == 1 else f"{reads.calls} calls"
    return f"{limit}; the last minute saw {calls} under this grant, {reads.rate_limited} of them refused with RATE_LIMITED."


def _refused(findings: Sequence[Finding]) -> Finding | None:
    return next((each for each in findings if each.verdict is Verdict.REFUSED), None)


def _remedy(refused: Finding, grant: Grant) -> str:
    match refused.reason:
        case Reason.GRANT_NOT_ACTIVE if grant.status is GrantStatus.PENDING:
            return f"Have its enrollment URL redeemed: `mosaic federation grant token {grant.id}` makes one."
        case Reason.GRANT_NOT_ACTIVE:
            return "What has ended stays so: create another grant, and have its enrollment URL redeemed."
        case Reason.PEER_NOT_ACTIVE if grant.peer_state is PeerState.SUSPENDED:
            return f"`mosaic federation peer resume {grant.peer_name}` accepts the peer again."
        case Reason.PEER_NOT_ACTIVE:
            return "A revoked peer stays so: create a peer and a grant anew."
        case Reason.RESOURCE_NOT_FOUND if refused.layer is Layer.SCOPE:
            return "A scope is never changed: create a grant whose filter for this resource is wider."
        case reason:
            return _REMEDIES[reason].format(grant=grant.id) if reason else ""


_REENROLL: Final = "redeems a new URL (`mosaic federation grant token {grant} --reenroll`)"
_REMEDIES: Final[Mapping[Reason, str]] = {
    Reason.CERTIFICATE_NOT_PINNED: f"The other gateway presents a certificate that is pinned for this grant, or {_REENROLL}.",
    Reason.CERTIFICATE_REVOKED: f"The other gateway presents a newer certificate of this grant; if it has none, it {_REENROLL}.",
    Reason.CERTIFICATE_NOT_ACCEPTED: f"The other gateway renews its certificate; more than 30 days after its end, it {_REENROLL}.",
    Reason.SUBJECT_MISMATCH: "This gateway orders no such certificate: find out who had it signed.",
    Reason.SUBJECT_INACTIVE: "Enable the user in the application, or revoke the grant: `mosaic federation grant revoke {grant}`.",
    Reason.RESOURCE_NOT_GRANTED: "A scope is never changed: create a grant whose scope has this resource.",
    Reason.RESOURCE_UNKNOWN: "The caller has to name a resource that there is.",
    Reason.PAGE_SIZE_INVALID: "The caller has to ask for 0 rows, the default, or more.",
    Reason.REQUEST_INVALID: "The caller has to name a row by its id.",
    Reason.RESOURCE_NOT_FOUND: "Nothing is wrong with the grant: its user would not see this row here either.",
}
