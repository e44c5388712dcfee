"""The registry of resources: what can be granted, and which column may leave the database.

The read functions in SQL, the privileges of the read definer, the scope model and the decision engine are all driven by it: a new
resource is one entry here, one message, one mapping. A secret column is a fact of the entry, so that no rendering has to remember
to leave it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from types import MappingProxyType
from typing import Final

TEXT_SEARCH_CONFIGURATION: Final = "english"
"""How words are cut out of texts and queries: the indexes are built with it, so another one is a new index for each resource."""
MAX_QUERY_CHARACTERS: Final = 512


@unique
class ColumnType(StrEnum):
    """Spelled as PostgreSQL spells it."""

    UUID = "uuid"
    TEXT = "text"
    TIMESTAMPTZ = "timestamptz"

    @property
    def returned_as(self) -> str:
        """The SQL type in which a read function returns it: ids as text, times as int64 microseconds since 1970 UTC.

        Decoding uuid and timestamptz in Python costs a fifth of a call's CPU, and int64 is rounded by no layer.
        """
        return "bigint" if self is ColumnType.TIMESTAMPTZ else "text"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an application table.

    Attributes:
        searchable: part of the full-text index.
        secret: never selected, by anyone here; the definer role holds no privilege on it.
    """

    name: str
    type: ColumnType
    nullable: bool = False
    searchable: bool = False
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Embedding:
    """A nullable pgvector column, compared by cosine distance; searched, never returned."""

    column: str
    dimension: int


@dataclass(frozen=True, slots=True)
class Resource:
    """One application table that a grant can name.

    Attributes:
        table: schema-qualified.
        title: the column that names a row to a person.
        own_columns: beside BASE_COLUMNS, in the order in which rows carry them.
        sensitive: a grant with it needs an explicit approval.
    """

    name: str
    table: str
    title: str
    own_columns: tuple[Column, ...]
    embedding: Embedding | None = None
    sensitive: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column of the table but the embedding, in table order."""
        return (*BASE_COLUMNS, *self.own_columns)

    @property
    def returned(self) -> tuple[Column, ...]:
        """What a peer may get beside ``id`` and ``updated_at``, which every row carries. Never a secret, an owner or a team."""
        return tuple(column for column in self.own_columns if not column.secret)

    @property
    def searchable(self) -> tuple[Column, ...]:
        return tuple(column for column in self.own_columns if column.searchable)

    @property
    def secret(self) -> tuple[Column, ...]:
        return tuple(column for column in self.own_columns if column.secret)

    @property
    def readable(self) -> tuple[str, ...]:
        """Names of the columns that the read definer may SELECT: what visibility, order, search and answers need, and no more."""
        embedding = (self.embedding.column,) if self.embedding else ()
        return (*(column.name for column in self.columns if not column.secret), *embedding)


def _text(name: str, *, searchable: bool = False) -> Column:
    return Column(name, ColumnType.TEXT, searchable=searchable)


def _time(name: str, *, nullable: bool = False) -> Column:
    return Column(name, ColumnType.TIMESTAMPTZ, nullable=nullable)


def _secret(name: str) -> Column:
    return Column(name, ColumnType.TEXT, secret=True)


BASE_COLUMNS: Final = (
    Column("id", ColumnType.UUID),
    Column("owner_id", ColumnType.UUID),
    Column("team_id", ColumnType.UUID, nullable=True),
    Column("updated_at", ColumnType.TIMESTAMPTZ),
)

_RESOURCES: Final = (
    Resource(
        name="tasks",
        table="public.tasks",
        title="title",
        own_columns=(
            _text("title", searchable=True),
            _text("description", searchable=True),
            _text("status"),
            _time("due_at", nullable=True),
        ),
    ),
    Resource(
        name="notes",
        table="public.notes",
        title="title",
        own_columns=(_text("title", searchable=True), _text("body", searchable=True)),
    ),
    Resource(
        name="memory",
        table="public.memory",
        title="kind",
        own_columns=(_text("kind"), _text("content", searchable=True)),
        embedding=Embedding("embedding", dimension=384),
    ),
    Resource(
        name="credentials",
        table="public.credentials",
        title="label",
        own_columns=(
            _text("label", searchable=True),
            _text("provider", searchable=True),
            _time("created_at"),
            _time("expires_at", nullable=True),
            _secret("secret_value"),
        ),
        sensitive=True,
    ),
    Resource(
        name="api_keys",
        table="public.api_keys",
        title="label",
        own_columns=(
            _text("label", searchable=True),
            _text("provider", searchable=True),
            _time("created_at"),
            _time("last_used_at", nullable=True),
            _secret("key_hash"),
        ),
        sensitive=True,
    ),
)

REGISTRY: Final[Mapping[str, Resource]] = MappingProxyType({resource.name: resource for resource in _RESOURCES})
"""By name, in the order in which every list of resources is shown."""

SENSITIVE: Final = frozenset(resource.name for resource in _RESOURCES if resource.sensitive)
