"""UserService: the users of this gateway, as its operators name them."""

from mosaic.grants.v1 import grants_pb2
from mosaic_common.rpc.call import Call

from mosaic_grants.domain import permissions
from mosaic_grants.domain.ports import Ledger


class UserServicer:
    """The users of this gateway, as its operators name them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def FindUser(self, request: grants_pb2.FindUserRequest, _call: Call) -> grants_pb2.FindUserResponse:
        async with self._ledger.transaction() as tx:
            user = await permissions.find_subject(tx, request.user)
        return grants_pb2.FindUserResponse(id=str(user.id), email=user.email, active=user.active)
