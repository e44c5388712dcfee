"""The read functions of the database, as this service needs them.

A row is a tuple in the order of `columns_of`: ids as text, times as int64 microseconds since 1970 UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

Row = Sequence[Any]
"""id, updated_at µs, owner id, team id or None, then the resource's own columns in registry order."""


@dataclass(frozen=True, slots=True)
class Keyset:
    """The last row that was served."""

    updated_at_us: int
    row_id: UUID


@dataclass(frozen=True, slots=True)
class Grantee:
    """Whom the database looks up for itself: SHA-256 of the certificate's DER, 32 bytes."""

    grant_id: UUID
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class GrantedRows:
    """Rows that a grant shows.

    Attributes:
        rows: up to one beyond the page; fewer where their texts would exceed MAX_PAGE_BYTES together, but at least one.
        found: how many there were before their size counted; more than the page holds says that there is more.
        budget: rows that the cap leaves to the query, this page included; 0 when there are no rows.
    """

    rows: Sequence[Row]
    found: int
    budget: int


@dataclass(frozen=True, slots=True)
class LocalRows:
    """Rows that a local user natively sees; ``rows`` and ``found`` as in GrantedRows."""

    rows: Sequence[Row]
    found: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A live grant, as the database has it now."""

    scope_json: str
    expires_at_us: int | None


class GrantReads(Protocol):
    """Each checks grant, peer, certificate, subject and scope in the snapshot that it reads from.

    Raises:
        AccessDenied: with the reason that `decide` would give.
        Unavailable: the database gave no answer.
    """

    async def list_rows(self, grantee: Grantee, resource: str, *, limit: int, after: Keyset | None, served: int) -> GrantedRows: ...

    async def get_capabilities(self, grantee: Grantee) -> Capabilities: ...


class LocalReads(Protocol):
    """What an active local user natively sees."""

    async def list_rows(self, user_id: UUID, resource: str, *, limit: int, after: Keyset | None) -> LocalRows:
        """Return up to ``limit`` rows and one more.

        Raises:
            AccessDenied: SUBJECT_INACTIVE, a user that is gone or disabled.
            Unavailable: the database gave no answer.
        """
        ...
