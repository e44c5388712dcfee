"""step-ca over HTTPS, under one pinned root."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
from mosaic_common.clock import Clock
from mosaic_common.crl import MAX_REVOCATION_LIST_BYTES
from mosaic_common.errors import CaUnreachable
from mosaic_common.warrants import Warrant
from mosaic_common.x509 import Csr

from mosaic_ca_broker.adapters.ca_errors import unreachable
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.signing_claims import signing_claims
from mosaic_ca_broker.adapters.step_ca_answers import (
    Answer,
    make_safe,
    parse_chain,
    parse_intermediates,
    parse_revocation_list,
    verify_healthy,
    verify_revoked,
)
from mosaic_ca_broker.domain.authority import UnverifiedRevocationList

# httpx bounds the connection and each read; only this bounds an answer that trickles. Below the 5 s that our services give
# each other, so that the caller hears our sentence and not its own deadline.
WHOLE_ANSWER: Final = timedelta(seconds=4)
_CONNECT_SECONDS: Final = 2.0
_READ_SECONDS: Final = 4.0
_BODY_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 16
# RFC 5280 §5.3.1, privilegeWithdrawn: whatever the reason says in words, grants took back what it had given.
_PRIVILEGE_WITHDRAWN: Final = 9

# OpenSSL's X509_V_ERR_*.
_OUT_OF_DATE: Final = frozenset({9, 10})
_OTHER_NAME: Final = frozenset({62, 64})


class StepCa:
    """Adapter of CertificateAuthority.

    Args:
        url: ``https://host[:port]``, also the audience of every token: its host has to be one of step-ca's dnsNames.
        whole_answer: how long anything asked of step-ca may take, from dialling to the last byte.
    """

    def __init__(
        self,
        url: str,
        root: FederationRoot,
        key: ProvisionerKey,
        clock: Clock,
        *,
        whole_answer: timedelta = WHOLE_ANSWER,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._whole_answer = whole_answer
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

    async def revoke(self, serial: int, *, reason: str) -> None:
        """See CertificateAuthority."""
        token = self._mint({"sub": str(serial), "jti": str(uuid4())}, "/1.0/revoke")
        why = {"reasonCode": _PRIVILEGE_WITHDRAWN, "reason": make_safe(reason)}
        verify_revoked(await self._call("POST", "/1.0/revoke", {"serial": str(serial), "ott": token, "passive": True, **why}))

    async def revocation_list(self) -> UnverifiedRevocationList:
        """See CertificateAuthority."""
        async with self._answering():
            crl_der = parse_revocation_list(await self._exchange("GET", "/1.0/crl", body_max=MAX_REVOCATION_LIST_BYTES))
            chain_der = parse_intermediates(await self._exchange("GET", "/1.0/intermediates"))
        return UnverifiedRevocationList(crl_der, chain_der)

    async def ping(self) -> None:
        """See CertificateAuthority."""
        verify_healthy(await self._call("GET", "/health"))

    async def aclose(self) -> None:
        await self._http.aclose()

    def _mint(self, claims: dict[str, Any], path: str) -> str:
        return self._key.mint(claims, audience=f"{self._url}{path}", now=self._clock.now())

    async def _call(self, method: str, path: str, document: dict[str, Any] | None = None) -> Answer:
        """One attempt, never repeated: step-ca has spent the token by the time that anything can be known."""
        async with self._answering():
            return await self._exchange(method, path, document)

    async def _exchange(
        self, method: str, path: str, document: dict[str, Any] | None = None, *, body_max: int = _BODY_MAX
    ) -> Answer:
        async with self._http.stream(method, path, json=document) as response:
            return Answer(response.status_code, await _read(response, body_max))

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Bound what is asked of step-ca, and say in a sentence why nothing usable came back."""
        try:
            async with asyncio.timeout(self._whole_answer.total_seconds()):
                yield
        except TimeoutError as error:
            remedy = f"Check that step-ca at {self._url} runs and is not overloaded."
            raise unreachable("step-ca did not answer in time.", remedy=remedy) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> CaUnreachable:
        # Where no connection came to be, nothing was sent, and nobody has signed: the token need not wait out its lease.
        sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        match _find_tls_error(error):
            case ssl.SSLCertVerificationError(verify_code=code) if code in _OUT_OF_DATE:
                return unreachable(
                    f"step-ca at {self._url} shows a certificate that is not valid now.",
                    remedy="Compare the clocks of broker and step-ca; where they agree, restart step-ca, which makes a new one.",
                    may_have_signed=sent,
                )
            case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_NAME:
                return unreachable(
                    f"step-ca at {self._url} bears another name.",
                    remedy="Let STEP_CA_URL name a host in step-ca's dnsNames (STEP_CA_DNS_NAMES of infra/step-ca/init.sh).",
                    may_have_signed=sent,
                )
            case ssl.SSLCertVerificationError():
                return unreachable(
                    f"What answers at {self._url} is not the step-ca whose root is pinned.",
                    remedy="Compare STEP_CA_ROOT_CERT_PATH with the authority's certs/root_ca.crt.",
                    may_have_signed=sent,
                )
            case ssl.SSLError():
                return unreachable(
                    f"What answers at {self._url} does not speak TLS 1.3.",
                    remedy="Check that STEP_CA_URL is step-ca's own address and port, with nothing in front that ends TLS.",
                    may_have_signed=sent,
                )
            case _:
                return unreachable(
                    f"step-ca at {self._url} gave no usable answer ({type(error).__name__}).",
                    remedy="Check that step-ca runs and that STEP_CA_URL is its address.",
                    may_have_signed=sent,
                )


async def _read(response: httpx.Response, body_max: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > body_max:
            raise httpx.DecodingError(f"more than {body_max} bytes", request=response.request)
    return bytes(body)


def _find_tls_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error
