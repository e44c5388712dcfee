"""Which tokens are no invention.

A stranger makes up as many tokens as he likes; the budget that he spends by that must not be one that somebody with a token needs.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from datetime import timedelta
from typing import Final, Protocol

from mosaic_common.errors import MosaicError
from mosaic_common.tokens import token_id

# However many tokens are made up, grants is asked once in so long; a token made meanwhile becomes known at most so much later.
LOOK_SECONDS: Final = 1.0


class TokenLedger(Protocol):
    async def list_known_tokens(self) -> frozenset[bytes]:
        """Return the ids of all tokens that grants made and still answers precisely.

        Raises:
            MosaicError: nobody answered.
        """
        ...


class KnownTokens:
    """What grants last said, asked again when a token is not among it."""

    def __init__(self, ledger: TokenLedger, monotonic: Callable[[], float]) -> None:
        self._ledger: Final = ledger
        self._monotonic: Final = monotonic
        self._ids: frozenset[bytes] = frozenset()
        self._next_look_at = monotonic()
        self._looking: asyncio.Task[None] | None = None

    async def find(self, unverified_public_key: bytes) -> bytes | None:
        """Return the id of a token that grants knows, or None."""
        unverified_id = token_id(unverified_public_key)
        if unverified_id not in self._ids:
            await self._look()
        return unverified_id if unverified_id in self._ids else None

    @property
    def next_look(self) -> timedelta:
        """How long it takes until an unknown token is looked for again."""
        return timedelta(seconds=max(0.0, self._next_look_at - self._monotonic()))

    async def _look(self) -> None:
        if self._looking is None:
            if self._monotonic() < self._next_look_at:
                return
            self._next_look_at = self._monotonic() + LOOK_SECONDS
            # In a context of its own: the call that happens to come first must not lend its deadline to those that wait with it.
            self._looking = asyncio.create_task(self._ask(), context=Context())
            self._looking.add_done_callback(self._looked)
        # Shielded: a caller that hangs up must not take the answer from the others.
        await asyncio.shield(self._looking)

    async def _ask(self) -> None:
        try:
            self._ids = await self._ledger.list_known_tokens()
        except MosaicError:
            return  # what was known stays known; health and the claim that follows say that grants does not answer

    def _looked(self, done: asyncio.Task[None]) -> None:
        self._looking = None
        if not done.cancelled():
            done.exception()  # looked at: whoever waited has it, and perhaps nobody waits any more
