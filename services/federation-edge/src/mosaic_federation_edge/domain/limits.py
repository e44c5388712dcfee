"""How much a peer may ask, at each of the two steps, and a local user.

The first step protects this process, the second the data: a grant that reads five rows at a time reads as much as it likes, but not
at any speed.
"""

from dataclasses import dataclass
from typing import Final

from mosaic_federation_edge.domain.rate_limit import Rate

SEARCH_WEIGHT: Final = 10
"""What a search costs; every other call costs 1."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Step 0 per source address and per certificate, step 5 per grant and per peer (architecture.md, "A federated read").

    Attributes:
        user: queries of one local user, at the other edge.
    """

    source: Rate
    certificate: Rate
    grant: Rate
    peer: Rate
    user: Rate


# Above what one caller reaches who waits for each answer; far below what would keep this process from everybody else.
DEFAULT_LIMITS: Final = Limits(
    source=Rate(per_second=2000, burst=4000),
    certificate=Rate(per_second=1000, burst=2000),
    grant=Rate(per_second=500, burst=1000),
    peer=Rate(per_second=1000, burst=2000),
    user=Rate(per_second=50, burst=200),
)
