"""EnrollmentService: protobuf in, one redemption, protobuf out."""

from typing import Final, NoReturn

from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.errors import MosaicError, Reason, Unimplemented
from mosaic_common.identity import GRANTS
from mosaic_common.rpc.call import Call

from mosaic_enrollment.domain.admission import Admission
from mosaic_enrollment.domain.redeem import Redeemer, Redemption

# Without either of them no row is written.
_WRITERS: Final = frozenset({GRANTS, "postgres"})


class EnrollmentServicer:
    """The public door."""

    def __init__(self, admission: Admission, redeemer: Redeemer) -> None:
        self._admission = admission
        self._redeemer = redeemer

    async def Enroll(self, request: enrollment_pb2.EnrollRequest, call: Call) -> enrollment_pb2.EnrollResponse:
        # Spent here and not when the call began: silent or reset streams cost their sender nothing (docs/adr/0005).
        call.facts.token_id = await self._admission.find_token(request.token_public_key)
        await self._admission.spend(call.source_address, call.facts.token_id)
        redemption = Redemption(
            token_public_key=request.token_public_key,
            csr_der=request.csr_der,
            redemption_id=request.redemption_id,
            proof=request.proof,
            source_address=call.source_address,
        )
        try:
            enrolled = await self._redeemer.redeem(redemption)
        except MosaicError as refused:
            # What grants heard of has its row there; what it could not hear of, or not write down, is handed over later.
            call.recorded = refused.metadata.get("dependency") not in _WRITERS
            raise
        call.recorded = True
        return enrollment_pb2.EnrollResponse(
            certificate_der=enrolled.certificate_der,
            chain_der=enrolled.chain_der,
            grant_id=enrolled.grant_id,
            subject_user_id=enrolled.subject_user_id,
            gateway=enrolled.gateway,
            federation_endpoint=enrolled.federation_endpoint,
        )

    async def Renew(self, _request: enrollment_pb2.RenewRequest, _call: Call) -> NoReturn:
        raise Unimplemented(Reason.NOT_IMPLEMENTED, "Renewal is not available in this version.")
