"""Rotating the secret under which private keys are sealed, with nobody left who cannot read them.

Three phases: the new secret becomes readable everywhere (_NEXT), then the current one everywhere (the former one _PREVIOUS),
and only then are the rows sealed anew. Each replica says which secrets it has; what it says is looked at before each batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from mosaic_common.errors import ConfigurationError, CsrRefused, Layer, MosaicError, Reason
from mosaic_common.log import logger
from mosaic_common.sealing import SealBroken, SealingKeys
from mosaic_common.x509 import verify_csr

from mosaic_grants.domain.connections import key_binding
from mosaic_grants.domain.model import Replica, SealedKey
from mosaic_grants.domain.ports import Ledger, Transaction

MAX_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call changed.

    Attributes:
        remaining: rows that are still under another key; when ``resealed`` is 0, all of them are broken.
        broken: rows met on the way that open under no secret of this replica, at most MAX_BATCH of them.
    """

    resealed: int
    remaining: int
    broken: tuple[UUID, ...]


async def reseal(tx: Transaction, keys: SealingKeys, key_id: str, *, batch_size: int) -> Batch:
    """Seal up to ``batch_size`` rows anew under the key of this id. A row that does not open stays as it is.

    Raises:
        MosaicError: SEALING_KEY_NOT_READABLE, a replica is not ready for it.
    """
    # 1. Held until the commit: a replica that starts meanwhile announces itself after it, and then sees the new rows.
    _verify_ready(await tx.seals.list_replicas(locked=True), keys, key_id)
    # 2. Past whatever does not open, until the batch is full: rows that are broken must not hide those behind them.
    resealed, broken, last = 0, [], None
    while resealed < batch_size and (rows := await tx.seals.list_others_locked(key_id, after=last, limit=batch_size - resealed)):
        for row in rows:
            anew = _find_resealed(keys, row)
            if anew is None:
                broken.append(row.id)
            # 3. One old value is replaced by a new one that was just opened again, or by nothing.
            elif await tx.seals.replace(row, anew):
                resealed += 1
        last = rows[-1]
    remaining = rows_not_under(key_id, await tx.seals.count_by_key())
    return Batch(resealed, remaining, tuple(broken[:MAX_BATCH]))


def rows_not_under(key_id: str, rows_by_key: Mapping[str, int]) -> int:
    return sum(rows for key, rows in rows_by_key.items() if key != key_id)


def _find_resealed(keys: SealingKeys, row: SealedKey) -> str | None:
    try:
        csr = verify_csr(row.csr_der, common_name=row.common_name)
        return keys.reseal(row.sealed, key_binding(row.id, row.local_user_id, csr.spki_sha256))
    except (SealBroken, CsrRefused):
        return None


def _verify_ready(replicas: Sequence[Replica], keys: SealingKeys, key_id: str) -> None:
    if keys.current_id != key_id:
        raise _not_ready(f"the replica that was asked seals under {keys.current_id}")
    behind = [replica for replica in replicas if replica.current_key_id != key_id]
    if behind:
        raise _not_ready("; ".join(_why_not_ready(replica, key_id) for replica in behind))


def _why_not_ready(replica: Replica, key_id: str) -> str:
    # One that reads the key and seals under another would go on writing rows under that one.
    lacks = f"still seals under {replica.current_key_id}" if key_id in replica.readable_key_ids else "cannot read it"
    return f"replica {replica.id} {lacks}"


def _not_ready(why: str) -> MosaicError:
    return MosaicError(
        Reason.SEALING_KEY_NOT_READABLE,
        f"Not every replica of grants seals under the key asked for: {why}.",
        layer=Layer.DEPENDENCY,
        remedy="Restart each of them with the new secret as MOSAIC_SEALING_KEY and the former one as MOSAIC_SEALING_KEY_PREVIOUS "
        "(or BETTER_AUTH_SECRET and BETTER_AUTH_SECRET_PREVIOUS), then run `mosaic seal rotate` again. "
        "A replica that was killed is forgotten after 30 seconds.",
    )


def _wrong_secret(lost: Mapping[str, int]) -> ConfigurationError:
    count = sum(lost.values())
    keys = "1 private key in the database is" if count == 1 else f"{count} private keys in the database are"
    return ConfigurationError(
        f"The sealing secret is not the right one: {keys} sealed under {', '.join(sorted(lost))}, which neither MOSAIC_SEALING_KEY "
        "nor its _NEXT or _PREVIOUS (nor BETTER_AUTH_SECRET and its own) opens; give the secret that they were sealed under as "
        "_PREVIOUS."
    )


class Presence:
    """This process among the replicas of grants: it says which secrets it has, so that no rotation leaves it behind."""

    def __init__(self, ledger: Ledger, keys: SealingKeys) -> None:
        self._ledger: Final = ledger
        self._keys: Final = keys
        self._id: Final = uuid4()
        self._log: Final = logger("sealing")

    async def begin(self) -> None:
        """Announce this replica, and look whether its secrets are the right ones.

        Raises:
            ConfigurationError: rows are sealed under a secret that it was not given.
            MosaicError: the ledger does not answer.
        """
        # In this order: a rotation that does not see this replica has committed before the rows are looked at.
        await self.announce()
        async with self._ledger.transaction() as tx:
            rows_by_key = await tx.seals.count_by_key()
        # What is in no sealed form at all was altered: no secret is missing for that.
        lost = {key: rows for key, rows in rows_by_key.items() if key and key not in self._keys.readable_ids}
        if lost:
            raise _wrong_secret(lost)

    async def announce(self) -> None:
        async with self._ledger.transaction() as tx:
            await tx.seals.announce(
                self._id, current_key_id=self._keys.current_id, readable_key_ids=sorted(self._keys.readable_ids)
            )

    async def withdraw(self) -> None:
        """Say that this replica ends: a rotation need not wait for it."""
        try:
            async with self._ledger.transaction() as tx:
                await tx.seals.withdraw(self._id)
        except MosaicError as error:
            self._log.warning("not_withdrawn", cause=error.message)
