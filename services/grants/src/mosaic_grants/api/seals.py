"""SealService: the secret under which private keys are kept."""

import re
from typing import Final

from mosaic.grants.v1 import grants_pb2
from mosaic_common.audit import Event
from mosaic_common.clock import Clock
from mosaic_common.errors import InvalidInput, Layer, Reason, Violation
from mosaic_common.log import logger
from mosaic_common.rpc.call import Call
from mosaic_common.sealing import SealingKeys

from mosaic_grants.api.deeds import record
from mosaic_grants.api.requests import micros
from mosaic_grants.domain import sealing
from mosaic_grants.domain.ports import Ledger

DEFAULT_BATCH: Final = 100
_KEY_ID: Final = re.compile(r"[0-9a-f]{16}")
# A row that was overwritten names no key; it is counted and named all the same.
_NO_KEY_ID: Final = "none"


class SealServicer:
    """The secret under which private keys are kept."""

    def __init__(self, ledger: Ledger, keys: SealingKeys, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._log = logger("sealing")

    async def GetSealStatus(self, _request: grants_pb2.GetSealStatusRequest, _call: Call) -> grants_pb2.GetSealStatusResponse:
        async with self._ledger.transaction() as tx:
            replicas = await tx.seals.list_replicas()
            rows_by_key = await tx.seals.count_by_key()
        return grants_pb2.GetSealStatusResponse(
            current_key_id=self._keys.current_id,
            readable_key_ids=sorted(self._keys.readable_ids),
            keys=[grants_pb2.SealingKey(key_id=key or _NO_KEY_ID, rows=rows) for key, rows in rows_by_key.items()],
            replicas=[
                grants_pb2.Replica(
                    id=str(replica.id),
                    started_at_us=micros(replica.started_at),
                    seen_at_us=micros(replica.seen_at),
                    current_key_id=replica.current_key_id,
                    readable_key_ids=sorted(replica.readable_key_ids),
                )
                for replica in replicas
            ],
            rows_to_reseal=sealing.rows_not_under(self._keys.current_id, rows_by_key),
        )

    async def Reseal(self, request: grants_pb2.ResealRequest, call: Call) -> grants_pb2.ResealResponse:
        key_id = _parse_key_id(request.key_id)
        batch_size = _parse_batch_size(request.batch_size)
        call.facts.resource = key_id
        async with self._ledger.transaction() as tx:
            batch = await sealing.reseal(tx, self._keys, key_id, batch_size=batch_size)
            if batch.resealed:
                call.facts.result_count = batch.resealed
                record(tx, call, Event.KEYS_RESEALED, self._clock)
        if batch.broken:
            self._log.error("seals_broken", keys=len(batch.broken), key_ids=[str(each) for each in batch.broken[:20]])
        return grants_pb2.ResealResponse(
            resealed=batch.resealed, remaining=batch.remaining, broken_row_ids=[str(each) for each in batch.broken]
        )


def _parse_key_id(value: str) -> str:
    if not _KEY_ID.fullmatch(value):
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "key_id names no key.",
            layer=Layer.REQUEST,
            violations=[Violation("key_id", "must be the current_key_id that GetSealStatus answers")],
        )
    return value


def _parse_batch_size(value: int) -> int:
    if not 0 <= value <= sealing.MAX_BATCH:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "That is no size for a batch.",
            layer=Layer.REQUEST,
            violations=[Violation("batch_size", f"must be 0 (for {DEFAULT_BATCH}) to {sealing.MAX_BATCH}")],
        )
    return value or DEFAULT_BATCH
