"""Deadlines that are cheap to set and to move, because nearly every call ends before its own.

asyncio.timeout makes a timer of the loop for each, and another one whenever it is moved: two of them in each call took a
twentieth of a read. Here one timer looks at all of them fifty times a second, while there are any.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

LOOK_SECONDS: Final = 0.02
"""A deadline is met at most so late."""


class Deadlines:
    """The running deadlines of one event loop."""

    def __init__(self) -> None:
        self._running: Final[dict[Deadline, None]] = {}
        self._look: asyncio.TimerHandle | None = None

    def at(self, when: float) -> "Deadline":
        """A block that ends with TimeoutError at this event-loop time, as one of asyncio.timeout_at does."""
        return Deadline(when, self)

    def begin(self, deadline: "Deadline") -> None:
        self._running[deadline] = None
        loop = asyncio.get_running_loop()
        if deadline.when <= loop.time():
            loop.call_soon(self._meet)
        if self._look is None:
            self._look = loop.call_later(LOOK_SECONDS, self._look_again)

    def end(self, deadline: "Deadline") -> None:
        del self._running[deadline]

    def _look_again(self) -> None:
        self._look = None
        self._meet()
        if self._running:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)

    def _meet(self) -> None:
        now = asyncio.get_running_loop().time()
        for deadline in [each for each in self._running if each.when <= now]:
            del self._running[deadline]
            deadline.expire()


class Deadline:
    """Cancels the task that entered it when its time has come.

    Attributes:
        when: event-loop time.
    """

    __slots__ = ("_among", "_cancelling", "_expired", "_task", "when")

    def __init__(self, when: float, among: Deadlines) -> None:
        self.when = when
        self._among = among
        self._expired = False

    def move(self, when: float) -> None:
        """Let it end at another moment.

        Raises:
            TimeoutError: it has ended, and whatever ran in it kept the cancellation for itself.
        """
        if self._expired:
            raise TimeoutError
        self.when = when

    def expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "a deadline belongs to a task"
        self._task: asyncio.Task[object] = task
        self._cancelling = task.cancelling()
        self._among.begin(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None) -> None:
        if not self._expired:
            self._among.end(self)
        # Only our own cancellation becomes a timeout: whoever else cancels the task meanwhile means it (as with asyncio.timeout).
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
