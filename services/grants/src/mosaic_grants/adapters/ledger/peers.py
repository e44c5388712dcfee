"""Peers: gateways that may ask us, and the connections of our users to others."""

from typing import Final
from uuid import UUID

from mosaic_common.errors import Conflict, Layer, NotFound, Reason

from mosaic_grants.adapters.ledger.statements import Row, Statements, find_uuid
from mosaic_grants.domain.lifecycle import ENROLLED_FROM, PEER_SOURCES, Direction, PeerState
from mosaic_grants.domain.model import Peer, Refusal
from mosaic_grants.domain.ports import After

PEERS: Final = """
    SELECT p.*, u.email AS local_user_email
    FROM federation.federation_peers p LEFT JOIN public.users u ON u.id = p.local_user_id
"""


class Peers:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def get(self, peer_id: UUID, *, locked: bool = False) -> Peer:
        """Return a peer; locked, nobody else changes it, its grants or its keys until the transaction ends.

        Raises:
            NotFound: PEER_NOT_FOUND.
        """
        row = await self._sql.first(f"{PEERS} WHERE p.id = :id {'FOR NO KEY UPDATE OF p' if locked else ''}", id=peer_id)
        if row is None:
            raise no_peer(str(peer_id))
        return peer_of(row)

    async def find(self, peer: str, direction: Direction | None = None) -> Peer | None:
        """Find by id, or by a name that only one peer has; one that is not revoked comes before any that is.

        Raises:
            Conflict: NAME_TAKEN, more than one peer bears the name.
        """
        if not peer.isprintable():
            return None  # PostgreSQL cannot hold a NUL, and nobody is called so
        rows = await self._sql.all(
            f"""{PEERS} WHERE (p.id = :id OR p.name = :name) AND (CAST(:direction AS text) IS NULL OR p.direction = :direction)
                ORDER BY p.id = :id DESC, p.state = 'revoked', p.created_at DESC LIMIT 2""",
            id=find_uuid(peer),
            name=peer,
            direction=direction,
        )
        if not rows:
            return None
        first = peer_of(rows[0])
        rivals = [
            each for each in map(peer_of, rows[1:]) if (each.state is PeerState.REVOKED) == (first.state is PeerState.REVOKED)
        ]
        if rivals and first.id != find_uuid(peer):
            raise Conflict(
                Reason.NAME_TAKEN,
                f"More than one peer is called {peer!r}.",
                layer=Layer.PEER,
                remedy="Name it by its id (`mosaic federation peer list`).",
            )
        return first

    async def get_by_name(self, peer: str, *, locked: bool = False) -> Peer:
        """Return a peer by id or name.

        Raises:
            NotFound: PEER_NOT_FOUND.
            Conflict: NAME_TAKEN.
        """
        found = await self.find(peer)
        if found is None:
            raise no_peer(peer)
        return await self.get(found.id, locked=True) if locked else found

    async def list_page(
        self, *, limit: int, after: After, direction: Direction | None, state: PeerState | None, local_user_id: UUID | None
    ) -> list[Peer]:
        rows = await self._sql.all(
            f"""{PEERS}
                WHERE (CAST(:direction AS text) IS NULL OR p.direction = :direction)
                  AND (CAST(:state AS text) IS NULL OR p.state = :state)
                  AND (CAST(:user AS uuid) IS NULL OR p.local_user_id = :user)
                  AND (CAST(:after_time AS timestamptz) IS NULL OR (p.created_at, p.id) < (:after_time, CAST(:after_id AS uuid)))
                ORDER BY p.created_at DESC, p.id DESC LIMIT :limit""",
            direction=direction,
            state=state,
            user=local_user_id,
            after_time=after[0] if after else None,
            after_id=after[1] if after else None,
            limit=limit,
        )
        return [peer_of(row) for row in rows]

    async def insert_inbound(self, name: str, display_name: str, *, actor: str) -> Peer:
        """Register a gateway that may ask us.

        Raises:
            Conflict: NAME_TAKEN, by a peer that is not revoked.
        """
        row = await self._sql.first(
            """INSERT INTO federation.federation_peers (name, common_name, display_name, direction, created_by)
               VALUES (:name, :name, :display_name, 'inbound', :actor)
               ON CONFLICT (common_name) WHERE direction = 'inbound' AND state <> 'revoked' DO NOTHING RETURNING id""",
            name=name,
            display_name=display_name,
            actor=actor,
        )
        if row is None:
            raise Conflict(
                Reason.NAME_TAKEN,
                f"There is an inbound peer {name!r} already.",
                layer=Layer.PEER,
                remedy="Use it, or choose another name.",
            )
        return await self.get(row.id)

    async def activate(self, peer_id: UUID) -> bool:
        """Activate a pending peer; one that is active already stays so. A suspended one is resumed by an operator only."""
        return await self._sql.changed(
            """UPDATE federation.federation_peers SET state = 'active', activated_at = coalesce(activated_at, now())
               WHERE id = :id AND state = ANY(:sources)""",
            id=peer_id,
            sources=sorted({*ENROLLED_FROM, PeerState.ACTIVE}),
        )

    async def suspend(self, peer_id: UUID) -> bool:
        return await self._sql.changed(
            "UPDATE federation.federation_peers SET state = 'suspended' WHERE id = :id AND state = ANY(:sources)",
            id=peer_id,
            sources=sorted(PEER_SOURCES[PeerState.SUSPENDED]),
        )

    async def resume(self, peer_id: UUID) -> bool:
        return await self._sql.changed(
            "UPDATE federation.federation_peers SET state = 'active' WHERE id = :id AND state = ANY(:sources)",
            id=peer_id,
            sources=sorted(PEER_SOURCES[PeerState.ACTIVE] - ENROLLED_FROM),
        )

    async def revoke(self, peer_id: UUID, reason: str) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_peers SET state = 'revoked', revoked_at = now(), revoked_reason = :reason
               WHERE id = :id AND state = ANY(:sources)""",
            id=peer_id,
            reason=reason,
            sources=sorted(PEER_SOURCES[PeerState.REVOKED]),
        )

    async def delete(self, peer_id: UUID) -> bool:
        """Forget a peer that never became active, and the key that was made for it."""
        await self._sql.execute("DELETE FROM federation.federation_peer_keys WHERE peer_id = :id", id=peer_id)
        return await self._sql.changed(
            "DELETE FROM federation.federation_peers WHERE id = :id AND activated_at IS NULL", id=peer_id
        )


def peer_of(row: Row) -> Peer:
    refusal = Refusal(Reason(row.refused_reason), row.refused_grant_status or "", row.refused_at) if row.refused_at else None
    return Peer(
        id=row.id,
        name=row.name,
        common_name=row.common_name,
        display_name=row.display_name,
        direction=Direction(row.direction),
        state=PeerState(row.state),
        endpoint_url=row.endpoint_url,
        enrollment_url=row.enrollment_url,
        trust_bundle_pem=row.trust_bundle_pem.encode() if row.trust_bundle_pem else None,
        remote_gateway=row.remote_gateway,
        local_user_id=row.local_user_id,
        local_user_email=row.local_user_email,
        remote_grant_id=row.remote_grant_id,
        remote_subject_user_id=row.remote_subject_user_id,
        refusal=refusal,
        created_by=row.created_by,
        created_at=row.created_at,
        activated_at=row.activated_at,
        last_seen_at=row.last_seen_at,
        revoked_at=row.revoked_at,
        revoked_reason=row.revoked_reason,
    )


def no_peer(peer: str) -> NotFound:
    return NotFound(
        Reason.PEER_NOT_FOUND, f"There is no peer {peer!r}.", layer=Layer.PEER, remedy="`mosaic federation peer list` shows all."
    )
