"""The state machines, as data. Every transition is guarded by them in SQL: a row moves only from a listed state.

grants  pending → active → revoked | expired          (a pending one can be revoked or expire too)
peers   pending → active ⇄ suspended → revoked        (any of the three → revoked)
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from mosaic_common.decision import GrantStatus, PeerState


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


# target → the states from which it may be reached
GRANT_SOURCES: Final[Mapping[GrantStatus, frozenset[GrantStatus]]] = {
    GrantStatus.ACTIVE: frozenset({GrantStatus.PENDING}),
    GrantStatus.REVOKED: frozenset({GrantStatus.PENDING, GrantStatus.ACTIVE}),
    GrantStatus.EXPIRED: frozenset({GrantStatus.PENDING, GrantStatus.ACTIVE}),
}

PEER_SOURCES: Final[Mapping[PeerState, frozenset[PeerState]]] = {
    PeerState.ACTIVE: frozenset({PeerState.PENDING, PeerState.SUSPENDED}),
    PeerState.SUSPENDED: frozenset({PeerState.ACTIVE}),
    PeerState.REVOKED: frozenset({PeerState.PENDING, PeerState.ACTIVE, PeerState.SUSPENDED}),
}

# Grants are made for, and tokens redeemed by, a peer that is new or welcome.
ELIGIBLE_PEERS: Final = frozenset({PeerState.PENDING, PeerState.ACTIVE})

# An enrollment never resumes: a suspended peer becomes active again by an operator only.
ENROLLED_FROM: Final = PEER_SOURCES[PeerState.ACTIVE] - {PeerState.SUSPENDED}

__all__ = ["ELIGIBLE_PEERS", "ENROLLED_FROM", "GRANT_SOURCES", "PEER_SOURCES", "Direction", "GrantStatus", "PeerState"]
