"""Time as a dependency, so that a test can stand at any second of a certificate's life."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time; never measures a duration (the wall clock may jump)."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)
