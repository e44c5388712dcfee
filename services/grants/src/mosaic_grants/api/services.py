"""What the other services of this gateway call."""

from mosaic.audit.v1 import audit_pb2
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import ledger_pb2
from mosaic_common.audit import Event
from mosaic_common.auth import Role, TokenVerifier
from mosaic_common.clock import Clock
from mosaic_common.errors import AuthRefused, InvalidInput, Layer, MosaicError, NotFound, Reason, Unimplemented
from mosaic_common.identity import ServiceIdentity
from mosaic_common.log import logger
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call
from mosaic_common.sealing import SealBroken, SealingKeys
from mosaic_common.tokens import token_id

from mosaic_grants.api.messages import enrolled_message, view_message
from mosaic_grants.api.requests import micros, parse_token_id, parse_uuid
from mosaic_grants.domain import connections
from mosaic_grants.domain.enrollment import Enrollments
from mosaic_grants.domain.model import Peer, Recorded
from mosaic_grants.domain.ports import Ledger, Transaction


class EnrollmentLedgerServicer:
    """What enrollment needs of the ledger, and nothing else."""

    def __init__(self, ledger: Ledger, enrollments: Enrollments, clock: Clock, *, gateway: str, federation_endpoint: str) -> None:
        self._ledger = ledger
        self._enrollments = enrollments
        self._clock = clock
        self._gateway = gateway
        self._endpoint = federation_endpoint

    async def ClaimEnrollment(self, request: ledger_pb2.ClaimEnrollmentRequest, call: Call) -> ledger_pb2.ClaimEnrollmentResponse:
        call.source_address = request.source_address
        call.facts.token_id = token_id(request.token_public_key)
        redemption_id = parse_uuid(request.redemption_id, field="redemption_id")
        # Before the token is looked up: whoever only knows its public key must not learn, or hold up, anything.
        self._enrollments.verify_proof(request.token_public_key, request.csr_der, redemption_id, request.proof)
        async with self._ledger.transaction() as tx:
            await self._note(tx, call, call.facts.token_id)
            outcome = await self._enrollments.claim(
                tx,
                token_id=call.facts.token_id,
                unverified_csr=request.csr_der,
                redemption_id=redemption_id,
                signer_reachable=request.signer_reachable,
            )
            self._record(tx, call, Event.ENROLLMENT_REPEATED if isinstance(outcome, Recorded) else Event.ENROLLMENT_CLAIMED)
        if isinstance(outcome, Recorded):
            return ledger_pb2.ClaimEnrollmentResponse(enrolled=self._enrolled(outcome))
        attempt = ledger_pb2.Attempt(token_id=outcome.token_id, number=outcome.number, warrant=outcome.warrant)
        return ledger_pb2.ClaimEnrollmentResponse(attempt=attempt)

    async def ReleaseEnrollment(
        self, request: ledger_pb2.ReleaseEnrollmentRequest, call: Call
    ) -> ledger_pb2.ReleaseEnrollmentResponse:
        call.source_address = request.source_address
        call.facts.token_id = parse_token_id(request.token_id)
        async with self._ledger.transaction() as tx:
            await self._note(tx, call, request.token_id)
            await self._enrollments.release(tx, request.token_id, request.attempt)
            refused = MosaicError(_parse_reason(request.reason), "released", layer=Layer.CA)
            tx.audit(audit_row(call, Event.ENROLLMENT_RELEASED, self._clock.now(), error=refused))
            call.recorded = True
        return ledger_pb2.ReleaseEnrollmentResponse()

    async def CompleteEnrollment(
        self, request: ledger_pb2.CompleteEnrollmentRequest, call: Call
    ) -> ledger_pb2.CompleteEnrollmentResponse:
        call.source_address = request.source_address
        call.facts.token_id = parse_token_id(request.token_id)
        async with self._ledger.transaction() as tx:
            await self._note(tx, call, request.token_id)
            recorded = await self._enrollments.complete(
                tx, request.token_id, request.attempt, [request.certificate_der, *request.chain_der]
            )
            self._record(tx, call, Event.ENROLLMENT_COMPLETED)
        return ledger_pb2.CompleteEnrollmentResponse(enrolled=self._enrolled(recorded))

    async def RecordRefusal(self, request: ledger_pb2.RecordRefusalRequest, call: Call) -> ledger_pb2.RecordRefusalResponse:
        call.source_address = request.source_address
        call.facts.token_id = request.token_id if len(request.token_id) == 32 else None
        layer = errors_pb2.Layer.Name(request.layer).removeprefix("LAYER_")
        refused = MosaicError(_parse_reason(request.reason), "refused", layer=Layer[layer] if layer in Layer.__members__ else None)
        async with self._ledger.transaction() as tx:
            if call.facts.token_id:
                await self._note(tx, call, call.facts.token_id)
            row = audit_row(call, Event.ENROLLMENT_REFUSED, self._clock.now(), error=refused, repeated=max(1, request.repeated))
            tx.audit(row)
            call.recorded = True
        return ledger_pb2.RecordRefusalResponse()

    async def ClaimRenewal(self, _request: ledger_pb2.ClaimRenewalRequest, _call: Call) -> ledger_pb2.ClaimRenewalResponse:
        raise _no_renewal()

    async def CompleteRenewal(self, _request: ledger_pb2.CompleteRenewalRequest, _call: Call) -> ledger_pb2.CompleteRenewalResponse:
        raise _no_renewal()

    async def _note(self, tx: Transaction, call: Call, unverified_token_id: bytes) -> None:
        """Have the audit row name grant and peer of the token, also when the redemption is refused."""
        token = await tx.find_token(unverified_token_id)
        if token is None:
            return
        grant = await tx.get_grant(token.grant_id)
        call.facts.grant_id, call.facts.peer_id, call.facts.subject_user_id = grant.id, token.peer_id, grant.subject_user_id

    def _record(self, tx: Transaction, call: Call, event: Event) -> None:
        tx.audit(audit_row(call, event, self._clock.now()))
        call.recorded = True

    def _enrolled(self, recorded: Recorded) -> ledger_pb2.Enrolled:
        return enrolled_message(recorded, gateway=self._gateway, federation_endpoint=self._endpoint)


