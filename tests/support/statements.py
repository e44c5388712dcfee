"""What a service asks of PostgreSQL, written down on the way: every statement, and the size of each value.

async with StatementRelay(database.url("mosaic_edge_inbound")) as relay:
    …                       # a service whose DATABASE_URL is relay.url
    with relay.noting() as asked:
        await peer.list("tasks")
    assert asked.reads == [...]
"""

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.support.relays import Relay, place_of, through

_SSL_REQUEST: Final = 80_877_103
_LENGTH: Final = struct.Struct("!I")
_READ: Final = re.compile(r"FROM federation\.(\w+)\(")
# pg_type and jit: the driver looks a composite type up, once per connection.
_ITS_OWN: Final = ("schema_version", "append_audit", "pg_catalog.pg_type", "set_config('jit'")


@dataclass(frozen=True, slots=True)
class Executed:
    """One statement as it was sent.

    Attributes:
        sizes: of its values, -1 for a null.
    """

    text: str
    sizes: tuple[int, ...]


@dataclass(slots=True)
class Asked:
    """What went through while somebody noted it."""

    executed: list[Executed] = field(default_factory=list)

    @property
    def reads(self) -> list[Executed]:
        """Without what the service asks for itself: the record that it writes, the schema that it looks after."""
        return [each for each in self.executed if not any(name in each.text for name in _ITS_OWN)]

    @property
    def functions(self) -> list[str]:
        """Names of the read functions that were called, in order."""
        return [found[1] for each in self.reads if (found := _READ.search(each.text))]


class StatementRelay(Relay):
    """Stands where the service believes the server to be, and passes everything on.

    Attributes:
        url: of the database, by way of it.
    """

    def __init__(self, url: str) -> None:
        super().__init__(*place_of(url), there=self._ask)
        self._asked: Asked | None = None
        self._behind = url

    @property
    def url(self) -> str:
        return through(self, self._behind)

    @contextmanager
    def noting(self) -> Iterator[Asked]:
        """Note what goes through while the block runs; one call at a time, or nobody can tell whose it was."""
        self._asked = asked = Asked()
        try:
            yield asked
        finally:
            self._asked = None

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """An outage, for the service alone: every connection breaks, and none is let in while the block runs."""
        self.is_away = True
        try:
            await self.hang_up()
            yield
        finally:
            self.is_away = False

    async def _ask(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while True:  # PostgreSQL, "Message Formats": what comes first has no type
            opening = await reader.readexactly(_LENGTH.size)
            opening += await reader.readexactly(_LENGTH.unpack(opening)[0] - _LENGTH.size)
            server.write(opening)
            if _LENGTH.unpack_from(opening, _LENGTH.size)[0] != _SSL_REQUEST:
                break
        prepared: dict[bytes, str] = {}
        while True:
            head = await reader.readexactly(1 + _LENGTH.size)
            body = await reader.readexactly(_LENGTH.unpack_from(head, 1)[0] - _LENGTH.size)
            self._note(head[:1], body, prepared)
            server.write(head + body)
            await server.drain()

    def _note(self, kind: bytes, body: bytes, prepared: dict[bytes, str]) -> None:
        asked = self._asked or Asked()
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            prepared[name] = text.decode()
        elif kind == b"B":
            _, name, values = body.split(b"\0", 2)
            asked.executed.append(Executed(prepared[name], _sizes(values)))
        elif kind == b"Q":
            asked.executed.append(Executed(body[:-1].decode(), ()))


def _sizes(values: bytes) -> tuple[int, ...]:
    (formats,) = struct.unpack_from("!h", values)
    at = 2 + 2 * formats
    (count,) = struct.unpack_from("!h", values, at)
    at += 2
    sizes = []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", values, at)
        sizes.append(size)
        at += 4 + max(0, size)
    return tuple(sizes)
