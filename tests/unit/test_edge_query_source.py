"""The field source of a query."""

import pytest
from mosaic_common.errors import InvalidInput, NotFound, Reason
from mosaic_federation_edge.domain.query_source import Chosen, parse_source


@pytest.mark.parametrize(
    ("source", "chosen"),
    [
        pytest.param("local", Chosen("local", local=True), id="this gateway"),
        pytest.param("all", Chosen("all", local=True, all_connections=True), id="everywhere"),
        pytest.param("federated:work", Chosen("federated:work", connection="work"), id="one connection"),
    ],
)
def test_reads_the_three_forms(source: str, chosen: Chosen) -> None:
    """local, all, and one connection by name."""
    assert parse_source(source) == chosen


@pytest.mark.parametrize("source", ["", "Local", "ALL", "federated", "work", " local", "federated;work"])
def test_refuses_other_forms(source: str) -> None:
    """Anything else is the caller's mistake, and the field is named."""
    with pytest.raises(InvalidInput) as refused:
        parse_source(source)
    assert refused.value.reason is Reason.REQUEST_INVALID
    assert [violation.field for violation in refused.value.violations] == ["source"]
    assert "mosaic federation peer list" in (refused.value.remedy or "")


@pytest.mark.parametrize("name", ["", "Work", "-a", "a-", "a" * 64, "a.b", "*", "../a", "a\n"])
def test_a_name_that_none_can_have_is_not_there(name: str) -> None:
    """It answers like a foreign connection."""
    with pytest.raises(NotFound) as refused:
        parse_source(f"federated:{name}")
    assert refused.value.reason is Reason.PEER_NOT_FOUND
