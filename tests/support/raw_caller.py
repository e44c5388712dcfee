"""A client that keeps no rule of HTTP/2 and gRPC: it sends header blocks that no library would, and reads what comes back."""

import asyncio
import base64
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote

from google.rpc import error_details_pb2, status_pb2
from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame
from mosaic_common.identity import EDGE_INBOUND, OPERATOR, dns_name

from tests.support.denials import Holder
from tests.support.floods import PREFACE

RawHeaders = Sequence[tuple[str, str | bytes]]

FRAME_HEADER_BYTES: Final = 9
ANSWER_SECONDS: Final = 5.0


@dataclass(slots=True)
class RawAnswer:
    """What came back on one stream.

    Attributes:
        headers: of all header blocks.
        ended: how: ``trailers``, ``reset``, ``goaway``, ``closed``.
    """

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ended: str = ""

    @property
    def grpc_status(self) -> int | None:
        return int(self.headers["grpc-status"]) if "grpc-status" in self.headers else None

    @property
    def message(self) -> str:
        return unquote(self.headers.get("grpc-message", ""))

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        """What our own code said of a refusal."""
        packed = self.headers["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        status_pb2.Status.FromString(base64.b64decode(packed + "=" * (-len(packed) % 4))).details[0].Unpack(info)
        return info


class ResumingTls(ssl.SSLContext):
    """Continues the TLS session that an earlier connection left: asyncio has no argument for it."""

    session: ssl.SSLSession | None = None

    @classmethod
    def of(cls, holder: Holder, folder: Path) -> Self:
        """Args: folder: an empty one; TLS takes keys from files only."""
        chain, key = folder / "chain.pem", folder / "key.pem"
        chain.write_bytes(holder.chain)
        key.write_bytes(holder.key)
        tls = cls(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(holder.edge.gateway.pki / OPERATOR / "service-root.pem")
        tls.set_alpn_protocols(["h2"])
        tls.load_cert_chain(chain, key)
        return tls

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return super().wrap_bio(*arguments, **{**named, "session": self.session})


@dataclass(slots=True)
class RawCaller:
    """One connection with a holder's certificate."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    authority: str
    _next_stream: int = 1
    _decoder: Decoder = field(default_factory=Decoder)

    @classmethod
    @asynccontextmanager
    async def connect(cls, holder: Holder, tls: ssl.SSLContext) -> AsyncIterator[Self]:
        gateway = holder.edge.gateway
        host, _, port = gateway.addresses[EDGE_INBOUND, "public"].rpartition(":")
        name = dns_name(EDGE_INBOUND, gateway.name)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls, server_hostname=name)
        writer.write(PREFACE + SettingsFrame(0).serialize())
        try:
            yield cls(reader, writer, name)
        finally:
            writer.transport.abort()

    @property
    def tls(self) -> ssl.SSLObject:
        found: ssl.SSLObject = self.writer.get_extra_info("ssl_object")
        return found

    def usual(self, path: str) -> list[tuple[str, str | bytes]]:
        """The headers of a call that keeps the rules."""
        return [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", path),
            (":authority", self.authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]

    async def call(self, headers: RawHeaders, message: bytes) -> RawAnswer:
        """Send one call and wait for its end."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        encoded = Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in headers], huffman=False)
        body = DataFrame(stream, struct.pack(">?I", False, len(message)) + message, flags=["END_STREAM"])
        answer = RawAnswer()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self.writer.write(HeadersFrame(stream, encoded, flags=["END_HEADERS"]).serialize() + body.serialize())
                while not answer.ended:
                    await self._read(stream, answer)
        except (OSError, asyncio.IncompleteReadError):
            answer.ended = "closed"
        return answer

    async def _read(self, stream: int, answer: RawAnswer) -> None:
        frame, length = Frame.parse_frame_header(memoryview(await self.reader.readexactly(FRAME_HEADER_BYTES)))
        frame.parse_body(memoryview(await self.reader.readexactly(length)))
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self.writer.write(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, GoAwayFrame):
            answer.ended = "goaway"
        elif isinstance(frame, HeadersFrame):
            decoded = {str(name): str(value) for name, value in self._decoder.decode(frame.data)}
            if frame.stream_id == stream:
                answer.headers |= decoded
                answer.ended = "trailers" if "END_STREAM" in frame.flags else ""
        elif frame.stream_id == stream and isinstance(frame, DataFrame):
            answer.data += frame.data
        elif frame.stream_id == stream and isinstance(frame, RstStreamFrame):
            answer.ended = "reset"
