"""Under which key rows are sealed, and which keys the replicas of grants can read."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from mosaic_common.sealing import VERSION

from mosaic_grants.adapters.ledger.statements import Statements
from mosaic_grants.domain.model import Replica, SealedKey

# Several announcements may be late before a replica counts as gone; a rotation waits as long after one that was killed.
_LIVE: Final = timedelta(seconds=30)
_FORGOTTEN: Final = timedelta(hours=1)
_SEALED_FORM: Final = rf"^{VERSION}\.([0-9a-f]{{16}})\."
_BEFORE_ALL: Final = UUID(int=0)


class Seals:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def announce(self, replica_id: UUID, *, current_key_id: str, readable_key_ids: Sequence[str]) -> None:
        """Say that this replica lives; forget who has said nothing for an hour."""
        await self._sql.execute(
            """INSERT INTO federation.federation_replicas (id, current_key_id, readable_key_ids)
               VALUES (:id, :current, :readable)
               ON CONFLICT (id) DO UPDATE SET seen_at = now()""",
            id=replica_id,
            current=current_key_id,
            readable=list(readable_key_ids),
        )
        await self._sql.execute(
            "DELETE FROM federation.federation_replicas WHERE seen_at < now() - CAST(:age AS interval)", age=_FORGOTTEN
        )

    async def withdraw(self, replica_id: UUID) -> None:
        await self._sql.execute("DELETE FROM federation.federation_replicas WHERE id = :id", id=replica_id)

    async def list_replicas(self, *, locked: bool = False) -> list[Replica]:
        """Return who was seen lately; locked, nobody announces or withdraws until the transaction ends."""
        if locked:
            await self._sql.execute("LOCK TABLE federation.federation_replicas IN SHARE MODE")
        rows = await self._sql.all(
            "SELECT * FROM federation.federation_replicas WHERE seen_at >= now() - CAST(:age AS interval) ORDER BY started_at, id",
            age=_LIVE,
        )
        return [Replica(row.id, row.started_at, row.seen_at, row.current_key_id, frozenset(row.readable_key_ids)) for row in rows]

    async def count_by_key(self) -> Mapping[str, int]:
        rows = await self._sql.all(
            """SELECT coalesce(substring(client_key_pem FROM CAST(:form AS text)), '') AS key_id, count(*) AS sealed
               FROM federation.federation_peer_keys GROUP BY 1 ORDER BY 1""",
            form=_SEALED_FORM,
        )
        return {row.key_id: int(row.sealed) for row in rows}

    async def list_others_locked(self, key_id: str, *, after: SealedKey | None, limit: int) -> list[SealedKey]:
        # The peer and not the key: whoever changes a key holds its peer first, and never two of them, so one order is enough.
        # Waiting, not SKIP LOCKED: a row that was passed over would look like one that cannot be opened.
        rows = await self._sql.all(
            """SELECT k.id, k.peer_id, k.client_key_pem, k.csr_der, p.local_user_id, p.common_name
               FROM federation.federation_peers p JOIN federation.federation_peer_keys k ON k.peer_id = p.id
               WHERE NOT starts_with(k.client_key_pem, :prefix)
                 AND (k.peer_id, k.id) > (CAST(:after_peer AS uuid), CAST(:after_key AS uuid))
               ORDER BY k.peer_id, k.id LIMIT :limit
               FOR NO KEY UPDATE OF p""",
            prefix=f"{VERSION}.{key_id}.",
            after_peer=after.peer_id if after else _BEFORE_ALL,
            after_key=after.id if after else _BEFORE_ALL,
            limit=limit,
        )
        return [
            SealedKey(row.id, row.peer_id, row.client_key_pem, bytes(row.csr_der), row.local_user_id, row.common_name)
            for row in rows
        ]

    async def replace(self, key: SealedKey, resealed: str) -> bool:
        return await self._sql.changed(
            "UPDATE federation.federation_peer_keys SET client_key_pem = :resealed WHERE id = :id AND client_key_pem = :sealed",
            resealed=resealed,
            id=key.id,
            sealed=key.sealed,
        )
