"""Durations as people type them, moments as people read them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION: Final = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})s)?")
_STEPS: Final = (
    (timedelta(days=365), "year"),
    (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
    (timedelta(seconds=1), "second"),
)

_BRIEF: Final = {"year": "y", "day": "d", "hour": "h", "minute": "min", "second": "s"}


def parse_duration(text: str) -> timedelta:
    """Read 90d, 12h, 30m, 900s, their sums such as 1d12h, or plain seconds.

    Raises:
        ValueError: anything else, and zero.
    """
    found = _DURATION.fullmatch(f"{text}s" if text.isascii() and text.isdigit() else text)
    parts = [int(part or 0) for part in found.groups()] if found else [0]
    if not any(parts):
        raise ValueError(f"{text!r} is not a duration; write 90d, 12h, 30m, 900s or a sum such as 1d12h.")
    days, hours, minutes, seconds = parts
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def parse_moment(text: str, now: datetime) -> datetime:
    """Read a moment of RFC 3339 with its zone, or how long ago it was, as parse_duration reads it.

    Raises:
        ValueError: anything else.
    """
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return now - parse_duration(text)
    if read.tzinfo is None:
        raise ValueError(f"{text!r} says no zone; write 2026-11-23T10:00Z, or how long ago: 2h.")
    return read


def utc_now() -> datetime:
    return datetime.now(UTC)


def moment(microseconds: int) -> datetime:
    """The moment that many microseconds after the epoch; what no calendar holds becomes its first or last day."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if microseconds > 0 else datetime.min.replace(tzinfo=UTC)


def iso(when: datetime) -> str:
    """RFC 3339 in UTC."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def length(duration: timedelta) -> str:
    """The largest whole unit of a duration: `3 hours`."""
    for unit, name in _STEPS:
        if (count := duration // unit) >= 1:
            return f"{count} {name}{'' if count == 1 else 's'}"
    return "0 seconds"


def relative(when: datetime, now: datetime) -> str:
    """`3 hours ago`, `in 29 days`, `now`: for sentences."""
    if abs(when - now) < timedelta(seconds=1):
        return "now"
    return f"in {length(when - now)}" if when > now else f"{length(now - when)} ago"


def brief(when: datetime, now: datetime) -> str:
    """`3 h ago`, `in 29 d`, `now`: for columns."""
    words = relative(when, now).split()
    return " ".join(_BRIEF.get(word.rstrip("s"), word) for word in words)


def absolute(when: datetime, now: datetime) -> str:
    """`2026-12-22 21:53 UTC (in 29 days)`."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({relative(when, now)})"
