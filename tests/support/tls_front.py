"""TLS in front of a server that has none, on loopback: the wheels' PostgreSQL and Valkey are built without.

Whoever dials it verifies a certificate and speaks TLS, as with a server of one's own; the server itself sees a plain connection.
"""

import asyncio
import ssl
import threading
from pathlib import Path
from typing import Final, Self

# PostgreSQL's protocol, "SSL Session Encryption": asked for in clear text, granted by one byte.
SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
_GRANTED: Final = b"S"


class TlsFront:
    """Ends TLS on one port and passes the bytes to another, both on 127.0.0.1, in a thread of its own.

    Args:
        behind: the port of the plain server; may be nobody's yet.
        folder: holds tls.pem and tls.key.
        asked: what a client has to say before the handshake; whoever says something else is hung up on.

    Attributes:
        connections: how many handshakes were completed.
    """

    def __init__(self, *, port: int, behind: int, folder: Path, asked: bytes = b"") -> None:
        self._port = port
        self._behind = behind
        self._asked = asked
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(folder / "tls.pem", folder / "tls.key")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls front", daemon=True)
        self.connections = 0

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._asked:
                if await reader.readexactly(len(self._asked)) != self._asked:
                    return
                writer.write(_GRANTED)
            await writer.start_tls(self._tls)
            self.connections += 1
            further_reader, further_writer = await asyncio.open_connection("127.0.0.1", self._behind)
            await asyncio.gather(_pump(reader, further_writer), _pump(further_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            return  # whoever hangs up, or is not there, is told by the end of the connection
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
