"""The port behind which something signs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mosaic_common.warrants import Warrant
from mosaic_common.x509 import Csr


@dataclass(frozen=True, slots=True)
class UnverifiedRevocationList:
    """What an authority publishes.

    Attributes:
        crl_der: CertificateList (RFC 5280 §5).
        chain_der: certificates that lead from its signer to the root, signer first.
    """

    crl_der: bytes
    chain_der: tuple[bytes, ...]


class CertificateAuthority(Protocol):
    """Signs, revokes, and is believed in nothing that it answers.

    Every adapter keeps the same contract (tests/contract/test_certificate_authority.py). Of its errors
    only one whose metadata says ``ca_may_have_signed = false`` cannot have signed, and only such a one lets a claim go.
    """

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        """Return the unverified chain, DER, leaf first, without the root. One attempt; each ``warrant.jti`` is honoured once, ever.

        Raises:
            CaRefused: it answered with a refusal.
            CaUnreachable: no usable answer; nobody knows whether it signed, unless nothing could be sent.
            CaLied: it says that it signed and shows no certificate.
        """

    async def revoke(self, serial: int, *, reason: str) -> None:
        """Put the serial on the revocation list, signed here or not. A serial that is already there counts as done.

        Args:
            reason: for whoever reads the authority's log; any text, made safe here.

        Raises:
            CaRefused, CaUnreachable: the revocation is still owed.
        """

    async def revocation_list(self) -> UnverifiedRevocationList:
        """Return the current list. Its number grows with every change, also over restarts.

        Raises:
            CaRefused, CaUnreachable: there is none to be had.
        """

    async def ping(self) -> None:
        """Return when it could be asked now.

        Raises:
            CaUnreachable: with a remedy.
        """

    async def aclose(self) -> None:
        """Let go of connections."""
