"""The audit row of a call says what left."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from mosaic_common.audit import Event, Outcome
from mosaic_common.errors import Layer, MosaicError, NotFound, Reason
from mosaic_common.rpc.audit import audit_row
from mosaic_common.rpc.call import Call, Facts
from mosaic_federation_edge.methods import INBOUND

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)


def call() -> Call:
    [method] = [each for each in INBOUND if each.name == "GetResource"]
    return Call(method, uuid4(), "", "192.0.2.1", "192.0.2.1:5000", 0.0, 0, facts=Facts(result_count=3))


def test_an_answer_that_left_counts_its_rows() -> None:
    """As its handler found them."""
    row = audit_row(call(), Event.READ, NOW, bytes_out=7)
    assert (row.outcome, row.result_count, row.bytes_out) == (Outcome.ALLOWED, 3, 7)


@pytest.mark.parametrize("reason", [Reason.ANSWER_TOO_LARGE, Reason.DEPENDENCY_UNAVAILABLE, Reason.INTERNAL])
def test_an_answer_that_was_withheld_gave_no_row(reason: Reason) -> None:
    """Whatever its handler had found by then."""
    row = audit_row(call(), Event.READ, NOW, error=MosaicError(reason, "No.", layer=Layer.ROW))
    assert (row.result_count, row.denied_reason) == (0, reason)


def test_the_record_says_more_than_the_answer_where_the_answer_must_say_less() -> None:
    """A peer hears that there is no such row; which of the reasons it was stands here."""
    refused = NotFound(Reason.RESOURCE_NOT_FOUND, "No.", layer=Layer.SCOPE, recorded_reason=Reason.ROW_OUT_OF_SCOPE)
    row = audit_row(call(), Event.READ, NOW, error=refused)
    assert (row.denied_layer, row.denied_reason, row.status_code) == (Layer.SCOPE, Reason.ROW_OUT_OF_SCOPE, 5)
