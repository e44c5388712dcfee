"""Grants: permissions that this gateway gives."""

from typing import Final
from uuid import UUID

from mosaic_common.audit_heads import GrantHead, SignedGrantHead
from mosaic_common.decision import RateLimit
from mosaic_common.errors import Layer, NotFound, Reason

from mosaic_grants.adapters.ledger.statements import Row, Statements
from mosaic_grants.domain.lifecycle import GRANT_SOURCES, GrantStatus, PeerState
from mosaic_grants.domain.model import Grant, GrantDraft, User
from mosaic_grants.domain.ports import After

# What an operator sees is what is in force: a grant past its end is expired before any sweep has written so.
COLUMNS: Final = """
    g.id, g.subject_user_id, g.peer_id, g.scope, g.created_by, g.approved_by, g.created_at, g.activated_at, g.expires_at,
    g.revoked_at, g.revoked_reason, g.rate_per_second, g.rate_burst,
    p.name AS peer_name, p.common_name AS peer_common_name, p.state AS peer_state, u.email, u.active,
    CASE WHEN g.status IN ('pending', 'active') AND g.expires_at <= now() THEN 'expired' ELSE g.status END AS status
"""
_GRANTS: Final = f"""
    SELECT {COLUMNS}
    FROM federation.federation_grants g
    JOIN federation.federation_peers p ON p.id = g.peer_id
    LEFT JOIN public.users u ON u.id = g.subject_user_id
"""  # noqa: S608 - constants
# The latest of a grant's heads is the one over the most rows; there is one for each month.
_LATEST_HEAD: Final = """
    LEFT JOIN LATERAL (
        SELECT rows AS head_rows, hash AS head_hash, time_us AS head_time_us, signature AS head_signature
        FROM federation.federation_audit_grant_heads WHERE grant_id = g.id ORDER BY rows DESC LIMIT 1
    ) head ON true
"""


