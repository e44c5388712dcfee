"""Who acts, and the row that says so, written in the transaction that does it."""

from mosaic_common.audit import Event
from mosaic_common.auth import Principal
from mosaic_common.clock import Clock
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call

from mosaic_grants.domain.model import Grant, Peer
from mosaic_grants.domain.ports import Transaction


def actor_of(call: Call) -> str:
    """Return the operator's name, as their token has it."""
    assert isinstance(call.caller, Principal)  # the operator listener lets nobody else through
    return call.caller.subject


def record(tx: Transaction, call: Call, event: Event, clock: Clock) -> None:
    """Have the deed's row committed with it."""
    tx.audit(audit_row(call, event, clock.now()))
    call.recorded = True


def note_grant(call: Call, grant: Grant) -> None:
    """Have the row name the grant, also when the call is refused after this."""
    call.facts.grant_id, call.facts.peer_id, call.facts.subject_user_id = grant.id, grant.peer_id, grant.subject_user_id


def note_peer(call: Call, peer: Peer) -> None:
    """Have the row name the peer, also when the call is refused after this."""
    call.facts.peer_id, call.facts.subject_user_id = peer.id, peer.local_user_id
