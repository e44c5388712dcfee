"""How grants and peers end: by an operator, by their time, by their subject.

Refused first, told to the authority later. One transaction ends the grant, voids its open tokens, revokes its certificates and owes
the authority everything that it has to list; from its commit on no read is answered. The authority is told afterwards
(domain/revocations.py): whatever dies in between, nothing is let in again and nothing is forgotten.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from mosaic_common.errors import Conflict, Layer, Reason

from mosaic_grants.domain.lifecycle import Direction, GrantStatus, PeerState
from mosaic_grants.domain.model import Certificate, Grant, Peer
from mosaic_grants.domain.ports import Transaction

SUBJECT_GONE: Final = "SUBJECT_INACTIVE: the subject user is disabled or gone"


@dataclass(frozen=True, slots=True)
class Ended:
    """A grant that has ended.

    Attributes:
        certificates: those that were revoked with it, just now.
        changed: False when it had ended like this before.
    """

    grant: Grant
    certificates: tuple[Certificate, ...]
    changed: bool


async def revoke_grant(tx: Transaction, grant_id: UUID, reason: str) -> Ended:
    """End a pending or active grant; one that is revoked already stays as it is.

    Raises:
        NotFound: GRANT_NOT_FOUND.
        Conflict: it has expired.
    """
    grant = await tx.grants.get(grant_id, locked=True)
    if grant.status is GrantStatus.REVOKED:
        return Ended(grant, (), changed=False)
    if not await tx.grants.revoke(grant_id, reason):
        raise Conflict(
            Reason.GRANT_STATE_CHANGED,
            f"The grant is {grant.status}; nothing is accepted under it any more.",
            layer=Layer.GRANT,
            remedy="Nothing is left to do.",
        )
    return await _ended(tx, grant_id, "grant revoked")


async def expire_grant(tx: Transaction, grant_id: UUID) -> Ended:
    """Write down that a grant's time is over, which was in force already."""
    grant = await tx.grants.get(grant_id, locked=True)
    if not await tx.grants.expire(grant_id):
        return Ended(grant, (), changed=False)
    return await _ended(tx, grant_id, "grant expired")


async def _ended(tx: Transaction, grant_id: UUID, why: str) -> Ended:
    await tx.tokens.void_open(grant_id, why)
    certificates = await tx.certificates.revoke_all(grant_id, why)
    return Ended(await tx.grants.get(grant_id), tuple(certificates), changed=True)


async def delete_grant(tx: Transaction, grant_id: UUID) -> Grant:
    """Forget a grant that never became active. What its attempts may have had signed stays owed to the authority.

    Raises:
        NotFound: GRANT_NOT_FOUND.
        Conflict: it was active once; the ledger keeps it.
    """
    grant = await tx.grants.get(grant_id, locked=True)
    if grant.activated_at is None:
        await tx.tokens.void_open(grant_id, "grant deleted")
    if grant.activated_at is not None or not await tx.grants.delete(grant_id):
        raise Conflict(
            Reason.GRANT_STATE_CHANGED,
            "A grant that was active is kept: the audit log speaks of it.",
            layer=Layer.GRANT,
            remedy=f"End it with `mosaic federation grant revoke {grant_id}`."
            if grant.status is GrantStatus.ACTIVE
            else "It has ended; nothing is left to do.",
        )
    return grant


async def suspend_peer(tx: Transaction, peer: str) -> Peer:
    """Refuse an active peer until it is resumed. Raises as `_moved`."""
    found = await tx.peers.get_by_name(peer, locked=True)
    return await _moved(tx, found, PeerState.SUSPENDED, moved=await tx.peers.suspend(found.id))


async def resume_peer(tx: Transaction, peer: str) -> Peer:
    """Accept a suspended peer again. Raises as `_moved`."""
    found = await tx.peers.get_by_name(peer, locked=True)
    return await _moved(tx, found, PeerState.ACTIVE, moved=await tx.peers.resume(found.id))


async def revoke_peer(tx: Transaction, peer: str, reason: str) -> tuple[Peer, list[Ended]]:
    """Refuse a peer for good, and end every live grant of it. Raises as `_moved`."""
    found = await tx.peers.get_by_name(peer, locked=True)
    revoked = await _moved(tx, found, PeerState.REVOKED, moved=await tx.peers.revoke(found.id, reason))
    ended = []
    if found.direction is Direction.INBOUND:
        for grant_id in await tx.grants.list_live_of(found.id):
            expired = await expire_grant(tx, grant_id)
            ended.append(expired if expired.changed else await revoke_grant(tx, grant_id, reason or "peer revoked"))
    return revoked, ended


async def delete_peer(tx: Transaction, peer: str) -> Peer:
    """Forget a peer that never became active and has no grants.

    Raises:
        NotFound: PEER_NOT_FOUND.
        Conflict: it was active once, or has grants.
    """
    found = await tx.peers.get_by_name(peer, locked=True)
    if found.activated_at is not None:
        raise _kept(
            found,
            "A peer that was active is kept: the audit log speaks of it.",
            "It has ended, and its name is free."
            if found.state is PeerState.REVOKED
            else f"End it with `mosaic federation peer revoke {found.id}`; its name is free then.",
        )
    if await tx.grants.has_any(found.id) or not await tx.peers.delete(found.id):
        raise _kept(found, "It has grants.", "Delete those that never became active first (`mosaic federation grant delete`).")
    return found


async def _moved(tx: Transaction, peer: Peer, target: PeerState, *, moved: bool) -> Peer:
    """Return the peer in its new state; one that was there already stays.

    Raises:
        Conflict: PEER_STATE_CHANGED, no such step leads there.
    """
    if not moved and peer.state is not target:
        raise Conflict(
            Reason.PEER_STATE_CHANGED,
            f"The peer {peer.name} is {peer.state}, and cannot become {target}.",
            layer=Layer.PEER,
            remedy="`mosaic federation peer show` says what became of it.",
        )
    return await tx.peers.get(peer.id)


def _kept(peer: Peer, sentence: str, remedy: str) -> Conflict:
    return Conflict(Reason.PEER_STATE_CHANGED, f"The peer {peer.name} is not deleted. {sentence}", layer=Layer.PEER, remedy=remedy)
