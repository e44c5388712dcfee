"""TCP relays: a test stands between two parties, and sees, delays or swallows what they say.

async with Relay(*split_address(peer.address)) as relay:
    …  # whoever dials relay.address reaches the peer
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import urlsplit, urlunsplit

Carry: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()


class Relay:
    """Carries every connection to one address; when the block has ended nothing of it is left.

    Args:
        there: carries what the client says; when it ends, or back does, the connection is closed on both sides.
        back: carries what the server says.
        source: local address from which the server is dialled.

    Attributes:
        accepted: how many connections there were.
        is_away: nobody is let in.
    """

    def __init__(self, host: str, port: int, *, there: Carry = pass_on, back: Carry = pass_on, source: str | None = None) -> None:
        self.accepted = 0
        self.is_away = False
        self._upstream = (host, port)
        self._carries = (there, back)
        self._local = (source, 0) if source else None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._relaying: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def open(self) -> int:
        """How many connections are there that neither end has closed."""
        return len(self._relaying)

    # Not start_server: what asyncio has accepted and not yet announced when a server is closed is never closed itself.
    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        await self.hang_up()

    async def hang_up(self) -> None:
        """Break every connection that is open."""
        for task in self._relaying:
            task.cancel()
        await asyncio.gather(*self._relaying, return_exceptions=True)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.is_away:
            client.close()
            return
        self.accepted += 1
        task = asyncio.create_task(self._relay(client))
        self._relaying.add(task)
        task.add_done_callback(self._relaying.discard)
        task.add_done_callback(lambda _: client.close())  # if it was cancelled before it began

    async def _relay(self, client: socket.socket) -> None:
        writers: list[asyncio.StreamWriter] = []
        carrying: list[asyncio.Future[None]] = []
        there, back = self._carries
        try:
            reader, answer = await asyncio.open_connection(sock=client)
            writers.append(answer)
            answers, onward = await asyncio.open_connection(*self._upstream, local_addr=self._local)
            writers.append(onward)
            carrying += (asyncio.ensure_future(there(reader, onward)), asyncio.ensure_future(back(answers, answer)))
            await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
            for writer in writers:
                writer.close()
                await writer.wait_closed()  # what has been written is still sent
        except OSError:
            return  # whoever is not there, or hangs up, is told by the end of the connection
        finally:
            for writer in writers:
                writer.transport.abort()
            for each in carrying:
                each.cancel()
            for failed in await asyncio.gather(*carrying, return_exceptions=True):
                if isinstance(failed, Exception) and not isinstance(failed, OSError | asyncio.IncompleteReadError):
                    raise failed  # a defect of the test's own


class ForgetfulRelay(Relay):
    """A firewall that forgets: connections through it stay open and carry nothing any more, and nobody is told."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, there=self._carry, back=self._carry)
        self._times_forgotten = 0

    def forget(self) -> None:
        """From now on nothing passes through what is open; what is opened afterwards is carried."""
        self._times_forgotten += 1

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = self._times_forgotten
        while chunk := await reader.read(65_536):
            if begun == self._times_forgotten:
                writer.write(chunk)
                await writer.drain()
        if begun != self._times_forgotten:
            await asyncio.Event().wait()


class Silence(Relay):
    """In front of a server that stops saying anything: its connections stay, and nothing comes through them any more."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, there=self._carry, back=self._carry)
        self.silent = False

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            if not self.silent:
                writer.write(chunk)
                await writer.drain()


def split_address(address: str) -> tuple[str, int]:
    """Args: address: host:port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def place_of(url: str) -> tuple[str, int]:
    """Host and port of a database's URL, with both of them in it."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def through(relay: Relay, url: str) -> str:
    """The same database's URL, by way of a relay."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{relay.address}"))