class GrantResolverServicer:
    """What the inbound edge may know of a grant."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def ResolveGrant(self, request: ledger_pb2.ResolveGrantRequest, _call: Call) -> ledger_pb2.ResolveGrantResponse:
        grant_id = parse_uuid(request.grant_id, field="grant_id")
        async with self._ledger.transaction() as tx:
            try:
                grant = await tx.get_grant(grant_id)
            except NotFound:
                return ledger_pb2.ResolveGrantResponse()
            peer = await tx.get_peer(grant.peer_id)
            certificates = await tx.list_certificates(grant.id)
        return ledger_pb2.ResolveGrantResponse(view=view_message(grant, peer, certificates))


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
        # The user's own token, verified here: a broken edge can ask only for users who are asking it right now.
        principal = self._users.verify(request.user_token)
        if Role.QUERY not in principal.roles:
            raise AuthRefused(Reason.ROLE_REQUIRED, "Connections are for users with the role query.", layer=Layer.SUBJECT)
        user_id = parse_uuid(principal.subject, field="sub")
        call.facts.subject_user_id = user_id
        async with self._ledger.transaction() as tx:
            peers = await tx.list_connections(user_id, request.connection)
            credentials = [credential for peer in peers if (credential := await self._open(tx, peer)) is not None]
            call.facts.result_count = len(credentials)
            call.facts.resource = ",".join(credential.connection for credential in credentials)
            tx.audit(audit_row(call, Event.CREDENTIAL_RELEASED, self._clock.now()))
            call.recorded = True
        return ledger_pb2.GetPeerCredentialResponse(credentials=credentials, user_id=str(user_id))

    async def _open(self, tx: Transaction, peer: Peer) -> ledger_pb2.PeerCredential | None:
        key = await tx.get_key(peer.id, "active")
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


class AuditChainServicer:
    """Opens chains for the edges; grants alone holds the audit key."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def OpenChain(self, _request: audit_pb2.OpenChainRequest, call: Call) -> audit_pb2.OpenChainResponse:
        assert isinstance(call.caller, ServiceIdentity)  # the internal listener lets nobody else through
        opened = await self._ledger.open_chain(call.caller.name)
        return audit_pb2.OpenChainResponse(
            chain_id=opened.head.chain_id,
            chain_number=opened.head.chain_number,
            opening_hash=opened.head.hash,
            signature=opened.signature,
        )


def _parse_reason(value: errors_pb2.Reason.ValueType) -> Reason:
    name = errors_pb2.Reason.Name(value).removeprefix("REASON_") if value in errors_pb2.Reason.values() else ""
    if name not in Reason.__members__:
        raise InvalidInput(Reason.REQUEST_INVALID, "reason is none that this version knows.", layer=Layer.REQUEST)
    return Reason[name]


def _no_renewal() -> Unimplemented:
    return Unimplemented(Reason.NOT_IMPLEMENTED, "Renewal is not available in this version.")
