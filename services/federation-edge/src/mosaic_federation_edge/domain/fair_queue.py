"""A bounded queue in which nobody's backlog stands in another's way."""

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """One line per key, served in turn.

    When it is full, the newest of the longest line gives way: whoever floods it loses his own, and a quiet key always gets in.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity: Final = capacity
        self._lines: Final[dict[Hashable, deque[T]]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[T]:
        """Everything that waits, in no order that matters."""
        for line in self._lines.values():
            yield from line

    def put(self, key: Hashable, item: T) -> T | None:
        """Add an item; return the one that gave way, which may be this one, or None."""
        given_way: T | None = None
        if self._waiting >= self._capacity:
            longest = max(self._lines, key=lambda each: len(self._lines[each]))
            if len(self._lines.get(key, ())) >= len(self._lines[longest]):
                return item
            given_way = self._lines[longest].pop()
            self._dropped(longest)
        self._lines.setdefault(key, deque()).append(item)
        self._waiting += 1
        return given_way

    def take(self, most: int) -> list[T]:
        """Remove up to ``most`` items, one of each line in turn, oldest first within a line."""
        taken: list[T] = []
        while self._lines and len(taken) < most:
            for key in list(self._lines):
                if len(taken) == most:
                    # Who was passed over stands first the next time.
                    break
                taken.append(self._lines[key].popleft())
                line = self._lines.pop(key)
                if line:
                    self._lines[key] = line
                self._waiting -= 1
        return taken

    def _dropped(self, key: Hashable) -> None:
        self._waiting -= 1
        if not self._lines[key]:
            del self._lines[key]
