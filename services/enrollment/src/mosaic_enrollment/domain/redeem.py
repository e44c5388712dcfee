"""Redeeming a token: claim, issue, complete.

Enrollment decides nothing that matters. It holds no key that signs, sees no token, chooses no OID, and what it brings
back is verified by whoever ordered it. What it can do wrong is to refuse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from mosaic_common.errors import CA_MAY_HAVE_SIGNED, MosaicError, Reason

# The broker refuses these before it speaks to the authority.
_REFUSED_BEFORE_SIGNING: Final = frozenset(
    {
        Reason.WARRANT_INVALID,
        Reason.WARRANT_EXPIRED,
        Reason.CSR_MALFORMED,
        Reason.CSR_SIGNATURE_INVALID,
        Reason.CSR_KEY_NOT_ACCEPTED,
        Reason.CSR_COMMON_NAME_MISMATCH,
        Reason.CSR_MISMATCH,
    }
)


@dataclass(frozen=True, slots=True)
class Redemption:
    """What a client sent. Nothing of it is verified here; grants does."""

    token_public_key: bytes
    csr_der: bytes
    redemption_id: str
    proof: bytes
    source_address: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claim that grants gave, with its order for the broker."""

    token_id: bytes
    number: int
    warrant: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What the client gets."""

    certificate_der: bytes
    chain_der: tuple[bytes, ...]
    grant_id: str
    subject_user_id: str
    gateway: str
    federation_endpoint: str


class GrantsLedger(Protocol):
    async def claim(self, redemption: Redemption, *, signer_reachable: bool) -> Attempt | Enrolled: ...
    async def release(self, attempt: Attempt, reason: Reason, source_address: str) -> None: ...
    async def record_refusal(self, attempt: Attempt, reason: Reason, source_address: str) -> None: ...
    async def complete(self, attempt: Attempt, chain: Sequence[bytes], source_address: str) -> Enrolled: ...


class CaBroker(Protocol):
    async def is_reachable(self) -> bool: ...
    async def issue(self, csr_der: bytes, warrant: str) -> tuple[bytes, ...]: ...


class Redeemer:
    """Turns a token into a certificate, once."""

    def __init__(self, ledger: GrantsLedger, broker: CaBroker) -> None:
        self._ledger = ledger
        self._broker = broker

    async def redeem(self, redemption: Redemption) -> Enrolled:
        """Return the certificate, the same one for every retry of the same redemption.

        Raises:
            MosaicError: as grants and the broker say it.
        """
        # 1. No new claim while nobody can sign: the token would be held for the length of a lease for nothing. Asked now, because
        #    what the last ping said may be a second old; told to grants, because what was recorded is handed out all the same.
        signer_reachable = await self._broker.is_reachable()
        # 2. Claim. From here on only this CSR and this redemption id can have the certificate.
        claimed = await self._ledger.claim(redemption, signer_reachable=signer_reachable)
        if isinstance(claimed, Enrolled):
            return claimed
        # 3. Sign. Only a refusal that cannot have signed gives the claim back; after anything else nobody knows.
        try:
            chain = await self._broker.issue(redemption.csr_der, claimed.warrant)
        except MosaicError as refused:
            if _cannot_have_signed(refused):
                await self._ledger.release(claimed, refused.reason, redemption.source_address)
            else:
                await self._ledger.record_refusal(claimed, refused.reason, redemption.source_address)
            raise
        # 4. Complete: grants verifies the certificate for itself and activates.
        return await self._ledger.complete(claimed, chain, redemption.source_address)


def _cannot_have_signed(refused: MosaicError) -> bool:
    return refused.reason in _REFUSED_BEFORE_SIGNING or refused.metadata.get(CA_MAY_HAVE_SIGNED) == "false"
