"""What operators call: grants, peers and users."""

from datetime import timedelta

from mosaic.grants.v1 import grants_pb2, types_pb2
from mosaic_common.audit import Event
from mosaic_common.auth import Principal
from mosaic_common.clock import Clock
from mosaic_common.errors import Reason, Unimplemented
from mosaic_common.log import logger
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call
from mosaic_common.sealing import SealingKeys
from mosaic_common.tokens import EnrollmentOffer, token_id

from mosaic_grants.api.messages import certificate_message, grant_message, peer_message, token_message
from mosaic_grants.api.requests import page_token, parse_duration, parse_grant_id, parse_page_size, parse_page_token, parse_uuid
from mosaic_grants.domain import connections, permissions
from mosaic_grants.domain.lifecycle import Direction, GrantStatus, PeerState
from mosaic_grants.domain.model import Grant, Peer
from mosaic_grants.domain.ports import Ledger, Transaction


def _actor(call: Call) -> str:
    assert isinstance(call.caller, Principal)  # the operator listener lets nobody else through
    return call.caller.subject


def _recorded(tx: Transaction, call: Call, event: Event, clock: Clock) -> None:
    tx.audit(audit_row(call, event, clock.now()))
    call.recorded = True


class GrantServicer:
    """Permissions that this gateway gives."""

    def __init__(
        self, ledger: Ledger, clock: Clock, *, gateway: str, enrollment_host: str, enrollment_port: int, pin: bytes | None
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._gateway = gateway
        self._host, self._port = enrollment_host, enrollment_port
        self._pin = pin
        self._log = logger("grants")

    async def CreateGrant(self, request: grants_pb2.CreateGrantRequest, call: Call) -> grants_pb2.CreateGrantResponse:
        actor = _actor(call)
        async with self._ledger.transaction() as tx:
            draft = await permissions.draft_grant(
                tx,
                user=request.user,
                peer=request.peer,
                unverified_scope=request.scope_json,
                expires_in=parse_duration(request.expires_in_seconds) if request.HasField("expires_in_seconds") else None,
                approve_sensitive=request.approve_sensitive,
                actor=actor,
            )
            grant = await tx.insert_grant(draft, actor=actor)
            _note(call, grant)
            call.facts.resource = ",".join(draft.scope.resources)
            _recorded(tx, call, Event.GRANT_CREATED, self._clock)
            if draft.approved_by:
                call.facts.resource = ",".join(draft.scope.sensitive_resources)
                _recorded(tx, call, Event.GRANT_APPROVED, self._clock)
                self._log.warning(
                    "sensitive_resources_approved",
                    grant_id=str(grant.id),
                    resources=draft.scope.sensitive_resources,
                    approved_by=actor,
                )
        return grants_pb2.CreateGrantResponse(grant=grant_message(grant))

    async def ListGrants(self, request: grants_pb2.ListGrantsRequest, _call: Call) -> grants_pb2.ListGrantsResponse:
        size = parse_page_size(request.page_size)
        async with self._ledger.transaction() as tx:
            if request.peer:
                await permissions.get_inbound_peer(tx, request.peer)
            found = await tx.list_grants(
                limit=size + 1,
                after=parse_page_token(request.page_token),
                peer=request.peer,
                status=GrantStatus[types_pb2.GrantStatus.Name(request.status).removeprefix("GRANT_STATUS_")]
                if request.status
                else None,
            )
        page, more = found[:size], len(found) > size
        return grants_pb2.ListGrantsResponse(
            grants=[grant_message(grant) for grant in page],
            next_page_token=page_token(page[-1].created_at, page[-1].id) if more else "",
        )

    async def GetGrant(self, request: grants_pb2.GetGrantRequest, _call: Call) -> grants_pb2.GetGrantResponse:
        grant_id = parse_grant_id(request.id)
        async with self._ledger.transaction() as tx:
            message = grant_message(await tx.get_grant(grant_id))
            message.certificates.extend(certificate_message(each) for each in await tx.list_certificates(grant_id))
            message.tokens.extend(token_message(each, tx.now) for each in await tx.list_tokens(grant_id))
        return grants_pb2.GetGrantResponse(grant=message)

    async def CreateEnrollmentToken(
        self, request: grants_pb2.CreateEnrollmentTokenRequest, call: Call
    ) -> grants_pb2.CreateEnrollmentTokenResponse:
        grant_id = parse_grant_id(request.grant_id)
        async with self._ledger.transaction() as tx:
            grant = await tx.get_grant(grant_id)
            _note(call, grant)
            peer = await tx.get_peer(grant.peer_id)
            draft = permissions.draft_token(
                grant,
                peer,
                token_public_key=request.token_public_key,
                ttl=timedelta(seconds=request.ttl_seconds),
                reenroll=request.reenroll,
            )
            call.facts.token_id = token_id(draft.token_public_key)
            token = await tx.insert_token(draft, call.facts.token_id, actor=_actor(call))
            _recorded(tx, call, Event.TOKEN_CREATED, self._clock)
            now = tx.now
        offer = EnrollmentOffer(
            host=self._host, port=self._port, gateway=self._gateway, common_name=peer.common_name, pin=self._pin
        )
        return grants_pb2.CreateEnrollmentTokenResponse(token=token_message(token, now), url_without_token=offer.format())

    async def RevokeGrant(self, _request: grants_pb2.RevokeGrantRequest, _call: Call) -> grants_pb2.RevokeGrantResponse:
        raise _not_yet("Revoking a grant")


class PeerServicer:
    """The other gateways, as this one records them."""

    def __init__(self, ledger: Ledger, keys: SealingKeys, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._clock = clock

    async def CreatePeer(self, request: grants_pb2.CreatePeerRequest, call: Call) -> grants_pb2.CreatePeerResponse:
        connections.verify_name(request.name, field="name")
        async with self._ledger.transaction() as tx:
            peer = await tx.insert_inbound_peer(request.name, request.display_name[:200], actor=_actor(call))
            call.facts.peer_id = peer.id
            _recorded(tx, call, Event.PEER_CREATED, self._clock)
        return grants_pb2.CreatePeerResponse(peer=peer_message(peer))

    async def ListPeers(self, request: grants_pb2.ListPeersRequest, _call: Call) -> grants_pb2.ListPeersResponse:
        size = parse_page_size(request.page_size)
        async with self._ledger.transaction() as tx:
            found = await tx.list_peers(
                limit=size + 1,
                after=parse_page_token(request.page_token),
                direction=Direction[types_pb2.PeerDirection.Name(request.direction).removeprefix("PEER_DIRECTION_")]
                if request.direction
                else None,
                state=PeerState[types_pb2.PeerState.Name(request.state).removeprefix("PEER_STATE_")] if request.state else None,
            )
        page, more = found[:size], len(found) > size
        return grants_pb2.ListPeersResponse(
            peers=[peer_message(peer) for peer in page],
            next_page_token=page_token(page[-1].created_at, page[-1].id) if more else "",
        )

    async def GetPeer(self, request: grants_pb2.GetPeerRequest, _call: Call) -> grants_pb2.GetPeerResponse:
        async with self._ledger.transaction() as tx:
            peer = await tx.get_peer_by_name(request.peer)
            key = await tx.get_key(peer.id, "active")
        certificates = [key.certificate] if key and key.certificate else []
        return grants_pb2.GetPeerResponse(peer=peer_message(peer, certificates))

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
        async with self._ledger.transaction() as tx:
            user = await permissions.find_subject(tx, request.user)
            call.facts.subject_user_id = user.id
            existing = await tx.find_connection(user.id, name)
            if existing is not None:
                connections.verify_resumable(
                    existing,
                    common_name=request.common_name,
                    remote_gateway=request.remote_gateway,
                    enrollment_url=offer.address,
                )
                key = await tx.get_key(existing.id, "pending")
                assert key is not None  # a pending connection is written together with its key
                return _prepared(existing, key.csr_der)
            prepared = connections.prepare(self._keys, common_name=request.common_name, local_user_id=user.id)
            peer = await tx.insert_connection(
                name=name,
                remote_gateway=request.remote_gateway,
                common_name=request.common_name,
                enrollment_url=offer.address,
                user=user,
                prepared=prepared,
                actor=_actor(call),
            )
            call.facts.peer_id = peer.id
            _recorded(tx, call, Event.CONNECTION_PREPARED, self._clock)
        return _prepared(peer, prepared.csr_der)

    async def ActivateConnection(
        self, request: grants_pb2.ActivateConnectionRequest, call: Call
    ) -> grants_pb2.ActivateConnectionResponse:
        peer_id = parse_uuid(request.peer_id, field="peer_id")
        grant_id = parse_uuid(request.grant_id, field="grant_id")
        subject_user_id = parse_uuid(request.subject_user_id, field="subject_user_id")
        async with self._ledger.transaction() as tx:
            peer = await tx.get_peer(peer_id)
            call.facts.peer_id, call.facts.grant_id = peer.id, grant_id
            key = await tx.get_key(peer.id, "pending")
            if key is None or peer.state is not PeerState.PENDING:
                raise connections.not_pending(peer)
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
            if not await tx.activate_connection(peer, key, received):
                raise connections.not_pending(peer)
            active = await tx.get_peer(peer.id)
            activated = await tx.get_key(peer.id, "active")
            _recorded(tx, call, Event.CONNECTION_ACTIVATED, self._clock)
        certificates = [activated.certificate] if activated and activated.certificate else []
        return grants_pb2.ActivateConnectionResponse(peer=peer_message(active, certificates))

    async def SuspendPeer(self, _request: grants_pb2.SuspendPeerRequest, _call: Call) -> grants_pb2.SuspendPeerResponse:
        raise _not_yet("Suspending a peer")

    async def ResumePeer(self, _request: grants_pb2.ResumePeerRequest, _call: Call) -> grants_pb2.ResumePeerResponse:
        raise _not_yet("Resuming a peer")

    async def RevokePeer(self, _request: grants_pb2.RevokePeerRequest, _call: Call) -> grants_pb2.RevokePeerResponse:
        raise _not_yet("Revoking a peer")


class UserServicer:
    """The users of this gateway, as its operators name them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def FindUser(self, request: grants_pb2.FindUserRequest, _call: Call) -> grants_pb2.FindUserResponse:
        async with self._ledger.transaction() as tx:
            user = await permissions.find_subject(tx, request.user)
        return grants_pb2.FindUserResponse(id=str(user.id), email=user.email, active=user.active)


def _note(call: Call, grant: Grant) -> None:
    call.facts.grant_id, call.facts.peer_id, call.facts.subject_user_id = grant.id, grant.peer_id, grant.subject_user_id


def _prepared(peer: Peer, csr_der: bytes) -> grants_pb2.PrepareConnectionResponse:
    return grants_pb2.PrepareConnectionResponse(peer=peer_message(peer), csr_der=csr_der, redemption_id=str(peer.redemption_id))


def _not_yet(what: str) -> Unimplemented:
    return Unimplemented(Reason.NOT_IMPLEMENTED, f"{what} is not available in this version.")
