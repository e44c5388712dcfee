"""Where a page ends: the page size, the cap over all pages, and the size of the answer, whichever comes first."""

from dataclasses import dataclass
from typing import Final

MAX_PAGE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cut:
    """The page within the rows that were read.

    Attributes:
        rows: how many of them make the page, from the first.
        has_next: another page follows.
        truncated: the cap ends the query here although a row was left.
    """

    rows: int
    has_next: bool
    truncated: bool


def cut_page(*, found: int, page_size: int, budget: int, fitting: int) -> Cut:
    """Return the page.

    Args:
        found: rows that the database has: up to one more than the page, which says that there is more.
        budget: rows that the cap leaves to this query, this page included.
        fitting: how many rows, from the first, the database gave and make at most MAX_PAGE_BYTES; at least one when there is any.
    """
    due = min(found, page_size, budget)
    rows = min(due, fitting)
    if rows < due:
        return Cut(rows, has_next=True, truncated=False)
    is_more = found > rows
    is_capped = rows == budget
    return Cut(rows, has_next=is_more and not is_capped, truncated=is_more and is_capped)
