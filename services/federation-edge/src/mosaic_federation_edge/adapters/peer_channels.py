"""One channel per connection: under the pinned root, to the one name that only the peer's inbound edge bears."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc
from mosaic_common.identity import EDGE_INBOUND, dns_name
from mosaic_common.rpc.client import ClientTls, channel

from mosaic_federation_edge.domain.connections import Connection

MAX_CHANNELS: Final = 256
# A channel holds the connection's key: not longer than its user keeps asking.
IDLE_SECONDS: Final = 60.0
_CLOSE_GRACE_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Open:
    channel: grpc.aio.Channel
    used_at: float


class PeerChannels:
    """Open channels, bounded, least recently used out first."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic: Final = monotonic
        self._open: Final[OrderedDict[bytes, _Open]] = OrderedDict()
        self._closing: Final[set[asyncio.Task[None]]] = set()

    def get(self, connection: Connection) -> grpc.aio.Channel:
        """Return the channel for exactly these keys: gRPC cannot change a channel's certificate."""
        name = _name(connection)
        opened = self._open.get(name)
        if opened is None:
            tls = ClientTls(root=connection.trust_bundle_pem, certificate=connection.chain_pem, key=connection.key_pem)
            target_name = dns_name(EDGE_INBOUND, connection.remote_gateway)
            opened = self._open[name] = _Open(channel(connection.endpoint, target_name=target_name, tls=tls), 0.0)
            if len(self._open) > MAX_CHANNELS:
                self._close(next(iter(self._open)))
        self._open.move_to_end(name)
        opened.used_at = self._monotonic()
        return opened.channel

    def drop(self, connection: Connection) -> None:
        """Close a connection's channel, once its running calls have ended."""
        name = _name(connection)
        if name in self._open:
            self._close(name)

    def sweep(self) -> None:
        """Close what was not used lately."""
        now = self._monotonic()
        for name in [each for each, opened in self._open.items() if now - opened.used_at > IDLE_SECONDS]:
            self._close(name)

    async def close(self) -> None:
        for name in list(self._open):
            self._close(name)
        await asyncio.gather(*self._closing)

    def _close(self, name: bytes) -> None:
        closing = asyncio.create_task(self._open.pop(name).channel.close(_CLOSE_GRACE_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _name(connection: Connection) -> bytes:
    parts = (
        connection.peer_id.bytes,
        connection.endpoint.encode(),
        connection.remote_gateway.encode(),
        connection.key_pem,
        connection.chain_pem,
        connection.trust_bundle_pem,
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()
