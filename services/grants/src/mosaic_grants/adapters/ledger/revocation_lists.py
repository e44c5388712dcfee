"""What the certificate authority published last, and which of it nobody here ordered."""

from collections.abc import Sequence

from mosaic_common.crl import RevocationList

from mosaic_grants.adapters.ledger.statements import Statements


class RevocationLists:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def store(self, revocations: RevocationList) -> bool:
        """Keep a verified list. Return False, and keep the old one, when that has a higher number."""
        return await self._sql.changed(
            """INSERT INTO federation.federation_revocation_list AS l (number, this_update, next_update, der)
               VALUES (:number, :this_update, :next_update, :der)
               ON CONFLICT (only_one) DO UPDATE
               SET number = excluded.number, this_update = excluded.this_update, next_update = excluded.next_update,
                   der = excluded.der, fetched_at = now()
               WHERE l.number <= excluded.number""",
            number=revocations.number,
            this_update=revocations.this_update,
            next_update=revocations.next_update,
            der=revocations.der,
        )

    async def add_foreign(self, serials: Sequence[int]) -> list[int]:
        """Return those of the list's serials that nobody here owed it or ended, each once and never again."""
        rows = await self._sql.all(
            """INSERT INTO federation.federation_foreign_revocations (serial)
               SELECT s.serial FROM unnest(CAST(:serials AS numeric[])) AS s (serial)
               WHERE NOT EXISTS (SELECT FROM federation.federation_ca_outbox o WHERE o.serial = s.serial)
               ON CONFLICT (serial) DO NOTHING RETURNING serial""",
            serials=list(serials),
        )
        return [int(row.serial) for row in rows]
