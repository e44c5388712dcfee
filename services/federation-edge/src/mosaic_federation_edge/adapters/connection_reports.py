"""How other gateways answered, told to grants, so that an operator reads there why a connection does not work.

A reason and a word, never anything that was read. A connection is reported on when its answer changes, and otherwise seldom;
what cannot be told is dropped: the next query brings it up again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import grpc
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import ledger_pb2, ledger_pb2_grpc
from mosaic_common.errors import MosaicError
from mosaic_common.log import logger
from mosaic_common.rpc.client import answer_of

from mosaic_federation_edge.domain.connections import PeerRefusal

AGAIN_SECONDS: Final = 60.0
REPORT_SECONDS: Final = 2.0
MAX_CONNECTIONS: Final = 4096
MAX_QUEUED: Final = 256


@dataclass(frozen=True, slots=True)
class _Report:
    user_token: str
    peer_id: UUID
    refusal: PeerRefusal | None
    audit_head: bytes


class ConnectionReports:
    """Adapter of domain.connections.Reports."""

    def __init__(self, channel: grpc.aio.Channel, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stub: Final = ledger_pb2_grpc.PeerCredentialServiceStub(channel)
        self._monotonic: Final = monotonic
        self._told: Final[OrderedDict[UUID, tuple[PeerRefusal | None, float]]] = OrderedDict()
        self._queue: Final[asyncio.Queue[_Report]] = asyncio.Queue(MAX_QUEUED)
        self._log: Final = logger("reports")

    def report(self, user_token: str, peer_id: UUID, refusal: PeerRefusal | None, audit_head: bytes = b"") -> None:
        """Have it told; returns at once."""
        now = self._monotonic()
        told = self._told.get(peer_id)
        if (told is not None and told[0] == refusal and now - told[1] < AGAIN_SECONDS) or self._queue.full():
            return
        self._told[peer_id] = (refusal, now)
        self._told.move_to_end(peer_id)
        if len(self._told) > MAX_CONNECTIONS:
            self._told.popitem(last=False)
        self._queue.put_nowait(_Report(user_token, peer_id, refusal, audit_head))

    async def run(self) -> None:
        """Tell, for ever."""
        while True:
            report = await self._queue.get()
            try:
                await answer_of(self._stub.ReportConnection(_request(report), timeout=REPORT_SECONDS), dependency="grants")
            except MosaicError as error:
                self._told.pop(report.peer_id, None)
                self._log.info("connection_not_reported", peer_id=str(report.peer_id), reason=error.reason)


def _request(report: _Report) -> ledger_pb2.ReportConnectionRequest:
    refusal = report.refusal
    request = ledger_pb2.ReportConnectionRequest(
        user_token=report.user_token,
        peer_id=str(report.peer_id),
        reason=errors_pb2.Reason.Value(f"REASON_{refusal.reason.name}") if refusal else errors_pb2.REASON_UNSPECIFIED,
        grant_status=refusal.grant_status if refusal else "",
    )
    if report.audit_head:
        request.audit_head.MergeFromString(report.audit_head)
    return request
