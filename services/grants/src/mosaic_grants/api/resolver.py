"""GrantResolverService: what the inbound edge may know of a grant."""

from mosaic.grants.v1 import ledger_pb2
from mosaic_common.rpc.call import Call

from mosaic_grants.api.messages import view_message
from mosaic_grants.api.requests import parse_uuid
from mosaic_grants.domain.ports import Ledger


class GrantResolverServicer:
    """What the inbound edge may know of a grant."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def ResolveGrant(self, request: ledger_pb2.ResolveGrantRequest, _call: Call) -> ledger_pb2.ResolveGrantResponse:
        grant_id = parse_uuid(request.grant_id, field="grant_id")
        async with self._ledger.transaction() as tx:
            found = await tx.grants.find_with_head(grant_id)
            # Also for a grant that is not there: a stranger must not tell it by the time that one statement less takes.
            certificates = await tx.certificates.list_of(grant_id)
        if found is None:
            return ledger_pb2.ResolveGrantResponse()
        grant, audit_head = found
        return ledger_pb2.ResolveGrantResponse(view=view_message(grant, certificates, audit_head))
