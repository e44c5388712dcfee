"""The read functions on worlds that never were: each is written, asked about and undone within one transaction."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import psycopg
from mosaic_common.resources import REGISTRY, TEXT_SEARCH_CONFIGURATION
from psycopg import sql
from psycopg.rows import dict_row

from tests.support.reference_reads import Moment, Row, Scope, World
from tests.support.rows import Rows, WrittenGrant

Answer = dict[str, Any]

INBOUND: Final = "mosaic_edge_inbound"
OUTBOUND: Final = "mosaic_edge_outbound"
LEDGER: Final = "mosaic_grants"


class ReadBed:
    """Asks as the service's role would, what it has itself written as a superuser.

    Args:
        superuser: an autocommitting connection.
    """

    def __init__(self, superuser: psycopg.Connection) -> None:
        self._superuser: Final = superuser
        self.rows: Final = Rows(superuser)

    @contextmanager
    def world(self, world: World) -> Iterator[None]:
        """Such tables, for a while."""
        with self._superuser.transaction(force_rollback=True):
            write_world(self._superuser, world)
            yield

    def change(self, before: World, after: World) -> None:
        write_change(self._superuser, before, after)

    def ask(self, role: str, function: str, *arguments: object) -> list[Answer]:
        """The rows of one call.

        Raises:
            psycopg.Error: refused, and nothing else has changed.
        """
        placeholders = sql.SQL(", ").join(sql.Placeholder() * len(arguments))
        call = sql.SQL("SELECT * FROM federation.{}({})").format(sql.Identifier(function), placeholders)
        with self._superuser.transaction(), self._superuser.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            answer = cursor.execute(call, arguments).fetchall()
            cursor.execute("RESET ROLE")
            return answer

    def list_rows(self, grant: WrittenGrant, resource: str, limit: int, after: Answer | None, served: int) -> list[Answer]:
        return self.ask(INBOUND, f"list_{resource}", grant.id, grant.fingerprint, limit, *_keyset(after), served)

    def local_list(self, user: UUID, resource: str, limit: int, after: Answer | None) -> list[Answer]:
        return self.ask(OUTBOUND, f"local_list_{resource}", user, limit, *_keyset(after))

    def search(
        self, grant: WrittenGrant, resource: str, query: str | None, target: Sequence[float] | None, limit: int
    ) -> list[Answer]:
        return self.ask(INBOUND, f"search_{resource}", grant.id, grant.fingerprint, *_asked(resource, query, target), limit)

    def local_search(
        self, user: UUID, resource: str, query: str | None, target: Sequence[float] | None, limit: int
    ) -> list[Answer]:
        return self.ask(OUTBOUND, f"local_search_{resource}", user, *_asked(resource, query, target), limit)

    def ranks(self, rows: Sequence[Row], query: str) -> Mapping[UUID, float] | None:
        return ranks(self._superuser, rows, query)


def _keyset(last: Answer | None) -> tuple[int | None, UUID | None]:
    return (last["updated_at_us"], UUID(last["id"])) if last else (None, None)


def _asked(resource: str, query: str | None, target: Sequence[float] | None) -> tuple[object, ...]:
    if REGISTRY[resource].embedding is None:
        return (query,)
    return query, f"{{{', '.join(map(str, target))}}}" if target else None  # psycopg would send float8[]


def ranks(owner: psycopg.Connection, rows: Sequence[Row], query: str) -> Mapping[UUID, float] | None:
    """What PostgreSQL says of each text by itself: rank by id of those that match; None when no word is left to search for."""
    found = owner.execute(
        """SELECT numnode(asked), number, words @@ asked, ts_rank_cd(words, asked, 32)::double precision
           FROM (VALUES (websearch_to_tsquery(%(configuration)s::regconfig, %(query)s))) query (asked)
           LEFT JOIN unnest(%(texts)s::text[]) WITH ORDINALITY texts (text, number) ON true
           CROSS JOIN LATERAL to_tsvector(%(configuration)s::regconfig, text) words""",
        {"configuration": TEXT_SEARCH_CONFIGURATION, "query": query, "texts": [row.searched for row in rows]},
    ).fetchall()
    if any(nodes == 0 for nodes, *_ in found):
        return None
    return {rows[number - 1].id: rank for _, number, is_match, rank in found if is_match}


def write_world(owner: psycopg.Connection, world: World) -> None:
    users = [(user, f"{user}@example.com", "Somebody", active) for user, active in world.users.items()]
    with owner.cursor() as cursor:
        cursor.executemany("INSERT INTO public.users (id, email, name, active) VALUES (%s, %s, %s, %s)", users)
        cursor.executemany("INSERT INTO public.teams (id, name) VALUES (%s, 'A team')", [(team,) for team in world.teams])
        cursor.executemany("INSERT INTO public.team_members (user_id, team_id) VALUES (%s, %s)", list(world.members))
    _insert(owner, world.rows)


def write_change(owner: psycopg.Connection, before: World, after: World) -> None:
    """Make the tables hold another world: only what differs is written."""
    old, new = ({row.id: row for row in world.rows} for world in (before, after))
    changed = [row for row in new.values() if old.get(row.id) != row]
    for row in [*(row for row in old.values() if row.id not in new), *changed]:
        table = sql.Identifier(*REGISTRY[row.resource].table.split("."))
        owner.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(table), (row.id,))
    _insert(owner, changed)
    for left in before.members - after.members:
        owner.execute("DELETE FROM public.team_members WHERE user_id = %s AND team_id = %s", left)
    for joined in after.members - before.members:
        owner.execute("INSERT INTO public.team_members (user_id, team_id) VALUES (%s, %s)", joined)


def _insert(owner: psycopg.Connection, rows: Sequence[Row]) -> None:
    for name in {row.resource for row in rows}:
        documents = [_document(row) for row in rows if row.resource == name]
        table = sql.Identifier(*REGISTRY[name].table.split("."))
        insert = sql.SQL("INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb)")
        owner.execute(insert.format(table=table), (json.dumps(documents),))


def _document(row: Row) -> Mapping[str, str | None]:
    """A row as jsonb_populate_recordset takes it."""
    own = {name: value.written if isinstance(value, Moment) else value for name, value in row.columns.items()}
    embedding = REGISTRY[row.resource].embedding
    base = {"id": str(row.id), "owner_id": str(row.owner), "team_id": str(row.team) if row.team else None}
    near = {embedding.column: json.dumps(row.embedding) if row.embedding else None} if embedding else {}
    return base | {"updated_at": row.updated_at.written} | own | near


def write_scope(owner: psycopg.Connection, grant_id: str, scope: Scope) -> None:
    """Whatever `grant create` would have said of it: teams that the subject has left by now stand in older scopes."""
    statement = "UPDATE federation.federation_grants SET scope = %s::jsonb, approved_by = 'test' WHERE id = %s"
    owner.execute(statement, (json.dumps(scope), grant_id))
