"""How much a scope shows of a user's rows, and what another scope would change. Counts only: no row leaves the database."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

from mosaic_common.decision import GrantStatus
from mosaic_common.errors import ScopeRefused, Violation
from mosaic_common.resources import REGISTRY
from mosaic_common.scope import Scope, parse_scope, scope_refused

from mosaic_grants.domain import permissions
from mosaic_grants.domain.model import Counts, User
from mosaic_grants.domain.ports import Ledger, Transaction


@dataclass(frozen=True, slots=True)
class Preview:
    """What two scopes show of one user's rows.

    Attributes:
        status: of the grant; None where a scope alone is looked at.
        counts: of every resource of either scope, in the registry's order; None where counting took too long.
    """

    subject_user_id: UUID
    status: GrantStatus | None
    scope: Scope
    against: Scope | None
    counts: dict[str, Counts | None]


async def preview_grant(ledger: Ledger, grant_id: UUID, *, unverified_against: str) -> Preview:
    """Count what an existing grant shows, whatever state it is in.

    Raises:
        NotFound: GRANT_NOT_FOUND.
        MosaicError: SUBJECT_NOT_ELIGIBLE, SCOPE_INVALID.
    """
    async with ledger.transaction() as tx:
        grant = await tx.grants.get(grant_id)
        subject = await permissions.find_subject(tx, str(grant.subject_user_id))
        [against] = await _accepted(tx, subject, against_scope_json=unverified_against) if unverified_against else [None]
    return await _counted(ledger, subject, parse_scope(grant.scope), against, status=grant.status)


async def preview_scope(ledger: Ledger, *, user: str, unverified_scope: str, unverified_against: str) -> Preview:
    """Count what a grant with this scope would show.

    Raises:
        MosaicError: SUBJECT_NOT_ELIGIBLE, SCOPE_INVALID.
    """
    async with ledger.transaction() as tx:
        subject = await permissions.find_subject(tx, user)
        documents = {"scope_json": unverified_scope}
        if unverified_against:
            documents["against_scope_json"] = unverified_against
        scope, *others = await _accepted(tx, subject, **documents)
    return await _counted(ledger, subject, scope, others[0] if others else None)


async def _accepted(tx: Transaction, subject: User, **unverified_scopes: str) -> list[Scope]:
    """Check every document, so that one error reports the problems of both, each with the field that it came in."""
    scopes: list[Scope] = []
    violations: list[Violation] = []
    for field, unverified_scope in unverified_scopes.items():
        try:
            scopes.append(await permissions.accepted_scope(tx, subject, unverified_scope))
        except ScopeRefused as refused:
            violations += [Violation(f"{field}{each.field}", each.description) for each in refused.violations]
    if violations:
        raise scope_refused(violations)
    return scopes


async def _counted(
    ledger: Ledger, subject: User, scope: Scope, against: Scope | None, *, status: GrantStatus | None = None
) -> Preview:
    """Count all resources at once: however many take too long, the answer takes no longer than one of them."""
    resources = [name for name in REGISTRY if scope.grants(name) or (against is not None and against.grants(name))]
    counts = await asyncio.gather(*(_count(ledger, subject.id, name, scope, against) for name in resources))
    return Preview(subject.id, status, scope, against, dict(zip(resources, counts, strict=True)))


async def _count(ledger: Ledger, user_id: UUID, resource: str, scope: Scope, against: Scope | None) -> Counts | None:
    if against is None or (scope.grants(resource) and against.grants(resource)):
        return await count(ledger, user_id, resource, scope, against)
    # Only one of the two shows it: there is nothing to compare.
    if scope.grants(resource):
        alone = await count(ledger, user_id, resource, scope)
        return alone and Counts(alone.visible, 0, 0)
    alone = await count(ledger, user_id, resource, against)
    return alone and Counts(0, alone.visible, 0)


async def count(ledger: Ledger, user_id: UUID, resource: str, scope: Scope, against: Scope | None = None) -> Counts | None:
    """Count in a transaction of its own, which ends when the time for it does; None then."""
    async with ledger.transaction() as tx:
        return await tx.sight.count(resource, user_id, scope, against)
