"""Refused handshakes, counted: the library refuses them before any code of ours runs.

Handshakes begun minus connections that made a call is an upper bound: it holds those that were refused and those that connected and
never asked anything.
"""

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

from mosaic_common.log import logger

MAX_CONNECTIONS: Final = 65_536
LOG_SECONDS: Final = 2.0


class HandshakeCounter(Protocol):
    """The listener's count."""

    handshakes_begun: int


class Handshakes:
    """Counts connections that made a call; remembers a bounded number of them, by address and port."""

    def __init__(self, max_connections: int = MAX_CONNECTIONS) -> None:
        self.connections_with_a_call = 0
        self._max_connections: Final = max_connections
        self._seen: Final[OrderedDict[str, None]] = OrderedDict()
        self._log: Final = logger("handshakes")

    def made_a_call(self, connection: str) -> None:
        if connection in self._seen:
            self._seen.move_to_end(connection)
            return
        self.connections_with_a_call += 1
        self._seen[connection] = None
        if len(self._seen) > self._max_connections:
            self._seen.popitem(last=False)

    async def watch(self, listener: HandshakeCounter) -> None:
        """Log both counts whenever one has changed, for ever."""
        logged = (0, 0)
        while True:
            await asyncio.sleep(LOG_SECONDS)
            counts = (listener.handshakes_begun, self.connections_with_a_call)
            if counts != logged:
                begun, with_a_call = logged = counts
                self._log.info("handshakes", begun=begun, with_a_call=with_a_call, refused_at_most=max(0, begun - with_a_call))
