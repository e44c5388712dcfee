"""Many sources' pages as one answer."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosaic_federation_edge.domain.fan_out import SourceAnswer, SourcePage, SourceStatus
from mosaic_federation_edge.domain.merge import clamp_time_us, fit, missing_after, newest_first, positions_after


@dataclass
class Row:
    id: str
    source: str
    updated_at_us: int


def page(source: str, *rows: Row, size: int = 0, goes_on: str = "") -> SourceAnswer[Row]:
    return SourceAnswer(source, SourceStatus.OK, 1, page=SourcePage(rows, size, goes_on, truncated=False))


def failed(source: str, status: SourceStatus) -> SourceAnswer[Row]:
    return SourceAnswer(source, status, 1, "It failed.")


@given(st.lists(st.builds(Row, st.sampled_from("abc"), st.sampled_from(["local", "federated:x"]), st.integers(0, 3)), max_size=30))
def test_order_is_newest_first_and_stable(rows: list[Row]) -> None:
    """Newest first, then by id, then by source: the same rows stand in the same order, however they arrived."""
    merged = newest_first(rows)
    assert merged == newest_first(reversed(rows))
    for earlier, later in itertools.pairwise(merged):
        assert (-earlier.updated_at_us, earlier.id, earlier.source) <= (-later.updated_at_us, later.id, later.source)


def test_a_page_that_does_not_fit_comes_with_the_next() -> None:
    """The largest page is left out whole and named; the small ones stay; its position is where it was."""
    answers = [page("huge", size=900, goes_on="h2"), page("small", size=100, goes_on="s2"), page("tiny", size=50)]
    fitted = fit(answers, max_bytes=1000)
    assert [(each.source, each.status, each.page is None) for each in fitted.answers] == [
        ("huge", SourceStatus.UNAVAILABLE, True),
        ("small", SourceStatus.OK, False),
        ("tiny", SourceStatus.OK, False),
    ]
    assert positions_after(fitted, {"huge": "h1", "small": "", "tiny": ""}) == {"huge": "h1", "small": "s2"}


@pytest.mark.parametrize("size", [1, 1000], ids=["smaller", "larger"])
def test_our_own_page_always_fits(size: int) -> None:
    """Peers are in the room that it leaves: no number of them, and no size, crowds out what is here."""
    peers = [page(f"federated:{number}", size=500, goes_on="2") for number in range(9)]
    fitted = fit([*peers, page("local", size=size, goes_on="2")], max_bytes=1000)
    assert "local" not in fitted.left_out
    assert len(fitted.left_out) == (8 if size == 1 else 9)


def test_the_last_page_has_no_successor() -> None:
    """When no source goes on there is no next page."""
    assert positions_after(fit([page("local"), page("federated:x")]), {"local": "", "federated:x": "p"}) == {}


@pytest.mark.parametrize(
    ("status", "asked_again"),
    [
        pytest.param(SourceStatus.TIMEOUT, True, id="too late"),
        pytest.param(SourceStatus.UNAVAILABLE, True, id="not reached"),
        pytest.param(SourceStatus.RATE_LIMITED, True, id="asked too often"),
        pytest.param(SourceStatus.DENIED, False, id="refused: asking again would not help"),
    ],
)
def test_a_source_that_failed_is_asked_again_where_it_stood(status: SourceStatus, asked_again: bool) -> None:
    """A page that failed is not skipped, as long as another source goes on; alone a failing source ends the query."""
    before = {"local": "", "federated:x": "page 3"}
    going_on = positions_after(fit([page("local", goes_on="page 2"), failed("federated:x", status)]), before)
    assert going_on == {"local": "page 2"} | ({"federated:x": "page 3"} if asked_again else {})
    fitted = fit([page("local", goes_on="page 2"), failed("federated:x", status)])
    assert missing_after(fitted, going_on) == ({} if asked_again else {"federated:x": (status, None)})
    assert positions_after(fit([page("local"), failed("federated:x", status)]), before) == {}


def test_what_never_had_a_position_gets_none() -> None:
    """Connections that could not even be named are not carried along."""
    fitted = fit([page("local", goes_on="page 2"), failed("federated:*", SourceStatus.UNAVAILABLE)])
    assert positions_after(fitted, {"local": ""}) == {"local": "page 2"}


@given(
    sources=st.dictionaries(st.sampled_from(["local", "federated:x", "federated:y"]), st.integers(0, 40), min_size=1),
    page_size=st.integers(1, 9),
    room=st.integers(9, 30),
)
def test_pages_together_are_every_row_once(sources: dict[str, int], page_size: int, room: int) -> None:
    """Whatever each source holds and however little fits: no row twice, none lost, and it ends."""
    seen: list[tuple[str, int]] = []
    positions = dict.fromkeys(sources, "")
    turns = 0
    while positions:
        answers = []
        for source, position in positions.items():
            begin = int(position or 0)
            end = min(begin + page_size, sources[source])
            rows = [Row(str(number), source, number) for number in range(begin, end)]
            answers.append(page(source, *rows, size=len(rows), goes_on=str(end) if end < sources[source] else ""))
        fitted = fit(answers, max_bytes=room)
        seen += [(row.source, int(row.id)) for each in fitted.answers if each.page for row in each.page.rows]
        positions = positions_after(fitted, positions)
        turns += 1
        assert turns < 200
    assert sorted(seen) == sorted((source, number) for source, rows in sources.items() for number in range(rows))


@pytest.mark.parametrize(
    ("time_us", "clamped"),
    [
        pytest.param(500, 500, id="a time that may be"),
        pytest.param(10**18, 1000, id="from the future"),
        pytest.param(-(2**63), 0, id="from before time"),
    ],
)
def test_times_of_peers_are_clamped(time_us: int, clamped: int) -> None:
    """No peer can put its rows in front of everybody else's for ever."""
    assert clamp_time_us(time_us, latest_us=1000) == clamped
