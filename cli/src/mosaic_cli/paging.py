"""Lists of any length, page after page: nobody sees the first page and believes that it is all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import grpc

from mosaic_cli.connection import Listener

PAGE_SIZE: Final = 500


class PageRequest(Protocol):
    page_size: int
    page_token: str


class PageAnswer(Protocol):
    @property
    def next_page_token(self) -> str: ...


Q = TypeVar("Q", bound=PageRequest)
A = TypeVar("A", bound=PageAnswer)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a list.

    Attributes:
        more: the list does not end with it.
    """

    items: Sequence[T]
    more: bool


def pages(
    listener: Listener,
    method: "grpc.UnaryUnaryMultiCallable[Q, A]",
    request: Q,
    items_of: Callable[[A], Sequence[T]],
    *,
    limit: int | None,
) -> Iterator[Page[T]]:
    """Ask for the pages of a list until it ends, or has `limit` items; at least one page.

    Raises:
        MosaicError, CommandFailed: at any page.
    """
    left = limit
    while True:
        request.page_size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
        answer = listener.ask(method, request)
        items = items_of(answer)[:left]
        more = bool(answer.next_page_token)
        yield Page(items, more)
        left = None if left is None else left - len(items)
        if not more or left == 0:
            return
        request.page_token = answer.next_page_token
