"""Every chosen source at once, each with the same share of the time; what does not come in time is named, not waited for."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

from mosaic_common.errors import Code, MosaicError, Reason

R = TypeVar("R")

MAX_SOURCE_SECONDS: Final = 5.0
# The rest of the deadline is for the merge, the audit commit and the way back.
_SOURCES_SHARE: Final = 0.8


class SourceStatus(StrEnum):
    OK = "ok"
    DENIED = "denied"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate_limited"


class SourceFailed(Exception):
    """A source gave no page.

    Attributes:
        reason: the peer's, if it gave one that exists.
        grant_status: the peer's word for the end of the grant, unverified.
        refuses_us: the peer refuses whoever asks, or does not know what we believe it to have; not one badly formed question.
    """

    def __init__(
        self, status: SourceStatus, message: str, reason: Reason | None = None, grant_status: str = "", *, refuses_us: bool = False
    ) -> None:
        super().__init__(message)
        self.status: Final = status
        self.message: Final = message
        self.reason: Final = reason
        self.grant_status: Final = grant_status
        self.refuses_us: Final = refuses_us


@dataclass(frozen=True, slots=True)
class SourcePage(Generic[R]):
    """What a source gave.

    Attributes:
        size_bytes: of all rows, serialized.
        next_position: where the source goes on; empty on its last page.
        truncated: the source has more that it does not give.
        reason: why there are no rows, where that is an answer and no failure.
        audit_head: what the source says of its own record of this grant; for the grants service, opaque here.
    """

    rows: Sequence[R]
    size_bytes: int
    next_position: str
    truncated: bool
    reason: Reason | None = None
    audit_head: bytes = b""


@dataclass(frozen=True, slots=True)
class SourceAnswer(Generic[R]):
    """How asking one source ended.

    Attributes:
        message: one sentence of ours; empty when there is nothing to say.
        page: None unless the status is OK.
    """

    source: str
    status: SourceStatus
    latency_us: int
    message: str = ""
    reason: Reason | None = None
    page: SourcePage[R] | None = None


Ask = Callable[[float], Awaitable[SourcePage[R]]]
"""Asks one source, with so many seconds to answer. Raises SourceFailed, or a MosaicError of ours."""


def source_seconds(remaining_seconds: float) -> float:
    """How long each source may take, so that the slowest leaves time to answer with the others."""
    return min(MAX_SOURCE_SECONDS, remaining_seconds * _SOURCES_SHARE)


async def ask_all(asks: Mapping[str, Ask[R]], *, remaining_seconds: float) -> list[SourceAnswer[R]]:
    """Ask every source in parallel; the answers come in the order of ``asks``."""
    seconds = source_seconds(remaining_seconds)
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(_ask(source, ask, seconds)) for source, ask in asks.items()]
    return [each.result() for each in asking]


async def _ask(source: str, ask: Ask[R], seconds: float) -> SourceAnswer[R]:
    begun = time.monotonic_ns()

    def latency_us() -> int:
        return (time.monotonic_ns() - begun) // 1000

    try:
        async with asyncio.timeout(seconds):
            page = await ask(seconds)
    except TimeoutError:
        return SourceAnswer(source, SourceStatus.TIMEOUT, latency_us(), "The source did not answer in time.")
    except SourceFailed as failed:
        return SourceAnswer(source, failed.status, latency_us(), failed.message, failed.reason)
    except MosaicError as refused:
        return SourceAnswer(source, _status_of(refused), latency_us(), refused.message, refused.reason)
    return SourceAnswer(source, SourceStatus.OK, latency_us(), reason=page.reason, page=page)


def _status_of(error: MosaicError) -> SourceStatus:
    match error.status.code:
        case Code.UNAVAILABLE | Code.INTERNAL | Code.DATA_LOSS:
            return SourceStatus.UNAVAILABLE
        case Code.DEADLINE_EXCEEDED:
            return SourceStatus.TIMEOUT
        case Code.RESOURCE_EXHAUSTED:
            return SourceStatus.RATE_LIMITED
        case _:
            return SourceStatus.DENIED
