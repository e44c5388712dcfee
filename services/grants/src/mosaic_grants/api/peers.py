"""PeerService: the other gateways, as this one records them."""

from uuid import UUID

from mosaic.grants.v1 import grants_pb2, types_pb2
from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.rpc.call import Call
from mosaic_common.sealing import SealingKeys
from mosaic_common.tokens import EnrollmentOffer

from mosaic_grants.api.deeds import actor_of, note_grant, note_peer, record
from mosaic_grants.api.messages import certificates_of, entry_message, peer_message
from mosaic_grants.api.requests import (
    page_token,
    parse_filter,
    parse_page_size,
    parse_page_token,
    parse_text,
    parse_token_id,
    parse_uuid,
)
from mosaic_grants.domain import connections, ending, permissions
from mosaic_grants.domain.lifecycle import Direction, GrantStatus, PeerState
from mosaic_grants.domain.ports import Ledger, Transaction


class PeerServicer:
    """The other gateways, as this one records them."""

    def __init__(self, ledger: Ledger, keys: SealingKeys, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._clock = clock

    async def CreatePeer(self, request: grants_pb2.CreatePeerRequest, call: Call) -> grants_pb2.CreatePeerResponse:
        connections.verify_name(request.name, field="name")
        display_name = parse_text(request.display_name, field="display_name")
        async with self._ledger.transaction() as tx:
            peer = await tx.peers.insert_inbound(request.name, display_name, actor=actor_of(call))
            note_peer(call, peer)
            record(tx, call, Event.PEER_CREATED, self._clock)
        return grants_pb2.CreatePeerResponse(peer=peer_message(peer))

    async def ListPeers(self, request: grants_pb2.ListPeersRequest, _call: Call) -> grants_pb2.ListPeersResponse:
        size = parse_page_size(request.page_size)
        async with self._ledger.transaction() as tx:
            found = await tx.peers.list_page(
                limit=size + 1,
                after=parse_page_token(request.page_token),
                direction=parse_filter(request.direction, types_pb2.PeerDirection.items(), Direction, field="direction"),
                state=parse_filter(request.state, types_pb2.PeerState.items(), PeerState, field="state"),
                local_user_id=await permissions.find_user_id(tx, request.user) if request.user else None,
            )
            page, more = found[:size], len(found) > size
            messages = [peer_message(peer) for peer in page]
            await _add_last_reads(tx, messages)
        return grants_pb2.ListPeersResponse(
            peers=messages,
            next_page_token=page_token(page[-1].created_at, page[-1].id) if more else "",
        )

    async def GetPeer(self, request: grants_pb2.GetPeerRequest, _call: Call) -> grants_pb2.GetPeerResponse:
        async with self._ledger.transaction() as tx:
            peer = await tx.peers.get_by_name(request.peer)
            message = peer_message(peer, certificates_of(await tx.connections.find_key(peer.id, "active")))
            message.enrollment_pending = await tx.connections.find_key(peer.id, "pending") is not None
            message.recent.extend(entry_message(each) for each in await tx.records.list_recent_of_peer(peer.id))
            await _add_last_reads(tx, [message])
        return grants_pb2.GetPeerResponse(peer=message)

    async def PrepareConnection(
        self, request: grants_pb2.PrepareConnectionRequest, call: Call
    ) -> grants_pb2.PrepareConnectionResponse:
        name = request.name or request.remote_gateway
        connections.verify_name(name, field="name")
        connections.verify_name(request.remote_gateway, field="remote_gateway")
        connections.verify_name(request.common_name, field="common_name")
        offer = EnrollmentOffer.parse(
            f"{request.enrollment_address}/api/federation/enrollment#gateway={request.remote_gateway}&cn={request.common_name}"
        )
        call.facts.token_id = parse_token_id(request.token_id) if request.token_id else None
        async with self._ledger.transaction() as tx:
            user = await permissions.find_subject(tx, request.user)
            call.facts.subject_user_id = user.id
            order = connections.Order(
                user=user,
                name=name,
                remote_gateway=request.remote_gateway,
                common_name=request.common_name,
                enrollment_url=offer.address,
                token_id=call.facts.token_id,
                reenroll=request.reenroll,
                pin=request.pin or None,
            )
            prepared = await connections.prepare(tx, self._keys, order, actor=actor_of(call))
            note_peer(call, prepared.peer)
            record(tx, call, Event.CONNECTION_PREPARED, self._clock)
            # A connection that is active already is answered whole: whoever missed that answer gets it now.
            key = await tx.connections.find_key(prepared.peer.id, "active") if prepared.already_active else None
        return grants_pb2.PrepareConnectionResponse(
            peer=peer_message(prepared.peer, certificates_of(key)),
            csr_der=prepared.csr_der,
            redemption_id=str(prepared.redemption_id),
            already_active=prepared.already_active,
        )

    async def ActivateConnection(
        self, request: grants_pb2.ActivateConnectionRequest, call: Call
    ) -> grants_pb2.ActivateConnectionResponse:
        peer_id = parse_uuid(request.peer_id, field="peer_id")
        grant_id = parse_uuid(request.grant_id, field="grant_id")
        subject_user_id = parse_uuid(request.subject_user_id, field="subject_user_id")
        async with self._ledger.transaction() as tx:
            peer = await tx.peers.get(peer_id, locked=True)
            call.facts.peer_id, call.facts.grant_id = peer.id, grant_id
            key = await tx.connections.find_key(peer.id, "pending")
            if key is None or peer.state not in {PeerState.PENDING, PeerState.ACTIVE}:
                raise connections.not_waiting(peer)
            call.facts.token_id = key.token_id
            received = connections.verify_answer(
                peer,
                key,
                unverified_chain=[request.certificate_der, *request.chain_der],
                grant_id=grant_id,
                subject_user_id=subject_user_id,
                gateway=request.gateway,
                endpoint=request.federation_endpoint,
                pinned_root_der=request.pinned_root_der,
                endpoint_host_confirmed=request.endpoint_host_confirmed,
                now=self._clock.now(),
            )
            if not await tx.connections.activate(peer, key, received):
                raise connections.not_waiting(peer)
            active = await tx.peers.get(peer.id)
            certificates = certificates_of(await tx.connections.find_key(peer.id, "active"))
            record(tx, call, Event.CONNECTION_ACTIVATED, self._clock)
        return grants_pb2.ActivateConnectionResponse(peer=peer_message(active, certificates))

    async def SuspendPeer(self, request: grants_pb2.SuspendPeerRequest, call: Call) -> grants_pb2.SuspendPeerResponse:
        async with self._ledger.transaction() as tx:
            note_peer(call, await tx.peers.get_by_name(request.peer))
            message = peer_message(await ending.suspend_peer(tx, request.peer))
            await _add_last_reads(tx, [message])
            record(tx, call, Event.PEER_SUSPENDED, self._clock)
        return grants_pb2.SuspendPeerResponse(peer=message)

    async def ResumePeer(self, request: grants_pb2.ResumePeerRequest, call: Call) -> grants_pb2.ResumePeerResponse:
        async with self._ledger.transaction() as tx:
            note_peer(call, await tx.peers.get_by_name(request.peer))
            message = peer_message(await ending.resume_peer(tx, request.peer))
            await _add_last_reads(tx, [message])
            record(tx, call, Event.PEER_RESUMED, self._clock)
        return grants_pb2.ResumePeerResponse(peer=message)

    async def RevokePeer(self, request: grants_pb2.RevokePeerRequest, call: Call) -> grants_pb2.RevokePeerResponse:
        reason = parse_text(request.reason.strip(), field="reason")
        async with self._ledger.transaction() as tx:
            note_peer(call, await tx.peers.get_by_name(request.peer))
            peer, ended = await ending.revoke_peer(tx, request.peer, reason)
            message = peer_message(peer)
            await _add_last_reads(tx, [message])
            call.facts.result_count = len(ended)
            record(tx, call, Event.PEER_REVOKED, self._clock)
            for each in ended:
                note_grant(call, each.grant)
                call.facts.result_count = len(each.certificates)
                expired = each.grant.status is GrantStatus.EXPIRED
                record(tx, call, Event.GRANT_EXPIRED if expired else Event.GRANT_REVOKED, self._clock)
        return grants_pb2.RevokePeerResponse(peer=message, grants_revoked=len(ended))

    async def DeletePeer(self, request: grants_pb2.DeletePeerRequest, call: Call) -> grants_pb2.DeletePeerResponse:
        async with self._ledger.transaction() as tx:
            note_peer(call, await tx.peers.get_by_name(request.peer))
            await ending.delete_peer(tx, request.peer)
            record(tx, call, Event.PEER_DELETED, self._clock)
        return grants_pb2.DeletePeerResponse()


async def _add_last_reads(tx: Transaction, messages: list[types_pb2.Peer]) -> None:
    """Inbound peers are seen by what they ask, which stands in the audit log; of outbound ones the edge reports."""
    inbound = {message.id: message for message in messages if message.direction == types_pb2.PEER_DIRECTION_INBOUND}
    for peer_id, time_us in (await tx.records.list_last_reads([UUID(each) for each in inbound])).items():
        inbound[str(peer_id)].last_seen_at_us = time_us
