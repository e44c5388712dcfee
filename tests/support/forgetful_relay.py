"""A firewall that forgets: connections through it stay open and carry nothing any more, and nobody is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class _Relayed:
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    forgotten: bool = False


@dataclass(slots=True)
class ForgetfulRelay:
    """A TCP relay in front of one address.

    Attributes:
        accepted: how many connections there were.
    """

    address: str
    accepted: int = 0
    _relayed: list[_Relayed] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def before(cls, address: str) -> AsyncIterator[Self]:
        host, _, port = address.rpartition(":")
        relay = cls("")

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, onward = await asyncio.open_connection(host, int(port))
            relay.accepted += 1
            relayed = _Relayed((writer, onward))
            relay._relayed.append(relayed)
            await asyncio.gather(_carry(relayed, reader, onward), _carry(relayed, there, writer))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        relay.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield relay
        finally:
            server.close()
            for relayed in relay._relayed:
                for writer in relayed.writers:
                    writer.transport.abort()

    @property
    def open(self) -> int:
        """How many connections are there that neither end has closed."""
        return sum(not any(writer.is_closing() for writer in relayed.writers) for relayed in self._relayed)

    def forget(self) -> None:
        """From now on nothing passes through what is open; what is opened afterwards is carried."""
        for relayed in self._relayed:
            relayed.forgotten = True


async def _carry(relayed: _Relayed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65_536):
            if not relayed.forgotten:
                writer.write(chunk)
                await writer.drain()
        if not relayed.forgotten:
            writer.close()
