"""The read functions of the database, as this service needs them.

A row is a tuple in the order of `columns_of`: ids as text, times as int64 microseconds since 1970 UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from mosaic_federation_edge.domain.search import Search

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
        rows: up to one beyond the page; fewer where their texts would exceed MAX_PAGE_BYTES together, but at
            least up to the first that has any.
        found: how many there were before their size counted; more than the page holds says that there is more.
        budget: rows that the cap leaves to the query, this page included, or any number above the page's; 0 when there are no rows.
    """

    rows: Sequence[Row]
    found: int
    budget: int


@dataclass(frozen=True, slots=True)
class LocalRows:
    """Rows that a local user natively sees; ``rows`` and ``found`` as in GrantedRows."""

    rows: Sequence[Row]
    found: int


class Visibility(StrEnum):
    """What became of one row, by its id."""

    VISIBLE = "visible"
    OUT_OF_SCOPE = "out_of_scope"  # the subject sees it, the grant does not show it
    NOT_VISIBLE = "not_visible"  # not there, or not the subject's to see


@dataclass(frozen=True, slots=True)
class FoundRow:
    """One row; None unless it is visible."""

    visibility: Visibility
    row: Row | None


@dataclass(frozen=True, slots=True)
class MatchedRow:
    """A row that a search found.

    Attributes:
        rank: higher is better.
        snippet: empty when no text was searched for.
        distance: cosine distance, where an embedding was given and the row has one.
    """

    row: Row
    rank: float
    snippet: str
    distance: float | None


@dataclass(frozen=True, slots=True)
class Matches:
    """What a search found in one resource, best first.

    Attributes:
        found: how many matched, as far as the database counts; more than there are rows says that there is more.
        budget: rows that the cap leaves to the search; of a local one, as many as were found.
    """

    rows: Sequence[MatchedRow]
    found: int
    budget: int


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

    async def get_row(self, grantee: Grantee, resource: str, row_id: UUID) -> FoundRow: ...

    async def search_rows(self, grantee: Grantee, resource: str, search: Search, *, limit: int) -> Matches: ...

    async def get_capabilities(self, grantee: Grantee) -> Capabilities: ...


class LocalReads(Protocol):
    """What an active local user natively sees.

    Raises:
        AccessDenied: SUBJECT_INACTIVE, a user that is gone or disabled.
        Unavailable: the database gave no answer.
    """

    async def list_rows(self, user_id: UUID, resource: str, *, limit: int, after: Keyset | None) -> LocalRows:
        """Return up to ``limit`` rows and one more."""
        ...

    async def get_row(self, user_id: UUID, resource: str, row_id: UUID) -> FoundRow: ...

    async def search_rows(self, user_id: UUID, resource: str, search: Search, *, limit: int) -> Matches: ...
