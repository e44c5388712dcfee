"""The port behind which something signs."""

from collections.abc import Sequence
from typing import Protocol

from mosaic_common.warrants import Warrant
from mosaic_common.x509 import Csr


class CertificateAuthority(Protocol):
    """Signs, revokes, and is believed in nothing that it answers.

    Every adapter keeps the same contract (tests/contract/test_certificate_authority.py). Of its errors
    only one whose metadata says ``ca_may_have_signed = false`` cannot have signed, and only such a one lets a claim go.
    """

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        """Return the unverified chain, DER, leaf first, without the root. One attempt; each ``warrant.jti`` is honoured once, ever.

        Raises:
            CaRefused: it answered with a refusal.
            CaUnreachable: no usable answer; nobody knows whether it signed.
            CaLied: it says that it signed and shows no certificate.
        """

    async def revoke(self, serial: int) -> None:
        """Put the serial on the revocation list, signed here or not. A serial that is already there counts as done.

        Raises:
            CaRefused, CaUnreachable: the revocation is still owed.
        """

    async def ping(self) -> None:
        """Return when it could be asked now.

        Raises:
            CaUnreachable: with a remedy.
        """

    async def aclose(self) -> None:
        """Let go of connections."""
