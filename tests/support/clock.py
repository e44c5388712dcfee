"""A clock that a test moves by hand."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Stands at ``moment`` until it is moved."""

    def __init__(self, moment: datetime = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)) -> None:
        self._moment = moment

    def now(self) -> datetime:
        return self._moment

    def advance(self, by: timedelta) -> None:
        self._moment += by
