"""Grants: who may be given what. Everything that is wrong with an order is found before anything is written."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from mosaic_common.decision import RateLimit
from mosaic_common.errors import Conflict, InvalidInput, Layer, MosaicError, NotFound, Reason, ScopeRefused, Violation
from mosaic_common.scope import Scope, parse_scope_json, scope_refused
from mosaic_common.tokens import verify_token_public_key

from mosaic_grants.domain.lifecycle import ELIGIBLE_PEERS, Direction, GrantStatus, PeerState
from mosaic_grants.domain.model import Grant, GrantDraft, Peer, Token, TokenDraft, User
from mosaic_grants.domain.ports import Transaction

MAX_TOKEN_LIFE: Final = timedelta(seconds=900)


async def draft_grant(
    tx: Transaction,
    *,
    user: str,
    peer: str,
    unverified_scope: str,
    expires_in: timedelta | None,
    approve_sensitive: bool,
    actor: str,
    limit: RateLimit | None = None,
) -> GrantDraft:
    """Check an order for a grant completely.

    Raises:
        ScopeRefused: every violation of the document, teams that are unknown here or not the subject's included.
        MosaicError: SUBJECT_NOT_ELIGIBLE, PEER_NOT_ELIGIBLE, PEER_NOT_FOUND, APPROVAL_REQUIRED.
    """
    if expires_in is not None and expires_in <= timedelta():
        raise InvalidInput(
            Reason.REQUEST_INVALID, "A grant expires in the future.", violations=[Violation("expires_in", "must be positive")]
        )
    subject = await find_subject(tx, user)
    scope = await accepted_scope(tx, subject, unverified_scope)
    named = await get_inbound_peer(tx, peer)
    # Locked: a revocation of the peer that comes now finds this grant and ends it, and one that came first is seen.
    found = await tx.peers.get(named.id, locked=True)
    _verify_eligible(found.name, found.state)
    if scope.sensitive_resources and not approve_sensitive:
        raise MosaicError(
            Reason.APPROVAL_REQUIRED,
            f"The scope includes sensitive resources: {', '.join(scope.sensitive_resources)}.",
            layer=Layer.SCOPE,
            remedy="Say so on purpose with --approve-sensitive, or leave them out of the scope.",
        )
    return GrantDraft(subject, found, scope, expires_in, approved_by=actor if scope.sensitive_resources else None, limit=limit)


async def limit_grant(tx: Transaction, grant_id: UUID, limit: RateLimit | None) -> Grant:
    """Set how much a pending or active grant may ask; None: what the gateway's own limit gives.

    Raises:
        NotFound: GRANT_NOT_FOUND.
        Conflict: it has ended.
    """
    grant = await tx.grants.get(grant_id, locked=True)
    if not await tx.grants.limit(grant_id, limit):
        raise Conflict(
            Reason.GRANT_STATE_CHANGED,
            f"The grant is {grant.status}; nothing is accepted under it any more.",
            layer=Layer.GRANT,
            remedy="Nothing is left to limit.",
        )
    return await tx.grants.get(grant_id)


async def find_subject(tx: Transaction, user: str) -> User:
    """Return an active user of this gateway by UUID or email.

    Raises:
        MosaicError: SUBJECT_NOT_ELIGIBLE.
    """
    found = await tx.users.find(user)
    if found is None or not found.active:
        raise MosaicError(
            Reason.SUBJECT_NOT_ELIGIBLE,
            f"{user!r} is {'no user of this gateway' if found is None else 'not active'}.",
            layer=Layer.SUBJECT,
            remedy="Name an active user by UUID or email.",
        )
    return found


async def find_user_id(tx: Transaction, user: str) -> UUID:
    """Return whose rows a list is asked for; a user who is gone may still have grants, by their UUID.

    Raises:
        MosaicError: SUBJECT_NOT_ELIGIBLE, an email that nobody has.
    """
    found = await tx.users.find(user)
    if found is not None:
        return found.id
    try:
        return UUID(user)
    except ValueError:
        raise MosaicError(
            Reason.SUBJECT_NOT_ELIGIBLE,
            f"{user!r} is no user of this gateway.",
            layer=Layer.SUBJECT,
            remedy="Name a user by UUID or email.",
        ) from None


async def get_inbound_peer(tx: Transaction, peer: str) -> Peer:
    """Return a gateway that may ask us, by id or name.

    Raises:
        NotFound: PEER_NOT_FOUND.
    """
    found = await tx.peers.find(peer, Direction.INBOUND)
    if found is None:
        raise NotFound(
            Reason.PEER_NOT_FOUND,
            f"There is no inbound peer {peer!r}.",
            layer=Layer.PEER,
            remedy="`mosaic federation peer list` shows those that there are, `… peer create NAME` makes one.",
        )
    return found


async def accepted_scope(tx: Transaction, subject: User, unverified_scope: str) -> Scope:
    """Return a scope that a grant on this user's rows may have.

    Raises:
        ScopeRefused: every violation of the document, teams that are unknown here or not the subject's included.
    """
    violations: list[Violation] = []
    scope: Scope | None = None
    try:
        scope = parse_scope_json(unverified_scope)
        named = dict(scope.team_references())
    except ScopeRefused as refused:
        # The teams of a document that does not hold are looked at all the same: one error reports everything.
        violations.extend(refused.violations)
        named = dict(_team_references(unverified_scope))
    members = await tx.users.teams_of(subject.id, list(named.values()))
    violations.extend(
        Violation(pointer, f"is no team of {subject.email} at this gateway")
        for pointer, team in named.items()
        if team not in members
    )
    if violations or scope is None:
        raise scope_refused(violations)
    return scope


def _team_references(unverified_scope: str) -> Iterator[tuple[str, UUID]]:
    """Every well-formed team id of a document that may otherwise be anything."""
    try:
        document: Any = json.loads(unverified_scope)
    except (ValueError, RecursionError):
        return
    filters = document.get("filters") if isinstance(document, Mapping) else None
    for resource, rule in filters.items() if isinstance(filters, Mapping) else ():
        teams = rule.get("include_teams") if isinstance(rule, Mapping) else None
        for position, team in enumerate(teams if isinstance(teams, list) else ()):
            try:
                yield f"/filters/{resource}/include_teams/{position}", UUID(team)
            except (ValueError, AttributeError, TypeError):
                continue  # the schema has said so


def draft_token(grant: Grant, *, token_public_key: bytes, ttl: timedelta, reenroll: bool) -> TokenDraft:
    """Check an order for an enrollment token.

    Raises:
        InvalidInput: key or lifetime.
        MosaicError: GRANT_STATE_CHANGED, PEER_NOT_ELIGIBLE, SUBJECT_NOT_ELIGIBLE.
    """
    verify_token_public_key(token_public_key)
    life = ttl or MAX_TOKEN_LIFE
    if not timedelta() < life <= MAX_TOKEN_LIFE:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "An enrollment token lives 1 to 900 seconds.",
            violations=[Violation("ttl_seconds", "must be from 1 to 900")],
        )
    if grant.status is not enrollable_status(reenroll=reenroll):
        raise MosaicError(
            Reason.GRANT_STATE_CHANGED,
            f"The grant is {grant.status}; only {'an active one is re-enrolled' if reenroll else 'a pending one is enrolled'}.",
            layer=Layer.GRANT,
            remedy=_REMEDIES.get((grant.status, reenroll), "Create a new grant."),
        )
    _verify_eligible(grant.peer_name, grant.peer_state)
    if not grant.has_active_subject:
        raise MosaicError(
            Reason.SUBJECT_NOT_ELIGIBLE,
            "The grant's subject user is not active.",
            layer=Layer.SUBJECT,
            remedy="Create a grant for an active user.",
        )
    return TokenDraft(grant, token_public_key, life, reenroll)


def enrollable_status(*, reenroll: bool) -> GrantStatus:
    """Return the one status of a grant in which such a token may be made, claimed and completed."""
    return GrantStatus.ACTIVE if reenroll else GrantStatus.PENDING


_REMEDIES: Final = {
    (GrantStatus.ACTIVE, False): "If its key is lost, make a token with --reenroll; it replaces the certificate.",
    (GrantStatus.PENDING, True): "Make a token without --reenroll.",
}


def _verify_eligible(name: str, state: PeerState) -> None:
    if state not in ELIGIBLE_PEERS:
        raise MosaicError(
            Reason.PEER_NOT_ELIGIBLE,
            f"The peer {name} is {state}.",
            layer=Layer.PEER,
            remedy="Choose another peer." if state is PeerState.REVOKED else "Resume it, or choose another peer.",
        )


def token_state(token: Token, now: datetime) -> str:
    """Return the state of a token's row in a word, as operators see it."""
    if token.fingerprint is not None:
        return "used"
    if token.voided_at is not None:
        return "voided"
    if token.unfinished_at is not None:
        return "unfinished"
    if token.redemption_id is not None and token.lease_until is not None:
        return "claimed" if token.lease_until > now else "unfinished"
    return "expired" if token.expires_at <= now else "open"
