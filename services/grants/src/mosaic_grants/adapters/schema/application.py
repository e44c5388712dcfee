"""The application's own tables: made here when nobody else has them, and never touched when somebody does.

A table that we made carries MARK as its comment. One application table without it means that the database belongs to an
application, and then nothing is created or altered outside schema federation: what the reads need of it is given as lines for its
owner to run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from mosaic_common.resources import REGISTRY, Column, Resource
from sqlalchemy import Connection, bindparam, text

from mosaic_grants.adapters.schema.searched import words_and_viewers

MARK: Final = "Made by Mosaic Federation for standalone use."

_DIRECTORY_TABLES: Final = {
    "public.users": """
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        email text NOT NULL UNIQUE,
        name text NOT NULL,
        active boolean NOT NULL DEFAULT true""",
    "public.teams": """
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        name text NOT NULL""",
    "public.team_members": """
        user_id uuid NOT NULL REFERENCES public.users ON DELETE CASCADE,
        team_id uuid NOT NULL REFERENCES public.teams ON DELETE CASCADE,
        PRIMARY KEY (user_id, team_id)""",
}
_DEFAULTS: Final = {
    "id": "PRIMARY KEY DEFAULT gen_random_uuid()",
    "owner_id": "NOT NULL REFERENCES public.users ON DELETE CASCADE",
    "team_id": "REFERENCES public.teams ON DELETE CASCADE",
    "updated_at": "NOT NULL DEFAULT now()",
    "created_at": "NOT NULL DEFAULT now()",
}

TABLES: Final = (*_DIRECTORY_TABLES, *(resource.table for resource in REGISTRY.values()))


class Application(Enum):
    """Whose the application's tables are."""

    ABSENT = auto()
    OURS = auto()
    FOREIGN = auto()


@dataclass(frozen=True, slots=True)
class Index:
    """An index that the read functions need.

    Attributes:
        shape: everything behind ON.
    """

    name: str
    shape: str

    @property
    def statement(self) -> str:
        return f"CREATE INDEX IF NOT EXISTS {self.name} ON {self.shape};"

    @property
    def concurrent_statement(self) -> str:
        """For a table in use: does not stop its writers."""
        return f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {self.name} ON {self.shape};"


def needed_indexes() -> Iterator[Index]:
    """All that the read functions use, on tables that may be of any size."""
    yield from _keyset_indexes()
    for resource in REGISTRY.values():
        yield Index(f"mosaic_{resource.name}_search", f"{resource.table} USING gin ({words_and_viewers(resource, '')})")
        if resource.embedding:
            shape = f"{resource.table} USING hnsw ({resource.embedding.column} public.vector_cosine_ops)"
            yield Index(f"mosaic_{resource.name}_nearest", shape)


def _keyset_indexes() -> Iterator[Index]:
    """One per visibility branch, in the order of a page, so that a page costs the same however many rows lie outside it."""
    for resource in REGISTRY.values():
        name, table = f"mosaic_{resource.name}", f"{resource.table} USING btree"
        yield Index(f"{name}_owned", f"{table} (owner_id, updated_at DESC, id)")
        yield Index(f"{name}_personal", f"{table} (owner_id, updated_at DESC, id) WHERE (team_id IS NULL)")
        yield Index(f"{name}_team", f"{table} (team_id, updated_at DESC, id) WHERE (team_id IS NOT NULL)")
        yield Index(f"{name}_owned_in_team", f"{table} (team_id, owner_id, updated_at DESC, id) WHERE (team_id IS NOT NULL)")


def find_application(connection: Connection) -> Application:
    """Whose tables stand in schema public."""
    comments = connection.scalars(_COMMENTS, {"tables": list(TABLES)}).all()
    if not comments:
        return Application.ABSENT
    return Application.OURS if all(comment == MARK for comment in comments) else Application.FOREIGN


def create_application(connection: Connection) -> None:
    """Create the standalone tables and their indexes, as far as they are absent."""
    for table, columns in (*_DIRECTORY_TABLES.items(), *((r.table, _columns(r)) for r in REGISTRY.values())):
        connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {table} ({columns}\n)")
        connection.exec_driver_sql(f"COMMENT ON TABLE {table} IS '{MARK}'")
    for index in needed_indexes():
        connection.exec_driver_sql(index.statement)


def find_missing_indexes(connection: Connection) -> tuple[Index, ...]:
    """Those for which no valid index of the same shape stands, whatever its name."""
    present = {_comparable(shape) for shape in connection.scalars(_INDEX_SHAPES, {"tables": list(TABLES)})}
    return tuple(index for index in needed_indexes() if _comparable(index.shape) not in present)


def _comparable(shape: str) -> str:
    """What two spellings of one index share.

    pg_get_indexdef writes out casts and parentheses, and qualifies names as the session's search path demands.
    """
    return _SPELLING.sub("", shape).lower()


def _columns(resource: Resource) -> str:
    embedding = [f"{resource.embedding.column} public.vector({resource.embedding.dimension})"] if resource.embedding else []
    return ",".join(f"\n        {column}" for column in (*map(_column, resource.columns), *embedding))


def _column(column: Column) -> str:
    constraint = _DEFAULTS.get(column.name) or ("" if column.nullable else "NOT NULL")
    return f"{column.name} {column.type} {constraint}".rstrip()


_SPELLING: Final = re.compile(r' WITH \([^)]*\)|::(?:text|regconfig)|pg_catalog\.|public\.|[()" ]')

_COMMENTS: Final = text(
    """
    SELECT coalesce(obj_description(c.oid, 'pg_class'), '')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname IN :tables AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    """
).bindparams(bindparam("tables", expanding=True))

_INDEX_SHAPES: Final = text(
    """
    SELECT regexp_replace(pg_get_indexdef(i.indexrelid), '^.* ON (ONLY )?', '')
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname || '.' || c.relname IN :tables AND i.indisvalid
    """
).bindparams(bindparam("tables", expanding=True))
