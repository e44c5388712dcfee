"""Errors to a status and back."""

import grpc
import pytest
from mosaic_common.errors import CLASSES, STATUS, MosaicError, Reason, ScopeRefused, Unavailable, Violation
from mosaic_common.rpc.status import DETAILS_KEY, MAX_VIOLATIONS, from_rpc_error, to_status


def answered(error: MosaicError) -> MosaicError:
    """What another service makes of this error's answer."""
    details = to_status(error, request_id="the other's", outside=False).SerializeToString()
    trailing = grpc.aio.Metadata((DETAILS_KEY, details))
    rpc_error = grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), trailing)
    return from_rpc_error(rpc_error, dependency="grants")


def test_every_reason_but_our_own_faults_has_a_class() -> None:
    """Whoever catches Unavailable catches it wherever it was raised."""
    assert Reason.__members__.keys() - {reason.name for reason in CLASSES} == {"APPROVAL_REQUIRED", "SUBJECT_NOT_ELIGIBLE"} | {
        "PEER_NOT_ELIGIBLE",
        "GRANT_PEER_MISMATCH",
        "ANSWER_TOO_LARGE",
        "CALL_CANCELLED",
        "SEALING_KEY_NOT_READABLE",
        "INTERNAL",
    }
    assert STATUS.keys() == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_is_the_same_class_on_the_other_side(reason: Reason) -> None:
    """Reason, sentence, remedy and class survive the way from one service to the next."""
    raised = CLASSES.get(reason, MosaicError)(reason, "A sentence.", remedy="A remedy.")
    received = answered(raised)
    assert type(received) is type(raised)
    assert (received.reason, received.message, received.remedy) == (reason, "A sentence.", "A remedy.")


@pytest.mark.parametrize("details", [b"", b"\xff\xff", b"\x0a\x05nope"], ids=["empty", "no message", "another message"])
def test_what_our_code_did_not_write_means_that_the_dependency_is_down(details: bytes) -> None:
    """Hostile bytes in a trailer are no error of ours and raise nothing."""
    trailing = grpc.aio.Metadata((DETAILS_KEY, details))
    received = from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing), dependency="grants")
    assert isinstance(received, Unavailable)
    assert received.metadata == {"dependency": "grants"}


@pytest.mark.parametrize("reason", [Reason.DEPENDENCY_UNAVAILABLE, Reason.CA_REFUSED, Reason.CA_LIED, Reason.WARRANT_INVALID])
def test_what_is_wrong_inside_is_not_told_outside(reason: Reason) -> None:
    """A stranger hears that it failed, and a request id."""
    error = MosaicError(reason, "PostgreSQL at 10.0.0.7", remedy="ca.json", metadata={"dependency": "postgres"})
    told = str(to_status(error, request_id="1", outside=True))
    assert not any(inside in told for inside in ("10.0.0.7", "ca.json", "postgres"))


def test_violations_fit_into_a_trailer() -> None:
    """A document with a thousand mistakes is answered with those that fit, and how many there are beside."""
    error = ScopeRefused(Reason.SCOPE_INVALID, "Bad.", violations=[Violation(f"/{n}", "wrong") for n in range(1000)])
    received = answered(error)
    assert len(received.violations) == MAX_VIOLATIONS + 1
    assert received.violations[-1].description == f"and {1000 - MAX_VIOLATIONS} more"
