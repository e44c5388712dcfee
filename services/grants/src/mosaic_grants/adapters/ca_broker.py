"""The CA broker over internal mTLS: revocations, and the list of them."""

from collections.abc import Sequence

import grpc
from mosaic.ca.v1 import certificate_authority_pb2 as ca_pb2
from mosaic.ca.v1 import certificate_authority_pb2_grpc as ca_grpc
from mosaic_common.identity import CA_BROKER
from mosaic_common.rpc.client import answer_of

TIMEOUT_SECONDS = 10.0


class Broker:
    """Adapter of revocations.Authority."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ca_grpc.CertificateAuthorityServiceStub(channel)

    async def revoke(self, serial: int, why: str) -> None:
        request = ca_pb2.RevokeCertificateRequest(serial=str(serial), reason=why)
        await answer_of(self._stub.RevokeCertificate(request, timeout=TIMEOUT_SECONDS), dependency=CA_BROKER)

    async def get_revocation_list(self) -> tuple[bytes, Sequence[bytes]]:
        call = self._stub.GetRevocationList(ca_pb2.GetRevocationListRequest(), timeout=TIMEOUT_SECONDS)
        answer = await answer_of(call, dependency=CA_BROKER)
        return answer.crl_der, tuple(answer.chain_der)
