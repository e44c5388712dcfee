"""Which budgets a redemption spends before grants hears of it."""

from dataclasses import dataclass
from typing import Final

from mosaic_common.source_address import source_key

from mosaic_enrollment.domain.budgets import Charge, Counters, Limit
from mosaic_enrollment.domain.known_tokens import KnownTokens

# The same whether the token is known or not, like every other answer to somebody who has not proved to hold it.
_TOO_MANY: Final = "Too many enrollment attempts; try again later."
_TOO_MANY_FROM_HERE: Final = "Too many enrollment attempts from this address; try again later."


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be tried.

    Attributes:
        source: of one address; None behind a proxy, where all calls come from one.
        token: of one token that grants knows.
        unknown: of all other tokens together.
    """

    source: Limit | None
    token: Limit
    unknown: Limit


class Admission:
    """Decides whether a redemption is tried. Tokens that nobody made never become a key."""

    def __init__(self, limits: Limits, known: KnownTokens, counters: Counters) -> None:
        self._limits: Final = limits
        self._known: Final = known
        self._counters: Final = counters

    async def find_token(self, unverified_public_key: bytes) -> bytes | None:
        """Return the id of a token that grants knows, or None."""
        return await self._known.find(unverified_public_key)

    async def spend(self, source_address: str, token_id: bytes | None) -> None:
        """Take one attempt from the source and from the token, or from what all unknown tokens share.

        Raises:
            RateLimited: nothing was taken.
        """
        charges = [self._token(token_id)]
        if self._limits.source is not None:
            charges.append(Charge(f"source:{source_key(source_address)}", self._limits.source, _TOO_MANY_FROM_HERE))
        await self._counters.spend(charges)

    def _token(self, token_id: bytes | None) -> Charge:
        if token_id is not None:
            return Charge(f"token:{token_id.hex()}", self._limits.token, _TOO_MANY)
        # A token made a moment ago may be among the unknown ones: whoever holds it is told to come when it has been looked for.
        return Charge("unknown", self._limits.unknown, _TOO_MANY, not_before=self._known.next_look)
