"""How statements are run."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection


@lru_cache(maxsize=512)
def _prepared(sql: str) -> TextClause:
    # The same object each time: SQLAlchemy finds what it compiled without looking at the text again.
    return text(sql)


class Statements:
    """SQL on one connection, within its transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self, sql: str, **values: object) -> Sequence[Row[Any]]:
        return (await self._connection.execute(_prepared(sql), values)).all()

    async def first(self, sql: str, **values: object) -> Row[Any] | None:
        return (await self._connection.execute(_prepared(sql), values)).first()

    async def one(self, sql: str, **values: object) -> Row[Any]:
        return (await self._connection.execute(_prepared(sql), values)).one()

    async def execute(self, sql: str, **values: object) -> None:
        await self._connection.execute(_prepared(sql), values)

    async def changed(self, sql: str, **values: object) -> bool:
        """Return whether exactly one row was written: the guard in the WHERE clause held."""
        return (await self._connection.execute(_prepared(sql), values)).rowcount == 1


def find_uuid(value: str) -> UUID | None:
    try:
        return UUID(value)
    except ValueError:
        return None


def pem_of(ders: Sequence[bytes]) -> str:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders).decode()


def ders_of(pem: str) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem.encode())) if pem else ()
