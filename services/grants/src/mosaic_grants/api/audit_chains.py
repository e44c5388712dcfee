"""AuditChainService: opens chains for the edges; grants alone holds the audit key."""

from mosaic.audit.v1 import audit_pb2
from mosaic_common.identity import ServiceIdentity
from mosaic_common.rpc.call import Call

from mosaic_grants.domain.openings import Openings
from mosaic_grants.domain.ports import Ledger


class AuditChainServicer:
    """Opens chains for the edges; grants alone holds the audit key."""

    def __init__(self, ledger: Ledger, openings: Openings) -> None:
        self._ledger = ledger
        self._openings = openings

    async def OpenChain(self, _request: audit_pb2.OpenChainRequest, call: Call) -> audit_pb2.OpenChainResponse:
        assert isinstance(call.caller, ServiceIdentity)  # the internal listener lets nobody else through
        self._openings.take(call.caller.name)
        try:
            opened = await self._ledger.open_chain(call.caller.name)
        except BaseException:
            self._openings.give_back(call.caller.name)
            raise
        return audit_pb2.OpenChainResponse(
            chain_id=opened.head.chain_id,
            chain_number=opened.head.chain_number,
            opening_hash=opened.head.hash,
            signature=opened.signature,
        )
