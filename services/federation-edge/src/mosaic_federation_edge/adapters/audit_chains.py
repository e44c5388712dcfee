"""Chains from the grants service, which alone can countersign them."""

from typing import Final

import grpc
from mosaic.audit.v1 import audit_pb2, audit_pb2_grpc
from mosaic_common.audit import Chain
from mosaic_common.errors import Layer, MosaicError, Reason, Unavailable
from mosaic_common.log import logger
from mosaic_common.rpc.client import answer_of

OPEN_SECONDS: Final = 2.0


class GrantsChains:
    """AuditChainService of this gateway."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Final = audit_pb2_grpc.AuditChainServiceStub(channel)
        self._log: Final = logger("audit")

    async def open(self) -> Chain:
        try:
            request = audit_pb2.OpenChainRequest()
            opened = await answer_of(self._stub.OpenChain(request, timeout=OPEN_SECONDS), dependency="grants")
        except MosaicError as error:
            # Refused or not reached: either way there is no chain, and without one nothing is answered.
            raise Unavailable(
                Reason.DEPENDENCY_UNAVAILABLE,
                "The grants service opened no audit chain.",
                layer=Layer.DEPENDENCY,
                remedy=error.remedy,
                metadata={"dependency": "grants"},
            ) from error
        self._log.info("audit_chain_opened", chain_id=opened.chain_id.hex(), chain_number=opened.chain_number)
        return Chain(opened.chain_id, seq=0, head=opened.opening_hash)
