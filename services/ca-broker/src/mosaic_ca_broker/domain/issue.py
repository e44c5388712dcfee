"""Sign exactly what a warrant orders."""

from datetime import timedelta
from typing import Final

from mosaic_common.clock import Clock
from mosaic_common.warrants import Warrant, WarrantVerifier
from mosaic_common.x509 import Csr, IssuedCertificate, Ordered, verify_csr, verify_issued

from mosaic_ca_broker.domain.authority import CertificateAuthority

# step-ca sets notBefore one minute back; the other minute is for clocks. Anything older was not made for this warrant.
BACKDATING_MAX: Final = timedelta(minutes=2)


class Issuer:
    """Holds no state: the authority remembers each warrant's jti, so that N replicas honour it once between them."""

    def __init__(
        self, authority: CertificateAuthority, warrants: WarrantVerifier, *, federation_root_pem: bytes, clock: Clock
    ) -> None:
        self._authority = authority
        self._warrants = warrants
        self._federation_root_pem = federation_root_pem
        self._clock = clock

    async def issue(self, unverified_warrant: str, unverified_csr: bytes) -> IssuedCertificate:
        """Return the certificate that the warrant ordered for this CSR.

        Args:
            unverified_warrant: compact JWS, ES256, as received.
            unverified_csr: PKCS#10 in DER, at most 2 KiB.

        Raises:
            WarrantRefused: signature, audience or expiry do not hold.
            CsrRefused: RFC 2986 syntax, self-signature, curve or common name, or not the CSR that the warrant names.
            CaRefused, CaUnreachable, CaLied: each with a remedy for the operator.
        """
        # 1. Everything that can be refused without the CA is refused first: a one-time token is spent the moment step-ca sees it.
        warrant = self._warrants.verify(unverified_warrant)
        csr = verify_csr(unverified_csr, common_name=warrant.common_name, sha256=warrant.csr_sha256)
        # 2. One attempt per warrant. A retry needs a new one: after a timeout nobody knows whether this one signed.
        unverified_chain = await self._authority.sign(csr, warrant)
        # 3. The CA is trusted to sign, not to have signed what was ordered.
        return verify_issued(unverified_chain, _ordered(warrant, csr), root_pem=self._federation_root_pem, now=self._clock.now())


def _ordered(warrant: Warrant, csr: Csr) -> Ordered:
    return Ordered(
        common_name=warrant.common_name,
        grant_id=warrant.grant_id,
        subject_user_id=warrant.subject_user_id,
        serial=warrant.serial,
        spki_sha256=csr.spki_sha256,
        not_after=warrant.not_after,
        not_before_min=warrant.issued_at - BACKDATING_MAX,
    )
