"""step-ca over HTTPS, under one pinned root."""

import asyncio
import ssl
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
from mosaic_common.clock import Clock
from mosaic_common.errors import CaUnreachable
from mosaic_common.warrants import Warrant
from mosaic_common.x509 import Csr

from mosaic_ca_broker.adapters.ca_errors import unreachable
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.signing_claims import signing_claims
from mosaic_ca_broker.adapters.step_ca_answers import Answer, parse_chain, verify_healthy, verify_revoked

# httpx bounds the connection and each read; only this bounds an answer that trickles. Below the 5 s that our services give
# each other, so that the caller hears our sentence and not its own deadline.
_WHOLE_ANSWER: Final = timedelta(seconds=4)
_CONNECT_SECONDS: Final = 2.0
_READ_SECONDS: Final = 4.0
_BODY_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 16
_UNSPECIFIED: Final = 0  # RFC 5280 §5.3.1: our audit says why, the list need not


class StepCa:
    """Adapter of CertificateAuthority.

    Args:
        url: ``https://host[:port]``, also the audience of every token: its host has to be one of step-ca's dnsNames.
    """

    def __init__(
        self,
        url: str,
        root: FederationRoot,
        key: ProvisionerKey,
        clock: Clock,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._key = key
        self._clock = clock
        self._http = httpx.AsyncClient(
            base_url=url,
            verify=root.tls_context(),
            # Neither proxies nor CA bundles from the environment may come between the broker and the pinned root.
            trust_env=False,
            follow_redirects=False,
            headers={"accept-encoding": "identity"},
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=_CONNECTIONS_MAX),
            transport=transport,
        )

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        """See CertificateAuthority."""
        return await self.redeem(signing_claims(csr, warrant), csr.der, not_after=warrant.not_after.strftime("%Y-%m-%dT%H:%M:%SZ"))

    async def redeem(self, claims: dict[str, Any], csr_der: bytes, *, not_after: str) -> list[bytes]:
        """Spend one one-time token with these claims; what it may not say is step-ca's template to refuse."""
        csr_pem = ssl.DER_cert_to_PEM_cert(csr_der).replace("CERTIFICATE-----", "CERTIFICATE REQUEST-----")
        # Minted last: whatever fails before this line leaves the warrant unspent.
        token = self._mint(claims, "/1.0/sign")
        return parse_chain(await self._call("POST", "/1.0/sign", {"csr": csr_pem, "ott": token, "notAfter": not_after}))

    async def revoke(self, serial: int) -> None:
        """See CertificateAuthority."""
        token = self._mint({"sub": str(serial), "jti": str(uuid4())}, "/1.0/revoke")
        order = {"serial": str(serial), "ott": token, "reasonCode": _UNSPECIFIED, "reason": "ordered by grants", "passive": True}
        verify_revoked(await self._call("POST", "/1.0/revoke", order))

    async def ping(self) -> None:
        """See CertificateAuthority."""
        verify_healthy(await self._call("GET", "/health"))

    async def aclose(self) -> None:
        await self._http.aclose()

    def _mint(self, claims: dict[str, Any], path: str) -> str:
        return self._key.mint(claims, audience=f"{self._url}{path}", now=self._clock.now())

    async def _call(self, method: str, path: str, document: dict[str, Any] | None = None) -> Answer:
        """One attempt, never repeated: step-ca has spent the token by the time that anything can be known."""
        try:
            async with asyncio.timeout(_WHOLE_ANSWER.total_seconds()):
                async with self._http.stream(method, path, json=document) as response:
                    return Answer(response.status_code, await _read(response))
        except TimeoutError as error:
            remedy = f"Check that step-ca at {self._url} runs and is not overloaded."
            raise unreachable("step-ca did not answer in time.", remedy=remedy) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> CaUnreachable:
        if _is_certificate_refusal(error):
            return unreachable(
                f"What answers at {self._url} is not the step-ca whose root is pinned.",
                remedy="Compare STEP_CA_ROOT_CERT_PATH with the authority's certs/root_ca.crt, and STEP_CA_URL with its dnsNames.",
            )
        return unreachable(
            f"step-ca at {self._url} gave no usable answer ({type(error).__name__}).",
            remedy="Check that step-ca runs and that STEP_CA_URL is its address.",
        )


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _BODY_MAX:
            raise httpx.DecodingError(f"more than {_BODY_MAX} bytes", request=response.request)
    return bytes(body)


def _is_certificate_refusal(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
