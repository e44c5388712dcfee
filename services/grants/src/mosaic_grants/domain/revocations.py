"""Telling the certificate authority what is owed to it, and looking at what it published.

The authority's word is not taken for anything. That a revocation is done is believed when it stands on a list that its signer
chain verifies; a serial on that list that nobody here ordered is somebody else's doing, and raises an alarm.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.crl import RevocationList, verify_revocation_list
from mosaic_common.errors import Layer, MosaicError, Reason
from mosaic_common.log import logger

from mosaic_grants.domain.deeds import deed
from mosaic_grants.domain.ports import Ledger, Transaction

BATCH: Final = 20


class Authority(Protocol):
    """The CA broker, as far as grants may use it."""

    async def revoke(self, serial: int, why: str) -> None: ...
    async def get_revocation_list(self) -> tuple[bytes, Sequence[bytes]]:
        """Return the unverified list and the unverified chain of its signer, DER."""


class Revocations:
    """Keeps ledger and authority in step."""

    def __init__(self, ledger: Ledger, authority: Authority, clock: Clock, *, federation_root: bytes) -> None:
        self._ledger: Final = ledger
        self._authority: Final = authority
        self._clock: Final = clock
        self._root: Final = federation_root
        self._log: Final = logger("revocations")

    async def tell(self) -> int:
        """Send what is due. Return how much was sent; what was not comes again, later each time.

        Raises:
            MosaicError: the ledger does not answer.
        """
        # 1. Taken for a lease's time and committed: no lock is held while the authority thinks.
        async with self._ledger.transaction() as tx:
            due = await tx.outbox.take_due(limit=BATCH)
        sent = 0
        for owed in due:
            # 2. Sent. Twice does no harm: the authority takes a serial as revoked that is so already.
            try:
                await self._authority.revoke(owed.serial, owed.reason)
                sent += 1
            except MosaicError as error:
                async with self._ledger.transaction() as tx:
                    await tx.outbox.note_failure(owed.serial, error.message)
                self._log.warning("revocation_not_sent", grant_id=str(owed.grant_id), attempts=owed.attempts, cause=error.message)
        # 3. It is done when the list shows it (`compare`), not before.
        return sent

    async def compare(self) -> None:
        """Fetch the list, settle what stands on it, refuse what it revokes, and raise an alarm for what nobody ordered.

        Raises:
            RevocationListRefused: it cannot be believed; everything stays as it is.
            MosaicError: broker or ledger do not answer.
        """
        unverified_list, unverified_chain = await self._authority.get_revocation_list()
        listed = verify_revocation_list(unverified_list, unverified_chain, root_pem=self._root, now=self._clock.now())
        async with self._ledger.transaction() as tx:
            if not await tx.revocation_lists.store(listed):
                # Nothing of an older list is taken back: what is revoked stays so.
                self._log.error("revocation_list_went_back", number=listed.number)
                tx.audit(deed(Event.REVOCATION_NOT_ORDERED, tx.now, reason=Reason.REVOCATION_LIST_REFUSED, layer=Layer.CA))
                return
            await self._settle(tx, listed)

    async def _settle(self, tx: Transaction, listed: RevocationList) -> None:
        serials = sorted(listed.serials)
        foreign = await tx.revocation_lists.add_foreign(serials)
        await tx.outbox.settle(serials)
        # Whoever had them listed, they are revoked now: the list is what other readers of it act upon.
        ended = await tx.certificates.revoke_listed(serials)
        for grant_id in ended:
            tx.audit(deed(Event.CERTIFICATE_REVOKED, self._clock.now(), grant=await tx.grants.get(grant_id), count=1))
        if foreign:
            tx.audit(
                deed(
                    Event.REVOCATION_NOT_ORDERED,
                    self._clock.now(),
                    reason=Reason.CA_LIED,
                    layer=Layer.CA,
                    count=len(foreign),
                )
            )
            self._log.error(
                "revocation_not_ordered",
                serials=[str(serial) for serial in foreign[:20]],
                certificates_ended=len(ended),
                remedy="Somebody else can revoke: treat it as a break-in at ca-broker or step-ca, then re-enroll.",
            )
