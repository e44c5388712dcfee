"""Errors to google.rpc.Status and back; the only translation there is."""

from typing import Final, NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from mosaic_common.errors import CLASSES, Layer, MosaicError, Reason, Unavailable, Violation

DOMAIN: Final = "federation.mosaicstack.dev"
DETAILS_KEY: Final = "grpc-status-details-bin"
MAX_VIOLATIONS: Final = 32
_GRPC_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
# What is wrong inside a gateway is told to its own operators only; its canonical log line has the sentence.
_OUTSIDE: Final = {
    Reason.DEPENDENCY_UNAVAILABLE: "The gateway cannot answer right now; try again later.",
    Reason.CA_REFUSED: "The gateway's certificate authority refused.",
    Reason.CA_UNREACHABLE: "The gateway's certificate authority did not answer; try again later.",
    Reason.CA_LIED: "The gateway's certificate authority answered something else than was ordered.",
    Reason.WARRANT_INVALID: "The gateway's own signing order was refused.",
    Reason.WARRANT_EXPIRED: "The gateway's own signing order came too late; try again.",
}
_INTERNAL: Final = "The gateway failed to answer; its log has the details under this request id."


def internal_error() -> MosaicError:
    """What a client sees of an unhandled exception: nothing of it."""
    return MosaicError(Reason.INTERNAL, _INTERNAL)


def to_status(error: MosaicError, *, request_id: str, outside: bool) -> Status:
    """Return the answer for an error.

    Args:
        error: ours.
        request_id: of the refused call.
        outside: the reader is no operator, user or service of this gateway.
    """
    own = {"http_status": str(error.status.http_status), "request_id": request_id}
    metadata = dict(own)
    if outside and error.reason in _OUTSIDE:
        message = _OUTSIDE[error.reason]
        metadata["remediation"] = "Tell the operator of that gateway this request id."
    else:
        message = error.message
        metadata = error.metadata | own
        if error.remedy is not None:
            metadata["remediation"] = error.remedy
    status = Status(code=error.status.code.value, message=message)
    status.details.append(_packed(details.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata)))
    if error.violations:
        # Details travel in one header, of which clients accept 8 KiB.
        told = [*error.violations[:MAX_VIOLATIONS]]
        if len(error.violations) > MAX_VIOLATIONS:
            told.append(Violation("", f"and {len(error.violations) - MAX_VIOLATIONS} more"))
        fields = [details.BadRequest.FieldViolation(field=v.field, description=v.description) for v in told]
        status.details.append(_packed(details.BadRequest(field_violations=fields)))
    if error.retry_after is not None:
        retry = details.RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        status.details.append(_packed(retry))
    return status


async def abort(context: grpc.aio.ServicerContext, error: MosaicError, *, request_id: str, outside: bool) -> NoReturn:  # type: ignore[type-arg]  # generic only in the stubs
    """End the call with an error."""
    status = to_status(error, request_id=request_id, outside=outside)
    trailing = ((DETAILS_KEY, status.SerializeToString(deterministic=True)),)
    await context.abort(_GRPC_CODES[status.code], status.message, trailing_metadata=trailing)
    raise AssertionError("abort returned")  # pragma: no cover


def grpc_code(error: MosaicError) -> grpc.StatusCode:
    return _GRPC_CODES[error.status.code.value]


def from_rpc_error(rpc_error: grpc.RpcError, *, dependency: str) -> MosaicError:
    """Return what another of our services answered, typed.

    An answer without our ErrorInfo was made by the library or by nobody: the dependency is down.
    """
    if isinstance(rpc_error, grpc.aio.AioRpcError):
        trailing = rpc_error.trailing_metadata()
    else:
        trailing = rpc_error.trailing_metadata() if isinstance(rpc_error, grpc.Call) else ()
    for key, value in trailing or ():
        if key == DETAILS_KEY and isinstance(value, bytes) and (error := _find_error(value)) is not None:
            return error
    return Unavailable(
        Reason.DEPENDENCY_UNAVAILABLE,
        f"{dependency} cannot be reached.",
        layer=Layer.DEPENDENCY,
        remedy=f"Check that {dependency} runs and is healthy.",
        metadata={"dependency": dependency},
    )


def _find_error(raw: bytes) -> MosaicError | None:
    info, bad, retry = details.ErrorInfo(), details.BadRequest(), details.RetryInfo()
    try:
        status = Status.FromString(raw)
        for detail in status.details:
            for message in (info, bad, retry):
                detail.Unpack(message)
        retry_after = retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None
    except (DecodeError, OverflowError, ValueError):
        return None  # whoever wrote this was not our code
    if info.domain != DOMAIN or info.reason not in Reason.__members__:
        return None
    metadata = dict(info.metadata)
    metadata.pop("http_status", None)
    reason = Reason(info.reason)
    return CLASSES.get(reason, MosaicError)(
        reason,
        status.message,
        remedy=metadata.pop("remediation", None),
        violations=[Violation(v.field, v.description) for v in bad.field_violations],
        retry_after=retry_after,
        metadata=metadata,
    )


def _packed(message: details.ErrorInfo | details.BadRequest | details.RetryInfo) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
