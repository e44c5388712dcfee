"""Step 5 of a federated read: what a call costs its grant and its peer."""

from typing import Final

from mosaic_common.decision import GrantView

from mosaic_federation_edge.domain.charges import Charge
from mosaic_federation_edge.domain.leases import LeasedCounters
from mosaic_federation_edge.domain.rate_limit import Rate


class GrantLimits:
    """Charges a grant by its own limit where it has one, and its peer.

    Args:
        grant: of a grant that has none of its own.
        peer: of all grants of one peer together.
    """

    def __init__(self, counters: LeasedCounters, *, grant: Rate, peer: Rate) -> None:
        self._counters: Final = counters
        self._grant: Final = grant
        self._peer: Final = peer

    async def spend(self, grant: GrantView, weight: int) -> None:
        """Take what a call of this weight costs. Only for a grant that was found: each has its keys.

        Raises:
            RateLimited: layer RATE; whoever waits as long as it says is not refused again.
        """
        own = grant.limit
        rate = Rate(own.per_second, own.burst) if own is not None else self._grant
        await self._counters.spend(Charge(grant.grant_id, grant.peer_id, rate, self._peer, weight))
