"""PeerCredentialService: keys of outbound connections, for the user they belong to."""

from uuid import UUID

from mosaic.audit.v1 import audit_pb2
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import ledger_pb2
from mosaic_common.audit import Event
from mosaic_common.audit_heads import find_contradiction
from mosaic_common.auth import Role, TokenVerifier
from mosaic_common.clock import Clock
from mosaic_common.errors import AuthRefused, Layer, MosaicError, NotFound, Reason
from mosaic_common.log import logger
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call
from mosaic_common.sealing import SealBroken, SealingKeys

from mosaic_grants.api.deeds import record
from mosaic_grants.api.requests import micros, parse_grant_head, parse_reason, parse_uuid
from mosaic_grants.domain import connections
from mosaic_grants.domain.deeds import deed
from mosaic_grants.domain.model import Peer
from mosaic_grants.domain.ports import Ledger, Transaction


class PeerCredentialServicer:
    """Keys of outbound connections, for the user they belong to."""

    def __init__(self, ledger: Ledger, keys: SealingKeys, users: TokenVerifier, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._users = users
        self._clock = clock
        self._log = logger("credentials")

    async def GetPeerCredential(
        self, request: ledger_pb2.GetPeerCredentialRequest, call: Call
    ) -> ledger_pb2.GetPeerCredentialResponse:
        user_id = self._verify_user(request.user_token, call)
        async with self._ledger.transaction() as tx:
            peers = await tx.connections.list_active(user_id, request.connection)
            credentials = [credential for peer in peers if (credential := await self._open(tx, peer)) is not None]
            call.facts.result_count = len(credentials)
            call.facts.resource = ",".join(credential.connection for credential in credentials)
            record(tx, call, Event.CREDENTIAL_RELEASED, self._clock)
        return ledger_pb2.GetPeerCredentialResponse(credentials=credentials, user_id=str(user_id))

    async def ReportConnection(
        self, request: ledger_pb2.ReportConnectionRequest, call: Call
    ) -> ledger_pb2.ReportConnectionResponse:
        user_id = self._verify_user(request.user_token, call)
        peer_id = parse_uuid(request.peer_id, field="peer_id")
        async with self._ledger.transaction() as tx:
            # Found by whose it is, so that another's connection and none at all are told alike.
            peer = await tx.connections.find_own(user_id, peer_id)
            if peer is None:
                raise NotFound(Reason.PEER_NOT_FOUND, "This user has no such connection.", layer=Layer.PEER)
            call.facts.peer_id = peer.id
            if request.reason == errors_pb2.REASON_UNSPECIFIED:
                await tx.connections.note_answer(peer.id)
            else:
                await self._refused(tx, call, peer.id, request)
            if request.HasField("audit_head"):
                await self._keep_head(tx, peer, request.audit_head)
        return ledger_pb2.ReportConnectionResponse()

    async def _refused(self, tx: Transaction, call: Call, peer_id: UUID, request: ledger_pb2.ReportConnectionRequest) -> None:
        reason = parse_reason(request.reason)
        # The other gateway's word, of which only these two are kept.
        ended = request.grant_status if request.grant_status in {"revoked", "expired"} else None
        if await tx.connections.note_refusal(peer_id, reason, ended):
            refused = MosaicError(reason, "refused", layer=Layer.PEER)
            tx.audit(audit_row(call, Event.CONNECTION_REFUSED, self._clock.now(), error=refused))
            call.recorded = True

    async def _keep_head(self, tx: Transaction, peer: Peer, unverified_head: audit_pb2.GrantAuditHead) -> None:
        """Keep what the other gateway says of its own record; nobody here has its key, so only contradictions show."""
        signed = parse_grant_head(unverified_head)
        if signed is None or signed.head.grant_id != peer.remote_grant_id:
            self._log.warning("audit_head_of_another_grant", peer_id=str(peer.id))
            return
        kept = await tx.received_heads.list_of(peer.id)
        told_before = find_contradiction(kept, signed.head)
        if told_before is None:
            if not kept or signed.head.rows > kept[0].rows:
                await tx.received_heads.add(peer.id, signed, contradicts=False)
            return
        if not await tx.received_heads.add(peer.id, signed, contradicts=True):
            return
        self._log.error(
            "audit_head_contradicts",
            peer_id=str(peer.id),
            rows_before=told_before.rows,
            rows=signed.head.rows,
            hash_before=told_before.hash.hex(),
            hash=signed.head.hash.hex(),
        )
        tx.audit(deed(Event.CONNECTION_CONTRADICTED, tx.now, peer_id=peer.id, reason=Reason.AUDIT_CHAIN_BROKEN, layer=Layer.PEER))

    def _verify_user(self, unverified_token: str, call: Call) -> UUID:
        """Return who is asking the edge: a broken one can speak only for users who are asking it right now."""
        principal = self._users.verify(unverified_token)
        if Role.QUERY not in principal.roles:
            raise AuthRefused(Reason.ROLE_REQUIRED, "Connections are for users with the role query.", layer=Layer.SUBJECT)
        user_id = parse_uuid(principal.subject, field="sub")
        call.facts.subject_user_id = user_id
        return user_id

    async def _open(self, tx: Transaction, peer: Peer) -> ledger_pb2.PeerCredential | None:
        key = await tx.connections.find_key(peer.id, "active")
        if key is None or key.certificate is None or peer.local_user_id is None:
            return None
        try:
            pem = connections.open_key(self._keys, key, local_user_id=peer.local_user_id, common_name=peer.common_name)
        except SealBroken as broken:
            # One connection whose key does not open must not take the user's others with it.
            self._log.error("seal_broken", peer_id=str(peer.id), cause=str(broken))
            return None
        return ledger_pb2.PeerCredential(
            peer_id=str(peer.id),
            connection=peer.name,
            remote_gateway=peer.remote_gateway or "",
            endpoint=peer.endpoint_url or "",
            client_key_pem=pem,
            client_chain_pem=(key.certificate_pem or b"") + (key.chain_pem or b""),
            trust_bundle_pem=peer.trust_bundle_pem or b"",
            not_after_us=micros(key.certificate.not_after),
            remote_grant_id=str(peer.remote_grant_id),
        )
