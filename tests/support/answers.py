"""Refusals as bytes, for those that must not be told apart."""

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


async def refused_bytes(call: Any) -> bytes:
    """Await a call that has to be refused; return all that its client can see of that, but for the request id."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return comparable(error)
    raise AssertionError(f"not refused: {answer}")


def comparable(error: grpc.aio.AioRpcError) -> bytes:
    """All that the client of a refused call can see of it, but for the request id."""
    seen = [repr((error.code(), error.details())).encode()]
    for key, value in (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())):
        seen += [key.encode(), _without_request_id(value) if isinstance(value, bytes) else value.encode()]
    return b"\n".join(seen)


def _without_request_id(details: bytes) -> bytes:
    status = status_pb2.Status.FromString(details)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            info.metadata["request_id"] = "the request id"
            detail.Pack(info, deterministic=True)
    answer: bytes = status.SerializeToString(deterministic=True)
    return answer
