"""What the grants service says about a grant, remembered for seconds.

It serves early refusals, reasons and limits and never allows: the database checks the same in the snapshot of the answer.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from mosaic_common.decision import GrantStatus, GrantView

MAX_AGE_SECONDS: Final = 5.0
NEGATIVE_MAX_AGE_SECONDS: Final = 1.0
MAX_GRANTS: Final = 10_000


class GrantResolver(Protocol):
    """The grants service."""

    async def find_grant(self, grant_id: UUID) -> GrantView | None:
        """Return the grant as it stands now.

        Raises:
            Unavailable: nobody answered.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Remembered:
    view: GrantView | None
    asked_at: float

    def is_fresh(self, now: float, max_age_seconds: float) -> bool:
        # Of a pending grant no longer than of none: while grants is away, their ages would tell them apart.
        is_none = self.view is None or self.view.status is GrantStatus.PENDING
        return now - self.asked_at < (NEGATIVE_MAX_AGE_SECONDS if is_none else max_age_seconds)


class GrantViews:
    """A bounded cache in front of the resolver; calls that ask for one grant at the same time ask once."""

    def __init__(self, resolver: GrantResolver, monotonic: Callable[[], float], max_grants: int = MAX_GRANTS) -> None:
        self._resolver: Final = resolver
        self._monotonic: Final = monotonic
        self._max_grants: Final = max_grants
        self._remembered: Final[OrderedDict[UUID, _Remembered]] = OrderedDict()
        self._asking: Final[dict[UUID, asyncio.Task[GrantView | None]]] = {}

    async def find(self, grant_id: UUID, *, max_age_seconds: float = MAX_AGE_SECONDS) -> GrantView | None:
        """Return a view at most so old (an absence or a pending one at most 1 s), or None when there is no such grant.

        Raises:
            Unavailable: there is no such view and the grants service gives none.
        """
        remembered = self._remembered.get(grant_id)
        if remembered is not None and remembered.is_fresh(self._monotonic(), max_age_seconds):
            self._remembered.move_to_end(grant_id)
            return remembered.view
        asking = self._asking.get(grant_id)
        if asking is None:
            # In a context of its own: the call that happens to come first must not lend its deadline to those that wait with it.
            asking = asyncio.create_task(self._ask(grant_id), context=Context())
            self._asking[grant_id] = asking
            asking.add_done_callback(lambda done: self._answered(grant_id, done))
        # Shielded: a caller that hangs up must not take the answer from the others.
        return await asyncio.shield(asking)

    async def _ask(self, grant_id: UUID) -> GrantView | None:
        asked_at = self._monotonic()  # age counts from the question: the answer may describe that moment
        view = await self._resolver.find_grant(grant_id)
        self._remembered[grant_id] = _Remembered(view, asked_at)
        self._remembered.move_to_end(grant_id)
        if len(self._remembered) > self._max_grants:
            self._remembered.popitem(last=False)
        return view

    def _answered(self, grant_id: UUID, done: asyncio.Task[GrantView | None]) -> None:
        del self._asking[grant_id]
        if not done.cancelled():
            done.exception()  # looked at: whoever waited has it, and perhaps nobody waits any more
