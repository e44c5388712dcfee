"""Revocations owed to the certificate authority: written in the transaction that decides them, done when its list shows them.

The authority takes a serial that it never signed, so an attempt can be owed before anybody knows whether it was signed.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from mosaic_grants.adapters.ledger.statements import Statements
from mosaic_grants.domain.model import OwedRevocation

# Long enough for the authority's answer and its list; a replica that dies meanwhile leaves the row to the next.
_LEASE: Final = timedelta(seconds=30)
# An authority that comes back after a day hears of everything soon.
_LONGEST_PAUSE: Final = timedelta(minutes=5)


class Outbox:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def owe(self, serial: int, grant_id: UUID, why: str) -> None:
        await self._sql.execute(
            """INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason) VALUES (:serial, :grant, :why)
               ON CONFLICT (serial) DO NOTHING""",
            serial=serial,
            grant=grant_id,
            why=why,
        )

    async def count_owed(self, grant_id: UUID) -> int:
        row = await self._sql.one(
            "SELECT count(*) AS owed FROM federation.federation_ca_outbox WHERE grant_id = :grant AND done_at IS NULL",
            grant=grant_id,
        )
        return int(row.owed)

    async def take_due(self, *, limit: int) -> list[OwedRevocation]:
        """Take what is due for a lease's time; another replica takes other rows. Each try waits twice as long as the last."""
        rows = await self._sql.all(
            """UPDATE federation.federation_ca_outbox o
               SET attempts = attempts + 1,
                   next_attempt_at = now() + least(
                       CAST(:lease AS interval) * power(2, least(attempts, 16)), CAST(:longest AS interval)
                   )
               WHERE id IN (SELECT id FROM federation.federation_ca_outbox
                            WHERE done_at IS NULL AND next_attempt_at <= now()
                            ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED)
               RETURNING serial, grant_id, reason, attempts""",
            lease=_LEASE,
            longest=_LONGEST_PAUSE,
            limit=limit,
        )
        return [OwedRevocation(int(row.serial), row.grant_id, row.reason, row.attempts) for row in rows]

    async def note_failure(self, serial: int, cause: str) -> None:
        await self._sql.execute(
            "UPDATE federation.federation_ca_outbox SET last_error = :cause WHERE serial = :serial",
            serial=serial,
            cause=cause[:200],
        )

    async def settle(self, serials: Sequence[int]) -> int:
        """Mark as done what stands on the authority's list. Return how many were open until now."""
        rows = await self._sql.all(
            """UPDATE federation.federation_ca_outbox SET done_at = now(), last_error = NULL
               WHERE done_at IS NULL AND serial = ANY(CAST(:serials AS numeric[])) RETURNING serial""",
            serials=list(serials),
        )
        return len(rows)
