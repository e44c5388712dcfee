"""Another gateway's inbound edge that keeps no rule of HTTP/2 and gRPC: it writes its frames by hand, as many as it likes."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from hpack import Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.support.lying_peer import leaf_of

_PREFACE_BYTES: Final = 24
_FRAME_HEADER_BYTES: Final = 9
_INITIAL_WINDOW: Final = 65_535
FRAME_BYTES: Final = 16 * 1024

Pairs = Iterable[tuple[str, str]]


@dataclass(slots=True)
class Exchange:
    """One call, to be answered frame by frame."""

    stream_id: int
    _connection: "_Connection"
    window: int = _INITIAL_WINDOW

    async def begin(self, *more: tuple[str, str]) -> None:
        """Answer 200, as every gRPC server does."""
        await self.send(self._block([(":status", "200"), ("content-type", "application/grpc"), *more]))

    async def message(self, encoded: bytes, *, packed: bool = False) -> None:
        await self.push(struct.pack(">BI", packed, len(encoded)) + encoded)

    async def push(self, data: bytes) -> None:
        """As fast as the client's windows let them through: a client ends the connection of who ignores them."""
        for at in range(0, len(data), FRAME_BYTES):
            chunk = data[at : at + FRAME_BYTES]
            await self._connection.take(self, len(chunk))
            await self.send(DataFrame(self.stream_id, data=chunk))

    async def end(self, *trailers: tuple[str, str]) -> None:
        await self.send(self._block(trailers or [("grpc-status", "0")], "END_STREAM"))

    async def endless_trailers(self) -> None:
        """A block of headers that is never complete."""
        await self.send(HeadersFrame(self.stream_id, data=self._encode([("x-first", "x")])))
        block = self._encode([("x-more", "x" * 8_000)])
        while True:
            await self.send(ContinuationFrame(self.stream_id, data=block))

    async def reset(self, code: int) -> None:
        await self.send(RstStreamFrame(self.stream_id, error_code=code))

    async def go_away(self, code: int, *, last: int = 0) -> None:
        await self.send(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=b"\x1b[2J"))

    async def ping(self) -> None:
        await self.send(PingFrame(0, opaque_data=b"x" * 8))

    async def hang_up(self) -> None:
        self._connection.writer.transport.abort()

    async def send(self, frame: Frame) -> None:
        writer = self._connection.writer
        writer.write(frame.serialize())
        self._connection.sent_bytes[0] += frame.body_len
        await writer.drain()
        # Where there is room, drain() does not let the loop go on, and so never sees that the client has gone.
        await asyncio.sleep(0)
        if writer.is_closing():
            raise ConnectionResetError

    def _block(self, pairs: Pairs, *flags: str) -> Frame:
        return HeadersFrame(self.stream_id, data=self._encode(pairs), flags=["END_HEADERS", *flags])

    @staticmethod
    def _encode(pairs: Pairs) -> bytes:
        return Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in pairs], huffman=False)


@dataclass(slots=True)
class _Connection:
    writer: asyncio.StreamWriter
    sent_bytes: list[int]
    window: int = _INITIAL_WINDOW
    initial: int = _INITIAL_WINDOW
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    exchanges: dict[int, Exchange] = field(default_factory=dict)

    async def take(self, exchange: Exchange, size: int) -> None:
        while min(self.window, exchange.window) < size:
            self.opened.clear()
            await self.opened.wait()
        self.window -= size
        exchange.window -= size

    def heed(self, frame: Frame) -> None:
        """What the client lets through from now on."""
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            initial = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self.initial)
            for each in self.exchanges.values():
                each.window += initial - self.initial
            self.initial = initial
            self.writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.writer.write(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, WindowUpdateFrame) and frame.stream_id:
            if frame.stream_id in self.exchanges:
                self.exchanges[frame.stream_id].window += frame.window_increment
        elif isinstance(frame, WindowUpdateFrame):
            self.window += frame.window_increment
        self.opened.set()


Answer = Callable[[Exchange], Awaitable[None]]


@dataclass(slots=True)
class RawPeer:
    """Answers every call with ``answer``, whatever it asks.

    Attributes:
        asked: how many calls there were.
    """

    name: str
    root_pem: bytes
    answer: Answer
    address: str = ""
    asked: int = 0
    _sent_bytes: list[int] = field(default_factory=lambda: [0])
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _answering: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def sent_bytes(self) -> int:
        return self._sent_bytes[0]

    @classmethod
    @asynccontextmanager
    async def start(cls, folder: Path, name: str, answer: Answer) -> AsyncIterator[Self]:
        leaf = leaf_of(folder, name)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(leaf.public_certificate, leaf.public_certificate_key)
        tls.set_alpn_protocols(["h2"])
        peer = cls(name, leaf.service_root.read_bytes(), answer)
        server = await asyncio.start_server(peer._converse, "127.0.0.1", 0, ssl=tls)
        peer.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield peer
        finally:
            server.close()
            for writer in peer._writers:
                writer.transport.abort()
            for task in peer._answering:
                task.cancel()
            await asyncio.gather(*peer._answering, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        connection = _Connection(writer, self._sent_bytes)
        try:
            await reader.readexactly(_PREFACE_BYTES)
            writer.write(SettingsFrame(0).serialize())
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await reader.readexactly(_FRAME_HEADER_BYTES)))
                frame.parse_body(memoryview(await reader.readexactly(length)))
                connection.heed(frame)
                if isinstance(frame, HeadersFrame):
                    self._begin(connection, frame.stream_id)
        except (OSError, asyncio.IncompleteReadError):
            return  # the client has gone
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _begin(self, connection: _Connection, stream_id: int) -> None:
        self.asked += 1
        exchange = connection.exchanges[stream_id] = Exchange(stream_id, connection, connection.initial)
        task = asyncio.create_task(self._answer(exchange))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, exchange: Exchange) -> None:
        with contextlib.suppress(OSError):
            await self.answer(exchange)