class Grants:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def get(self, grant_id: UUID, *, locked: bool = False) -> Grant:
        """Return a grant; locked, nobody else changes it, its peer, tokens or certificates until the transaction ends.

        Raises:
            NotFound: GRANT_NOT_FOUND.
        """
        # Rows are locked in the order in which the clause names them.
        row = await self._sql.first(f"{_GRANTS} WHERE g.id = :id {'FOR NO KEY UPDATE OF p, g' if locked else ''}", id=grant_id)
        if row is None:
            raise NotFound(
                Reason.GRANT_NOT_FOUND,
                f"There is no grant {grant_id}.",
                layer=Layer.GRANT,
                remedy="`mosaic federation grant list` shows all.",
            )
        return grant_of(row)

    async def find_with_head(self, grant_id: UUID) -> tuple[Grant, SignedGrantHead | None] | None:
        """Find a grant, and the latest countersigned head of its rows, where there is one."""
        row = await self._sql.first(f"SELECT * FROM ({_GRANTS} WHERE g.id = :id) g {_LATEST_HEAD}", id=grant_id)  # noqa: S608 - constants
        if row is None:
            return None
        if row.head_rows is None:
            return grant_of(row), None
        head = GrantHead(row.id, row.head_rows, row.head_hash, row.head_time_us)
        return grant_of(row), SignedGrantHead(head, row.head_signature)

    async def list_page(
        self, *, limit: int, after: After, peer_id: UUID | None, status: GrantStatus | None, subject_user_id: UUID | None
    ) -> list[Grant]:
        rows = await self._sql.all(
            f"""SELECT * FROM ({_GRANTS}) g
                WHERE (CAST(:peer AS uuid) IS NULL OR g.peer_id = :peer)
                  AND (CAST(:subject AS uuid) IS NULL OR g.subject_user_id = :subject)
                  AND (CAST(:status AS text) IS NULL OR g.status = :status)
                  AND (CAST(:after_time AS timestamptz) IS NULL OR (g.created_at, g.id) < (:after_time, CAST(:after_id AS uuid)))
                ORDER BY g.created_at DESC, g.id DESC LIMIT :limit""",  # noqa: S608 - constants
            peer=peer_id,
            subject=subject_user_id,
            status=status,
            after_time=after[0] if after else None,
            after_id=after[1] if after else None,
            limit=limit,
        )
        return [grant_of(row) for row in rows]

    async def insert(self, draft: GrantDraft, *, actor: str) -> Grant:
        row = await self._sql.one(
            """INSERT INTO federation.federation_grants
                   (subject_user_id, peer_id, scope, created_by, approved_by, expires_at, rate_per_second, rate_burst)
               VALUES (:subject, :peer, CAST(:scope AS jsonb), :actor, :approved_by, now() + CAST(:life AS interval),
                   CAST(:per_second AS double precision), :burst)
               RETURNING id""",
            subject=draft.subject.id,
            peer=draft.peer.id,
            scope=draft.scope.to_json(),
            actor=actor,
            approved_by=draft.approved_by,
            life=draft.expires_in,
            per_second=draft.limit.per_second if draft.limit else None,
            burst=draft.limit.burst if draft.limit else None,
        )
        return await self.get(row.id)

    async def activate(self, grant_id: UUID) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_grants SET status = 'active', activated_at = now()
               WHERE id = :id AND status = ANY(:sources) AND (expires_at IS NULL OR expires_at > now())""",
            id=grant_id,
            sources=sorted(GRANT_SOURCES[GrantStatus.ACTIVE]),
        )

    async def limit(self, grant_id: UUID, limit: RateLimit | None) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_grants
               SET rate_per_second = CAST(:per_second AS double precision), rate_burst = :burst
               WHERE id = :id AND status IN ('pending', 'active') AND (expires_at IS NULL OR expires_at > now())""",
            id=grant_id,
            per_second=limit.per_second if limit else None,
            burst=limit.burst if limit else None,
        )

    async def revoke(self, grant_id: UUID, reason: str) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now(), revoked_reason = :reason
               WHERE id = :id AND status = ANY(:sources) AND (expires_at IS NULL OR expires_at > now())""",
            id=grant_id,
            reason=reason,
            sources=sorted(GRANT_SOURCES[GrantStatus.REVOKED]),
        )

    async def expire(self, grant_id: UUID) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_grants SET status = 'expired'
               WHERE id = :id AND status = ANY(:sources) AND expires_at <= now()""",
            id=grant_id,
            sources=sorted(GRANT_SOURCES[GrantStatus.EXPIRED]),
        )

    async def delete(self, grant_id: UUID) -> bool:
        """Forget a grant that never became active, and its tokens. What their attempts owe the authority stays owed."""
        await self._sql.execute("DELETE FROM federation.federation_enrollment_tokens WHERE grant_id = :id", id=grant_id)
        return await self._sql.changed(
            "DELETE FROM federation.federation_grants WHERE id = :id AND activated_at IS NULL", id=grant_id
        )

    async def list_live_of(self, peer_id: UUID) -> list[UUID]:
        """Return the peer's pending and active grants, in the one order in which many are locked."""
        rows = await self._sql.all(
            "SELECT id FROM federation.federation_grants WHERE peer_id = :peer AND status IN ('pending', 'active') ORDER BY id",
            peer=peer_id,
        )
        return [row.id for row in rows]

    async def has_any(self, peer_id: UUID) -> bool:
        return (
            await self._sql.first("SELECT 1 FROM federation.federation_grants WHERE peer_id = :peer LIMIT 1", peer=peer_id)
            is not None
        )

    async def list_overdue(self, *, limit: int) -> list[UUID]:
        """Return live grants whose time is over."""
        rows = await self._sql.all(
            """SELECT id FROM federation.federation_grants
               WHERE status IN ('pending', 'active') AND expires_at <= now() ORDER BY expires_at LIMIT :limit""",
            limit=limit,
        )
        return [row.id for row in rows]

    async def list_without_subject(self, *, limit: int) -> list[UUID]:
        """Return live grants whose subject user is disabled or gone."""
        rows = await self._sql.all(
            """SELECT g.id FROM federation.federation_grants g
               WHERE g.status IN ('pending', 'active')
                 AND NOT EXISTS (SELECT FROM public.users u WHERE u.id = g.subject_user_id AND u.active) LIMIT :limit""",
            limit=limit,
        )
        return [row.id for row in rows]


def grant_of(row: Row) -> Grant:
    subject = User(row.subject_user_id, row.email, row.active) if row.email is not None else None
    limit = RateLimit(row.rate_per_second, row.rate_burst) if row.rate_per_second is not None else None
    return Grant(
        id=row.id,
        subject_user_id=row.subject_user_id,
        peer_id=row.peer_id,
        status=GrantStatus(row.status),
        scope=row.scope,
        created_by=row.created_by,
        approved_by=row.approved_by,
        created_at=row.created_at,
        activated_at=row.activated_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        revoked_reason=row.revoked_reason,
        limit=limit,
        peer_name=row.peer_name,
        peer_common_name=row.peer_common_name,
        peer_state=PeerState(row.peer_state),
        subject=subject,
    )
