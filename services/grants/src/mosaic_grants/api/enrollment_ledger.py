"""EnrollmentLedgerService: what enrollment needs of the ledger, and nothing else."""

from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import ledger_pb2
from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.errors import Layer, MosaicError, Reason, Unimplemented
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call
from mosaic_common.tokens import token_id

from mosaic_grants.api.deeds import note_grant, record
from mosaic_grants.api.messages import enrolled_message
from mosaic_grants.api.requests import parse_reason, parse_token_id, parse_uuid
from mosaic_grants.domain.enrollment import Enrollments
from mosaic_grants.domain.model import Recorded, Ticket
from mosaic_grants.domain.ports import Ledger


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
            ticket = _noted(call, await tx.tokens.find_ticket(call.facts.token_id))
            outcome = await self._enrollments.claim(
                tx,
                ticket,
                unverified_csr=request.csr_der,
                redemption_id=redemption_id,
                signer_reachable=request.signer_reachable,
            )
            record(
                tx,
                call,
                Event.ENROLLMENT_REPEATED if isinstance(outcome, Recorded) else Event.ENROLLMENT_CLAIMED,
                self._clock,
            )
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
            ticket = _noted(call, await tx.tokens.find_ticket(call.facts.token_id))
            await self._enrollments.release(tx, ticket, request.attempt)
            refused = MosaicError(parse_reason(request.reason), "released", layer=Layer.CA)
            tx.audit(audit_row(call, Event.ENROLLMENT_RELEASED, self._clock.now(), error=refused))
            call.recorded = True
        return ledger_pb2.ReleaseEnrollmentResponse()

    async def CompleteEnrollment(
        self, request: ledger_pb2.CompleteEnrollmentRequest, call: Call
    ) -> ledger_pb2.CompleteEnrollmentResponse:
        call.source_address = request.source_address
        call.facts.token_id = parse_token_id(request.token_id)
        async with self._ledger.transaction() as tx:
            ticket = _noted(call, await tx.tokens.find_ticket(call.facts.token_id, completing=True))
            recorded = await self._enrollments.complete(tx, ticket, request.attempt, [request.certificate_der, *request.chain_der])
            record(tx, call, Event.ENROLLMENT_COMPLETED, self._clock)
        return ledger_pb2.CompleteEnrollmentResponse(enrolled=self._enrolled(recorded))

    async def RecordRefusal(self, request: ledger_pb2.RecordRefusalRequest, call: Call) -> ledger_pb2.RecordRefusalResponse:
        call.source_address = request.source_address
        call.facts.token_id = request.token_id if len(request.token_id) == 32 else None
        layer = errors_pb2.Layer.Name(request.layer).removeprefix("LAYER_")
        refused = MosaicError(parse_reason(request.reason), "refused", layer=Layer[layer] if layer in Layer.__members__ else None)
        async with self._ledger.transaction() as tx:
            if call.facts.token_id:
                grant = await tx.tokens.find_grant(call.facts.token_id)
                if grant is not None:
                    note_grant(call, grant)
            row = audit_row(call, Event.ENROLLMENT_REFUSED, self._clock.now(), error=refused, repeated=max(1, request.repeated))
            tx.audit(row)
            call.recorded = True
        return ledger_pb2.RecordRefusalResponse()

    async def ListKnownTokens(self, _request: ledger_pb2.ListKnownTokensRequest, _call: Call) -> ledger_pb2.ListKnownTokensResponse:
        async with self._ledger.transaction() as tx:
            return ledger_pb2.ListKnownTokensResponse(token_ids=await tx.tokens.list_known())

    async def ClaimRenewal(self, _request: ledger_pb2.ClaimRenewalRequest, _call: Call) -> ledger_pb2.ClaimRenewalResponse:
        raise _no_renewal()

    async def CompleteRenewal(self, _request: ledger_pb2.CompleteRenewalRequest, _call: Call) -> ledger_pb2.CompleteRenewalResponse:
        raise _no_renewal()

    def _enrolled(self, recorded: Recorded) -> ledger_pb2.Enrolled:
        return enrolled_message(recorded, gateway=self._gateway, federation_endpoint=self._endpoint)


def _noted(call: Call, ticket: Ticket | None) -> Ticket | None:
    """Have the audit row name grant and peer of the token, also when the redemption is refused."""
    if ticket is not None:
        note_grant(call, ticket.grant)
    return ticket


def _no_renewal() -> Unimplemented:
    return Unimplemented(Reason.NOT_IMPLEMENTED, "Renewal is not available in this version.")
