"""Revoke what grants orders, and show what is revoked."""

from collections.abc import Sequence
from dataclasses import dataclass

from mosaic_common.clock import Clock
from mosaic_common.crl import RevocationList, verify_revocation_list

from mosaic_ca_broker.domain.authority import CertificateAuthority


@dataclass(frozen=True, slots=True)
class PublishedRevocations:
    """A list that holds under the configured root, and the certificates by which another can see so."""

    list: RevocationList
    chain_der: Sequence[bytes]


class Revocations:
    """Holds no state, so it knows no earlier list: that numbers never go back is for grants to remember."""

    def __init__(self, authority: CertificateAuthority, *, federation_root_pem: bytes, clock: Clock) -> None:
        self._authority = authority
        self._federation_root_pem = federation_root_pem
        self._clock = clock

    async def revoke(self, serial: int, *, reason: str) -> None:
        """Have the authority revoke a serial, signed or not; twice is done.

        Raises:
            CaRefused, CaUnreachable: the revocation is still owed.
        """
        await self._authority.revoke(serial, reason=reason)

    async def published(self) -> PublishedRevocations:
        """Return the authority's current list.

        Raises:
            RevocationListRefused: what it published does not hold.
            CaRefused, CaUnreachable: it published nothing.
        """
        unverified = await self._authority.revocation_list()
        verified = verify_revocation_list(
            unverified.crl_der, unverified.chain_der, root_pem=self._federation_root_pem, now=self._clock.now()
        )
        return PublishedRevocations(verified, unverified.chain_der)
