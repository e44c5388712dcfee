"""One list out of many sources' pages.

A query asks each source for up to page_size rows and goes on in each source where its page ended, so that nothing is lost and
nothing comes twice, whatever the sources hold. Each answer is newest first; across answers only each source is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, TypeVar

from mosaic_common.errors import Reason

from mosaic_federation_edge.domain.fan_out import SourceAnswer, SourceStatus
from mosaic_federation_edge.domain.query_source import LOCAL

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024 - 64 * 1024
"""Rows of one answer: what fits into a message with the rest of it."""

_TOO_LARGE: Final = "The rows did not fit into this answer; a smaller page holds them."


class MergedRow(Protocol):
    id: str
    source: str
    updated_at_us: int


R = TypeVar("R")
RowT = TypeVar("RowT", bound=MergedRow)


def newest_first(rows: Iterable[RowT]) -> list[RowT]:
    """Newest first, then by id and source, so that the same rows always stand in the same order."""
    return sorted(rows, key=lambda row: (-row.updated_at_us, row.id, row.source))


@dataclass(frozen=True, slots=True)
class Fitted(Generic[R]):
    """The answers with no page too many.

    Attributes:
        left_out: sources whose page comes again with the next one.
    """

    answers: Sequence[SourceAnswer[R]]
    left_out: frozenset[str]


def fit(answers: Sequence[SourceAnswer[R]], *, max_bytes: int = MAX_ANSWER_BYTES) -> Fitted[R]:
    """Leave out whole pages that do not fit into one answer, the largest first: one peer's size is not the others' problem.

    This gateway's own page always fits: no number of peers crowds it out.
    """
    room, left_out = max_bytes, set()
    for answer in sorted((each for each in answers if each.page), key=lambda each: (each.source != LOCAL, _size(each))):
        if _size(answer) > room:
            left_out.add(answer.source)
        else:
            room -= _size(answer)
    fitted = [_without_page(each) if each.source in left_out else each for each in answers]
    return Fitted(fitted, frozenset(left_out))


def positions_after(fitted: Fitted[R], before: Mapping[str, str]) -> dict[str, str]:
    """Where the next page goes on, by source; empty when this was the last.

    A source that failed is asked again from where it stood, as long as another one goes on: alone it could keep a reader turning
    pages for ever. One that refused is not asked again.

    Args:
        before: where this page began, by source; empty text is a source's beginning.
    """
    going_on = {each.source: each.page.next_position for each in fitted.answers if each.page and each.page.next_position}
    going_on |= {source: before[source] for source in fitted.left_out}
    if not going_on:
        return {}
    failed = {each.source for each in fitted.answers if each.page is None and each.status is not SourceStatus.DENIED}
    return {source: before[source] for source in failed if source in before} | going_on


def missing_after(fitted: Fitted[R], after: Mapping[str, str]) -> dict[str, tuple[SourceStatus, Reason | None]]:
    """How each source failed that the next page does not ask, so that it can say what it lacks.

    Args:
        after: where the next page goes on, by source.
    """
    return {each.source: (each.status, each.reason) for each in fitted.answers if each.page is None and each.source not in after}


def clamp_time_us(time_us: int, *, latest_us: int) -> int:
    """A peer's time, never before 1970 and never after ``latest_us``: a row from the future would stand first for ever."""
    return min(max(time_us, 0), latest_us)


def _size(answer: SourceAnswer[R]) -> int:
    return answer.page.size_bytes if answer.page else 0


def _without_page(answer: SourceAnswer[R]) -> SourceAnswer[R]:
    return replace(answer, status=SourceStatus.UNAVAILABLE, message=_TOO_LARGE, page=None)
