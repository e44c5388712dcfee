"""A peer as a stranger would write one: a key, a certificate and the published protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.rpc import error_details_pb2, status_pb2
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic.federation.v1 import federation_pb2
from mosaic_common.tokens import EnrollmentUrl
from mosaic_common.x509 import make_csr


@dataclass(frozen=True, slots=True)
class Redemption:
    """One attempt to redeem a token; sending its request again is a retry."""

    key: ec.EllipticCurvePrivateKey
    request: enrollment_pb2.EnrollRequest

    @classmethod
    def of(cls, url: EnrollmentUrl, *, common_name: str | None = None) -> "Redemption":
        """A fresh key, CSR and redemption id, proved with the URL's token."""
        key, redemption_id = ec.generate_private_key(ec.SECP256R1()), uuid4()
        csr = make_csr(key, common_name or url.common_name)
        request = enrollment_pb2.EnrollRequest(
            token_public_key=url.token.public_key,
            csr_der=csr,
            redemption_id=str(redemption_id),
            proof=url.token.prove(csr, redemption_id, url.pin),
        )
        return cls(key, request)


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a redemption gave."""

    redemption: Redemption
    answer: enrollment_pb2.EnrollResponse

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.answer.certificate_der)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused call, its details parsed."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    retry_after_seconds: float | None

    @classmethod
    def of(cls, error: grpc.RpcError) -> "Refusal":
        assert isinstance(error, grpc.aio.AioRpcError)
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    for message in (info, bad, retry):
                        detail.Unpack(message)
        return cls(
            code=error.code(),
            message=error.details() or "",
            reason=info.reason,
            metadata=dict(info.metadata),
            violations={v.field: v.description for v in bad.field_violations},
            retry_after_seconds=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        )


async def refusal(call: Any) -> Refusal:
    """Await a call that has to be refused."""
    try:
        answer = await call
    except grpc.RpcError as error:
        return Refusal.of(error)
    raise AssertionError(f"not refused: {answer}")


@dataclass(frozen=True, slots=True)
class PeerClient:
    """Calls FederationService with one certificate."""

    stub: Any
    grant_id: str
    key: bytes
    chain: bytes

    async def list(self, resource: str, *, page_size: int = 0, page_token: str = "") -> federation_pb2.ListResourcesResponse:
        request = federation_pb2.ListResourcesRequest(resource=resource, page_size=page_size, page_token=page_token)
        answer: federation_pb2.ListResourcesResponse = await self.stub.ListResources(request)
        return answer

    async def list_all(self, resource: str, *, page_size: int = 0) -> Sequence[federation_pb2.ListResourcesResponse]:
        """Every page of one query."""
        pages = [await self.list(resource, page_size=page_size)]
        while pages[-1].next_page_token:
            pages.append(await self.list(resource, page_size=page_size, page_token=pages[-1].next_page_token))
        return pages

    async def capabilities(self) -> federation_pb2.GetCapabilitiesResponse:
        answer: federation_pb2.GetCapabilitiesResponse = await self.stub.GetCapabilities(federation_pb2.GetCapabilitiesRequest())
        return answer


def to_pem(ders: Sequence[bytes]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)
