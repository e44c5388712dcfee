"""CertificateAuthorityService: protobuf in, domain calls, protobuf out."""

import re
from typing import Final

from mosaic.ca.v1.certificate_authority_pb2 import (
    GetRevocationListRequest,
    GetRevocationListResponse,
    IssueCertificateRequest,
    IssueCertificateResponse,
    RevokeCertificateRequest,
    RevokeCertificateResponse,
)
from mosaic_common.errors import InvalidInput, Layer, Reason, Violation
from mosaic_common.rpc.call import Call

from mosaic_ca_broker.domain.issue import Issuer
from mosaic_ca_broker.domain.revocations import Revocations

_DECIMAL_SERIAL: Final = re.compile(r"[1-9][0-9]{0,38}")


class CertificateAuthorityServicer:
    """The only way to the certificate authority."""

    def __init__(self, issuer: Issuer, revocations: Revocations) -> None:
        self._issuer = issuer
        self._revocations = revocations

    async def IssueCertificate(self, request: IssueCertificateRequest, _call: Call) -> IssueCertificateResponse:
        issued = await self._issuer.issue(request.warrant, request.csr_der)
        return IssueCertificateResponse(certificate_der=issued.der, chain_der=issued.chain_der)

    async def RevokeCertificate(self, request: RevokeCertificateRequest, _call: Call) -> RevokeCertificateResponse:
        await self._revocations.revoke(_parse_serial(request.serial), reason=request.reason)
        return RevokeCertificateResponse()

    async def GetRevocationList(self, _request: GetRevocationListRequest, _call: Call) -> GetRevocationListResponse:
        published = await self._revocations.published()
        return GetRevocationListResponse(crl_der=published.list.der, chain_der=published.chain_der)


def _parse_serial(unverified_serial: str) -> int:
    if not _DECIMAL_SERIAL.fullmatch(unverified_serial):
        violation = Violation("serial", "A certificate serial: a positive decimal number of at most 39 digits.")
        raise InvalidInput(Reason.REQUEST_INVALID, "The serial is not one.", layer=Layer.REQUEST, violations=[violation])
    return int(unverified_serial)
