"""How statements are run."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

_NAMED: Final = re.compile(r"(?<![:\w]):([a-z_]+)")


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row whose columns are attributes."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


@lru_cache(maxsize=512)
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """Return a statement with ``:name`` as ``$1``, ``$2`` …, as PostgreSQL takes it, and the names in that order."""
    names = tuple(dict.fromkeys(_NAMED.findall(sql)))
    return _NAMED.sub(lambda found: f"${names.index(found[1]) + 1}", sql), names


class Statements:
    """SQL on one connection, within its transaction. Values are bound by name and never become part of a statement."""

    def __init__(self, connection: "asyncpg.Connection[Row]") -> None:
        self._connection = connection

    async def all(self, sql: str, **values: object) -> Sequence[Row]:
        statement, names = numbered(sql)
        rows: list[Row] = await self._connection.fetch(statement, *[values[name] for name in names])
        return rows

    async def first(self, sql: str, **values: object) -> Row | None:
        statement, names = numbered(sql)
        row: Row | None = await self._connection.fetchrow(statement, *[values[name] for name in names])
        return row

    async def one(self, sql: str, **values: object) -> Row:
        [row] = await self.all(sql, **values)
        return row

    async def execute(self, sql: str, **values: object) -> None:
        await self._run(sql, values)

    async def changed(self, sql: str, **values: object) -> bool:
        """Return whether exactly one row was written: the guard in the WHERE clause held."""
        return (await self._run(sql, values)).endswith(" 1")

    async def _run(self, sql: str, values: dict[str, object]) -> str:
        """Return the command tag, such as ``UPDATE 1`` or ``INSERT 0 1``."""
        statement, names = numbered(sql)
        tag: str = await self._connection.execute(statement, *[values[name] for name in names])
        return tag


def find_uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


def pem_of(ders: Sequence[bytes]) -> str:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders).decode()


def ders_of(pem: str) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem.encode())) if pem else ()
