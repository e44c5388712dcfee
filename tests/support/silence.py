"""A server that stops saying anything: its connections stay, and nothing comes through them any more."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


@dataclass(slots=True)
class Silence:
    """A TCP relay in front of a database.

    async with Silence.before(database.url("mosaic_grants")) as between:
        …  # use between.url
        between.silent = True
    """

    url: str
    silent: bool = False
    _host: str = ""
    _port: int = 0
    _server: asyncio.Server | None = None
    _relaying: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    def before(cls, url: str) -> Self:
        return cls(url)

    async def __aenter__(self) -> Self:
        parts = urlsplit(self.url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for each in self._relaying:
            each.cancel()
        await asyncio.gather(*self._relaying, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._relay(source, sink))
            self._relaying.add(task)
            task.add_done_callback(self._relaying.discard)

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    if not self.silent:
                        sink.write(data)
                        await sink.drain()
        finally:
            sink.close()
            with contextlib.suppress(OSError):
                await sink.wait_closed()
