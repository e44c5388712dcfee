"""Grants: who may be given what. Everything that is wrong with an order is found before anything is written."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from mosaic_common.errors import InvalidInput, Layer, MosaicError, NotFound, Reason, ScopeRefused, Violation
from mosaic_common.scope import Scope, parse_scope_json, scope_refused

from mosaic_grants.domain.lifecycle import Direction, GrantStatus, PeerState
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
    scope = await _accepted_scope(tx, subject, unverified_scope)
    found = await get_inbound_peer(tx, peer)
    if found.state not in {PeerState.PENDING, PeerState.ACTIVE}:
        raise MosaicError(
            Reason.PEER_NOT_ELIGIBLE,
            f"The peer {found.name} is {found.state}.",
            layer=Layer.PEER,
            remedy="Resume it, or choose another peer.",
        )
    if scope.sensitive_resources and not approve_sensitive:
        raise MosaicError(
            Reason.APPROVAL_REQUIRED,
            f"The scope includes sensitive resources: {', '.join(scope.sensitive_resources)}.",
            layer=Layer.SCOPE,
            remedy="Say so on purpose with --approve-sensitive, or leave them out of the scope.",
        )
    return GrantDraft(subject, found, scope, expires_in, approved_by=actor if scope.sensitive_resources else None)


async def find_subject(tx: Transaction, user: str) -> User:
    """Return an active user of this gateway by UUID or email.

    Raises:
        MosaicError: SUBJECT_NOT_ELIGIBLE.
    """
    found = await tx.find_user(user)
    if found is None or not found.active:
        raise MosaicError(
            Reason.SUBJECT_NOT_ELIGIBLE,
            f"{user!r} is {'no user of this gateway' if found is None else 'not active'}.",
            layer=Layer.SUBJECT,
            remedy="Name an active user by UUID or email.",
        )
    return found


async def get_inbound_peer(tx: Transaction, peer: str) -> Peer:
    """Return a gateway that may ask us, by id or name.

    Raises:
        NotFound: PEER_NOT_FOUND.
    """
    found = await tx.find_peer(peer, Direction.INBOUND)
    if found is None:
        raise NotFound(
            Reason.PEER_NOT_FOUND,
            f"There is no inbound peer {peer!r}.",
            layer=Layer.PEER,
            remedy="`mosaic federation peer list` shows those that there are, `… peer create NAME` makes one.",
        )
    return found


async def _accepted_scope(tx: Transaction, subject: User, unverified_scope: str) -> Scope:
    violations: list[Violation] = []
    scope: Scope | None = None
    try:
        scope = parse_scope_json(unverified_scope)
        named = dict(scope.team_references())
    except ScopeRefused as refused:
        # The teams of a document that does not hold are looked at all the same: one error reports everything.
        violations.extend(refused.violations)
        named = dict(_team_references(unverified_scope))
    members = await tx.teams_of(subject.id, list(named.values()))
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


def draft_token(grant: Grant, peer: Peer, *, token_public_key: bytes, ttl: timedelta, reenroll: bool) -> TokenDraft:
    """Check an order for an enrollment token.

    Raises:
        InvalidInput: key or lifetime.
        MosaicError: GRANT_STATE_CHANGED, PEER_NOT_ELIGIBLE, SUBJECT_NOT_ELIGIBLE, NOT_IMPLEMENTED.
    """
    if len(token_public_key) != 32:
        raise InvalidInput(Reason.REQUEST_INVALID, "The token's public key is a raw Ed25519 key of 32 bytes.")
    life = ttl or MAX_TOKEN_LIFE
    if not timedelta() < life <= MAX_TOKEN_LIFE:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "An enrollment token lives 1 to 900 seconds.",
            violations=[Violation("ttl_seconds", "must be from 1 to 900")],
        )
    if reenroll:
        raise MosaicError(Reason.NOT_IMPLEMENTED, "Re-enrollment of an active grant is not available yet.", layer=Layer.GRANT)
    if grant.status is not GrantStatus.PENDING:
        raise MosaicError(
            Reason.GRANT_STATE_CHANGED,
            f"The grant is {grant.status}; only a pending one is enrolled.",
            layer=Layer.GRANT,
            remedy="Create a new grant.",
        )
    if peer.state not in {PeerState.PENDING, PeerState.ACTIVE}:
        raise MosaicError(Reason.PEER_NOT_ELIGIBLE, f"The peer {peer.name} is {peer.state}.", layer=Layer.PEER)
    if grant.subject is None or not grant.subject.active:
        raise MosaicError(Reason.SUBJECT_NOT_ELIGIBLE, "The grant's subject user is not active.", layer=Layer.SUBJECT)
    return TokenDraft(grant, token_public_key, life)


def token_state(token: Token, now: datetime) -> str:
    """Return the state of a token's row in a word, as operators see it."""
    if token.fingerprint is not None:
        return "used"
    if token.voided_at is not None:
        return "voided"
    if token.redemption_id is not None and token.lease_until is not None:
        return "claimed" if token.lease_until > now else "unfinished"
    return "expired" if token.expires_at <= now else "open"
