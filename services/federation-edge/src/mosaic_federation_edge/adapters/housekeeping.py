"""What has to be forgotten even when nobody calls."""

import asyncio
from typing import Final

from mosaic_federation_edge.adapters.grants_connections import GrantsConnections
from mosaic_federation_edge.adapters.peer_channels import PeerChannels

SWEEP_SECONDS: Final = 5.0


async def forget_keys(connections: GrantsConnections, channels: PeerChannels) -> None:
    """Drop peer keys of users who have stopped asking, for ever."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        connections.sweep()
        channels.sweep()
