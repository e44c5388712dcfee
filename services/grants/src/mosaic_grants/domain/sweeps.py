"""What time and the application's users change without anybody calling.

All of it is in force before: reads look at clocks and users themselves. Here it is written down, recorded, and owed to the
authority. Each grant is its own transaction, so that one that cannot be ended does not hold up the others.
"""

from contextlib import suppress
from typing import Final

from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.errors import Conflict, Layer, NotFound, Reason
from mosaic_common.log import logger

from mosaic_grants.domain.deeds import deed
from mosaic_grants.domain.ending import SUBJECT_GONE, expire_grant, revoke_grant
from mosaic_grants.domain.ports import Ledger

BATCH: Final = 100


class Sweeps:
    """Ends what is over."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger: Final = ledger
        self._clock: Final = clock
        self._log: Final = logger("sweeps")

    async def run_once(self) -> None:
        await self.expire_grants()
        await self.end_grants_without_subject()
        await self.end_unfinished_claims()

    async def expire_grants(self) -> None:
        async with self._ledger.transaction() as tx:
            overdue = await tx.grants.list_overdue(limit=BATCH)
        for grant_id in overdue:
            with suppress(NotFound):  # deleted by somebody else meanwhile
                async with self._ledger.transaction() as tx:
                    ended = await expire_grant(tx, grant_id)
                    if ended.changed:
                        tx.audit(deed(Event.GRANT_EXPIRED, self._clock.now(), grant=ended.grant, count=len(ended.certificates)))

    async def end_grants_without_subject(self) -> None:
        async with self._ledger.transaction() as tx:
            orphans = await tx.grants.list_without_subject(limit=BATCH)
        for grant_id in orphans:
            try:
                async with self._ledger.transaction() as tx:
                    grant = await tx.grants.get(grant_id, locked=True)
                    if grant.has_active_subject:
                        continue  # back meanwhile
                    ended = await revoke_grant(tx, grant_id, SUBJECT_GONE)
                    if not ended.changed:
                        continue  # another replica was here first, and has recorded it
                    row = deed(
                        Event.GRANT_REVOKED,
                        self._clock.now(),
                        grant=ended.grant,
                        reason=Reason.SUBJECT_INACTIVE,
                        layer=Layer.SUBJECT,
                        count=len(ended.certificates),
                    )
                    tx.audit(row)
            except (Conflict, NotFound):
                continue  # ended by somebody else meanwhile
            self._log.warning("grant_ended", grant_id=str(grant_id), cause=SUBJECT_GONE)

    async def end_unfinished_claims(self) -> None:
        async with self._ledger.transaction() as tx:
            for claim in await tx.tokens.end_unfinished(limit=BATCH):
                grant = await tx.grants.get(claim.grant_id)
                tx.audit(
                    deed(Event.ENROLLMENT_UNFINISHED, self._clock.now(), grant=grant, token_id=claim.token_id, count=claim.attempt)
                )
                self._log.warning(
                    "enrollment_unfinished",
                    token_id=claim.token_id.hex(),
                    grant_id=str(claim.grant_id),
                    peer_id=str(claim.peer_id),
                    attempt=claim.attempt,
                    remedy=f"make a new token: mosaic federation grant token {claim.grant_id}",
                )
