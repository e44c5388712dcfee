"""Outbound connections and their sealed keys."""

from uuid import UUID

from mosaic_common.errors import Conflict, Layer, Reason

from mosaic_grants.adapters.ledger.peers import PEERS, Peers, peer_of
from mosaic_grants.adapters.ledger.statements import Row, Statements, pem_of
from mosaic_grants.domain.lifecycle import ENROLLED_FROM, PeerState
from mosaic_grants.domain.model import Certificate, ConnectionKey, Peer, Prepared, Received, User


class Connections:
    def __init__(self, statements: Statements, peers: Peers) -> None:
        self._sql = statements
        self._peers = peers

    async def find(self, local_user_id: UUID, name: str) -> Peer | None:
        """Find the connection that has this name now, locked; a revoked one has given it up."""
        row = await self._sql.first(
            f"""{PEERS} WHERE p.direction = 'outbound' AND p.local_user_id = :user AND p.name = :name AND p.state <> 'revoked'
                FOR NO KEY UPDATE OF p""",
            user=local_user_id,
            name=name,
        )
        return peer_of(row) if row else None

    async def find_own(self, local_user_id: UUID, peer_id: UUID) -> Peer | None:
        """Find a user's connection by its id, locked."""
        row = await self._sql.first(
            f"{PEERS} WHERE p.id = :id AND p.direction = 'outbound' AND p.local_user_id = :user FOR NO KEY UPDATE OF p",
            id=peer_id,
            user=local_user_id,
        )
        return peer_of(row) if row else None

    async def list_active(self, local_user_id: UUID, name: str) -> list[Peer]:
        """Return an active user's active connections; of one name, or all."""
        rows = await self._sql.all(
            f"""{PEERS} WHERE p.direction = 'outbound' AND p.state = 'active'
                  AND p.local_user_id = :user AND (:name = '' OR p.name = :name)
                  AND EXISTS (SELECT FROM public.users u WHERE u.id = p.local_user_id AND u.active)
                ORDER BY p.name""",
            user=local_user_id,
            name=name,
        )
        return [peer_of(row) for row in rows]

    async def insert(
        self, *, name: str, remote_gateway: str, common_name: str, enrollment_url: str, user: User, prepared: Prepared, actor: str
    ) -> Peer:
        """Write a pending connection with its first key.

        Raises:
            Conflict: NAME_TAKEN.
        """
        row = await self._sql.first(
            """INSERT INTO federation.federation_peers
                   (name, common_name, direction, remote_gateway, enrollment_url, local_user_id, created_by)
               VALUES (:name, :common_name, 'outbound', :gateway, :url, :user, :actor)
               ON CONFLICT (local_user_id, name) WHERE direction = 'outbound' AND state <> 'revoked' DO NOTHING RETURNING id""",
            name=name,
            common_name=common_name,
            gateway=remote_gateway,
            url=enrollment_url,
            user=user.id,
            actor=actor,
        )
        if row is None:
            raise Conflict(
                Reason.NAME_TAKEN,
                f"{user.email} has a connection {name!r} already.",
                layer=Layer.PEER,
                remedy="Choose another --name.",
            )
        await self.insert_key(row.id, prepared)
        return await self._peers.get(row.id)

    async def insert_key(self, peer_id: UUID, prepared: Prepared) -> None:
        await self._sql.execute(
            """INSERT INTO federation.federation_peer_keys (id, peer_id, client_key_pem, csr_der, redemption_id, token_id)
               VALUES (:id, :peer, :sealed, :csr, :redemption, :token)""",
            id=prepared.key_id,
            peer=peer_id,
            sealed=prepared.client_key_sealed,
            csr=prepared.csr_der,
            redemption=prepared.redemption_id,
            token=prepared.token_id,
        )

    async def continue_with(self, key_id: UUID, token_id: bytes | None) -> None:
        """Have a pending key wait for another token's certificate: the one before ran out, was lost, or was never redeemed."""
        await self._sql.execute(
            "UPDATE federation.federation_peer_keys SET token_id = :token WHERE id = :id AND state = 'pending'",
            id=key_id,
            token=token_id,
        )

    async def find_key(self, peer_id: UUID, state: str) -> ConnectionKey | None:
        row = await self._sql.first(
            """SELECT * FROM federation.federation_peer_keys WHERE peer_id = :peer AND state = :state
               ORDER BY created_at DESC LIMIT 1""",
            peer=peer_id,
            state=state,
        )
        return _key(row) if row else None

    async def activate(self, peer: Peer, key: ConnectionKey, received: Received) -> bool:
        """Have the connection use this key from now on; the one before, if any, is superseded."""
        issued = received.issued
        await self._sql.execute(
            "UPDATE federation.federation_peer_keys SET state = 'superseded' WHERE peer_id = :peer AND state = 'active'",
            peer=peer.id,
        )
        keyed = await self._sql.changed(
            """UPDATE federation.federation_peer_keys
               SET state = 'active', cert_pem = :cert, chain_pem = :chain, serial = :serial, fingerprint_sha256 = :fingerprint,
                   not_before = :not_before, not_after = :not_after
               WHERE id = :id AND state = 'pending'""",
            id=key.id,
            cert=pem_of([issued.der]),
            chain=pem_of(issued.chain_der),
            serial=issued.serial,
            fingerprint=issued.fingerprint,
            not_before=issued.not_before,
            not_after=issued.not_after,
        )
        return keyed and await self._sql.changed(
            """UPDATE federation.federation_peers
               SET state = 'active', activated_at = coalesce(activated_at, now()), endpoint_url = :endpoint,
                   trust_bundle_pem = :bundle, remote_grant_id = :grant, remote_subject_user_id = :subject,
                   refused_at = NULL, refused_reason = NULL, refused_grant_status = NULL
               WHERE id = :id AND state = ANY(:sources)""",
            id=peer.id,
            sources=sorted({*ENROLLED_FROM, PeerState.ACTIVE}),
            endpoint=received.endpoint,
            bundle=received.trust_bundle_pem.decode() if received.trust_bundle_pem else None,
            grant=issued.grant_id,
            subject=issued.subject_user_id,
        )

    async def note_answer(self, peer_id: UUID) -> None:
        await self._sql.execute(
            """UPDATE federation.federation_peers
               SET last_seen_at = now(), refused_at = NULL, refused_reason = NULL, refused_grant_status = NULL WHERE id = :id""",
            id=peer_id,
        )

    async def note_refusal(self, peer_id: UUID, reason: Reason, grant_status: str | None) -> bool:
        """Keep the other gateway's refusal. Return whether it is another one than before."""
        return await self._sql.changed(
            """WITH before AS (SELECT id, refused_reason, refused_grant_status FROM federation.federation_peers WHERE id = :id)
               UPDATE federation.federation_peers p
               SET last_seen_at = now(), refused_at = now(), refused_reason = :reason, refused_grant_status = :grant_status
               FROM before
               WHERE p.id = before.id
                 AND (before.refused_reason, before.refused_grant_status)
                     IS DISTINCT FROM (:reason, CAST(:grant_status AS text))""",
            id=peer_id,
            reason=reason,
            grant_status=grant_status,
        )


def _key(row: Row) -> ConnectionKey:
    certificate = None
    if row.fingerprint_sha256 is not None:
        certificate = Certificate(bytes(row.fingerprint_sha256), int(row.serial), row.not_before, row.not_after, row.state)
    return ConnectionKey(
        id=row.id,
        peer_id=row.peer_id,
        client_key_sealed=row.client_key_pem,
        csr_der=bytes(row.csr_der),
        redemption_id=row.redemption_id,
        token_id=bytes(row.token_id) if row.token_id else None,
        certificate_pem=row.cert_pem.encode() if row.cert_pem else None,
        chain_pem=row.chain_pem.encode() if row.chain_pem else None,
        certificate=certificate,
    )
