"""Durations as typed, moments as read."""

from datetime import UTC, datetime, timedelta

import pytest
from mosaic_cli.times import absolute, brief, iso, moment, parse_duration, relative

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("30m", timedelta(minutes=30)),
        ("900s", timedelta(seconds=900)),
        ("900", timedelta(seconds=900)),
        ("1d12h", timedelta(days=1, hours=12)),
    ],
)
def test_reads_durations_as_people_write_them(text: str, duration: timedelta) -> None:
    """Days, hours, minutes, seconds, their sums, and plain seconds."""
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "0", "0d", "-1h", "1.5h", "12h1d", "1w", "h", "١٢h", "1 d", "9999999d", "1d\n"])
def test_refuses_what_could_be_read_in_two_ways(text: str) -> None:
    """A wrong duration would be a grant with a wrong end, so nothing is guessed."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("delta", "sentence", "column"),
    [
        (timedelta(), "now", "now"),
        (timedelta(hours=-3, minutes=-20), "3 hours ago", "3 h ago"),
        (timedelta(minutes=-1), "1 minute ago", "1 min ago"),
        (timedelta(days=29, hours=23), "in 29 days", "in 29 d"),
        (timedelta(days=-400), "1 year ago", "1 y ago"),
    ],
)
def test_tells_how_far_away_a_moment_is(delta: timedelta, sentence: str, column: str) -> None:
    """The largest whole unit, never rounded up: what ends `in 1 day` has a day left."""
    assert relative(NOW + delta, NOW) == sentence
    assert brief(NOW + delta, NOW) == column


def test_absolute_moments_are_in_utc_and_machine_readable_ones_exact() -> None:
    """People get the minute in UTC, programs RFC 3339 with every microsecond."""
    when = moment(int(NOW.timestamp() * 1_000_000) + 1)
    assert absolute(when, NOW) == "2026-03-02 09:30 UTC (now)"
    assert iso(when) == "2026-03-02T09:30:00.000001Z"


def test_a_time_that_no_calendar_holds_stops_nothing() -> None:
    """A peer chooses its rows' times; the worst of them is the last day there is."""
    assert moment(2**63 - 1).year == 9999
    assert moment(-(2**63)).year == 1
