"""Answers are counted before they are unpacked."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from mosaic.federation.v1.federation_pb2 import GetCapabilitiesResponse, ListResourcesResponse
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_federation_edge.adapters.wire import parse_bounded


def page(rows: int) -> ListResourcesResponse:
    return ListResourcesResponse(resources=[Resource(id="x" * 300)] * rows, truncated=True, source="work")


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_what_was_asked_for_is_unpacked(rows: int) -> None:
    """As the library would, whatever the lengths are."""
    assert parse_bounded(ListResourcesResponse, page(rows).SerializeToString(), most_fields=rows + 2) == page(rows)


def test_every_kind_of_field_is_counted() -> None:
    """Numbers, texts, messages, and fields of a later release in every wire type that there is."""
    message = GetCapabilitiesResponse(resources=["tasks"], max_rows_per_query=-1, grant_expires_at_us=2**62)
    further = b"\x91\x06" + b"8 bytes." + b"\x95\x06" + b"four" + b"\x9a\x06\x03abc" + b"\x98\x06\x96\x01"
    encoded = message.SerializeToString() + further
    assert parse_bounded(GetCapabilitiesResponse, encoded, most_fields=7).max_rows_per_query == -1
    with pytest.raises(DecodeError, match="more fields"):
        parse_bounded(GetCapabilitiesResponse, encoded, most_fields=6)


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(page(4).SerializeToString(), id="a row too many"),
        pytest.param(b"\x0a\x00" * 2_000_000, id="two million rows of two bytes"),
        pytest.param(b"\x0a", id="a length that is missing"),
        pytest.param(b"\x0a\x05abc", id="less than was announced"),
        pytest.param(b"\x0a" + b"\xff" * 11, id="a number without an end"),
        pytest.param(b"\x0b\x0c", id="a group"),
        pytest.param(b"\x0f", id="a wire type that does not exist"),
        pytest.param(b"\x0a\x02\xff\xff", id="a row that is none"),
    ],
)
def test_anything_else_is_refused(encoded: bytes) -> None:
    """By one kind of error, before it costs anything."""
    with pytest.raises(DecodeError):
        parse_bounded(ListResourcesResponse, encoded, most_fields=5)


@given(st.binary(max_size=200))
def test_whatever_comes_is_counted_or_refused(encoded: bytes) -> None:
    """It ends, and takes nothing that the library would not take."""
    try:
        message = parse_bounded(ListResourcesResponse, encoded, most_fields=500)
    except DecodeError:
        return
    assert message == ListResourcesResponse.FromString(encoded)
