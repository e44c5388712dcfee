"""Grants and the CA broker over internal mTLS."""

from collections.abc import Sequence
from typing import Final

import grpc
from mosaic.ca.v1 import certificate_authority_pb2 as ca_pb2
from mosaic.ca.v1 import certificate_authority_pb2_grpc as ca_grpc
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import ledger_pb2, ledger_pb2_grpc
from mosaic_common.errors import Layer, Reason
from mosaic_common.identity import CA_BROKER, GRANTS
from mosaic_common.rpc.client import answer_of
from mosaic_common.rpc.health import ping_of

from mosaic_enrollment.domain.redeem import Attempt, Enrolled, Redemption

# Calls wait for it: what was known last is better than none of them answered.
KNOWN_TOKENS_SECONDS: Final = 0.5


RECORD_SECONDS: Final = 5.0


class Grants:
    """The ledger, as far as enrollment may use it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ledger_pb2_grpc.EnrollmentLedgerServiceStub(channel)

    async def claim(self, redemption: Redemption, *, signer_reachable: bool) -> Attempt | Enrolled:
        request = ledger_pb2.ClaimEnrollmentRequest(
            token_public_key=redemption.token_public_key,
            csr_der=redemption.csr_der,
            redemption_id=redemption.redemption_id,
            proof=redemption.proof,
            source_address=redemption.source_address,
            signer_reachable=signer_reachable,
        )
        answer = await answer_of(self._stub.ClaimEnrollment(request), dependency=GRANTS)
        if answer.WhichOneof("outcome") == "enrolled":
            return _enrolled(answer.enrolled)
        return Attempt(answer.attempt.token_id, answer.attempt.number, answer.attempt.warrant)

    async def list_known_tokens(self) -> frozenset[bytes]:
        request = ledger_pb2.ListKnownTokensRequest()
        answer = await answer_of(self._stub.ListKnownTokens(request, timeout=KNOWN_TOKENS_SECONDS), dependency=GRANTS)
        return frozenset(answer.token_ids)

    async def release(self, attempt: Attempt, reason: Reason, source_address: str) -> None:
        request = ledger_pb2.ReleaseEnrollmentRequest(
            token_id=attempt.token_id,
            attempt=attempt.number,
            reason=errors_pb2.Reason.Value(f"REASON_{reason.name}"),
            source_address=source_address,
        )
        await answer_of(self._stub.ReleaseEnrollment(request), dependency=GRANTS)

    async def complete(self, attempt: Attempt, chain: Sequence[bytes], source_address: str) -> Enrolled:
        request = ledger_pb2.CompleteEnrollmentRequest(
            token_id=attempt.token_id,
            attempt=attempt.number,
            certificate_der=chain[0],
            chain_der=chain[1:],
            source_address=source_address,
        )
        answer = await answer_of(self._stub.CompleteEnrollment(request), dependency=GRANTS)
        return _enrolled(answer.enrolled)

    async def record_refusal(self, attempt: Attempt, reason: Reason, source_address: str) -> None:
        """Have it recorded that this attempt ended without an answer that says whether it was signed."""
        await self.record(reason, Layer.CA, source_address, token_id=attempt.token_id)

    async def record(
        self, reason: Reason, layer: Layer | None, source_address: str, *, token_id: bytes = b"", repeated: int = 1
    ) -> None:
        """Have a refusal of our own recorded."""
        request = ledger_pb2.RecordRefusalRequest(
            reason=errors_pb2.Reason.Value(f"REASON_{reason.name}"),
            layer=errors_pb2.Layer.Value(f"LAYER_{layer.name}") if layer else errors_pb2.LAYER_UNSPECIFIED,
            source_address=source_address,
            token_id=token_id,
            repeated=repeated,
        )
        await answer_of(self._stub.RecordRefusal(request, timeout=RECORD_SECONDS), dependency=GRANTS)


class Broker:
    """The CA broker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ca_grpc.CertificateAuthorityServiceStub(channel)
        self._ping = ping_of(channel, "dependency.step-ca")

    async def is_reachable(self) -> bool:
        try:
            await self._ping()
        except (grpc.RpcError, ConnectionError):
            return False
        return True

    async def issue(self, csr_der: bytes, warrant: str) -> tuple[bytes, ...]:
        request = ca_pb2.IssueCertificateRequest(csr_der=csr_der, warrant=warrant)
        answer = await answer_of(self._stub.IssueCertificate(request, timeout=10), dependency=CA_BROKER)
        return (answer.certificate_der, *answer.chain_der)


def _enrolled(message: ledger_pb2.Enrolled) -> Enrolled:
    return Enrolled(
        certificate_der=message.certificate_der,
        chain_der=tuple(message.chain_der),
        grant_id=message.grant_id,
        subject_user_id=message.subject_user_id,
        gateway=message.gateway,
        federation_endpoint=message.federation_endpoint,
    )
