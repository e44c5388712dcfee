"""SealService: the secret under which private keys are kept."""

from typing import NoReturn

from mosaic.grants.v1 import grants_pb2
from mosaic_common.errors import Reason, Unimplemented
from mosaic_common.rpc.call import Call


class SealServicer:
    """The secret under which private keys are kept."""

    async def GetSealStatus(self, _request: grants_pb2.GetSealStatusRequest, _call: Call) -> NoReturn:
        raise Unimplemented(Reason.NOT_IMPLEMENTED, "The sealing status is not available yet.")

    async def Reseal(self, _request: grants_pb2.ResealRequest, _call: Call) -> NoReturn:
        raise Unimplemented(Reason.NOT_IMPLEMENTED, "Resealing is not available yet.")
