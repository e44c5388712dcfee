"""Databases of known sizes, built once and kept.

A build that was cut short goes on where it stopped: every step is a transaction that also writes the step's name. The rows follow
from their numbers alone, so that a size always holds the same rows. Ids are the MD5 of what they name: `md5('task' || 7)`.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import psycopg
from mosaic_cli.dev.embedded import EmbeddedPostgres
from mosaic_common.resources import REGISTRY
from mosaic_grants.adapters.schema.names import OWNER, SERVICE_ROLES
from mosaic_grants.adapters.upgrade import bootstrap, upgrade
from psycopg import sql

from tests.support.postgres import PASSWORDS, Database

USERS: Final = 1000
TEAMS: Final = 100
TEAMS_PER_USER: Final = 3
WORDS: Final = 997
"""Every text is made of so many words, each as frequent as any other: one word is in six of a thousand tasks."""
CHUNK: Final = 250_000
UPGRADE_PATIENCE: Final = timedelta(hours=1)

# Indexes included; generous, so that a load that begins also ends.
TASK_BYTES: Final = 1200
MEMORY_BYTES: Final = 8000
GRANT_BYTES: Final = 2500
SPARE_BYTES: Final = 4 * 1024**3

# A server with 10^7 rows has more than the 128 MiB of a fresh cluster; the rest makes the load bearable.
SETTINGS: Final = {"shared_buffers": "1GB", "maintenance_work_mem": "1GB", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


class DiskTooSmall(Exception):
    """One sentence."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a database holds.

    Attributes:
        label: sets apart what holds the same; part of the database's name.
    """

    tasks: int
    grants: int
    memories: int = 0
    label: str = "reads"

    @property
    def name(self) -> str:
        return f"{self.label}_{self.tasks}_{self.grants}_{self.memories}"

    @property
    def bytes_needed(self) -> int:
        return self.tasks * TASK_BYTES + self.memories * MEMORY_BYTES + self.grants * GRANT_BYTES


def id_of(kind: str, number: int) -> UUID:
    """The id of the row of this kind with this number."""
    return UUID(hashlib.md5(f"{kind}{number}".encode()).hexdigest())


def tuned(postgres: EmbeddedPostgres) -> None:
    """Give a running server the benchmark's settings; it is started again when it did not have them."""
    with psycopg.connect(postgres.superuser_url, autocommit=True) as server:
        (shared,) = server.execute("SHOW shared_buffers").fetchone() or ("",)
        if shared == SETTINGS["shared_buffers"]:
            return
        for name, value in SETTINGS.items():
            server.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.SQL(name), sql.Literal(value)))
    postgres.stop()
    postgres.start()


def build(postgres: EmbeddedPostgres, folder: Path, dataset: Dataset) -> Database:
    """Return the database with these rows, at this release's schema.

    Args:
        folder: where the server keeps its data.

    Raises:
        DiskTooSmall: before anything is loaded.
    """
    database = Database(dataset.name, postgres.superuser_url_of(dataset.name))
    bootstrap(database.superuser_url, PASSWORDS)
    with database.connect_superuser() as connection:
        done = _Steps(connection, dataset.name)
        if "loaded" not in done:
            _require_room(folder, dataset)
            if "schema" not in done:
                upgrade(database.url(OWNER), patience=UPGRADE_PATIENCE)
                with done.step("schema"):
                    _drop_indexes(connection)
            _load(connection, done, dataset)
            # What upgrade finds missing it makes: every index that was dropped, in one go.
            done.tell("indexes")
            upgrade(database.url(OWNER), patience=UPGRADE_PATIENCE)
            connection.execute("VACUUM ANALYZE")
            with done.step("loaded"):
                pass
    upgrade(database.url(OWNER), patience=UPGRADE_PATIENCE)
    with database.connect_superuser() as connection:
        _forget_earlier_runs(connection)
        # A later release may have added indexes, and what the planner knows of an index over expressions comes from here.
        connection.execute("ANALYZE")
        # The limits count all replicas together, and the gateways of a bed have one server between them.
        for role in SERVICE_ROLES:
            connection.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(sql.Identifier(role)))
    return database


class _Steps:
    """Which steps this database has behind it."""

    def __init__(self, connection: psycopg.Connection, name: str) -> None:
        self._connection: Final = connection
        self._name: Final = name
        connection.execute("CREATE SCHEMA IF NOT EXISTS bench")
        connection.execute("CREATE TABLE IF NOT EXISTS bench.steps (name text PRIMARY KEY)")
        self._done: Final = {name for (name,) in connection.execute("SELECT name FROM bench.steps").fetchall()}

    def __contains__(self, name: str) -> bool:
        return name in self._done

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A transaction that is remembered."""
        with self._connection.transaction():
            yield
            self._connection.execute("INSERT INTO bench.steps VALUES (%s)", (name,))
        self._done.add(name)
        self.tell(name)

    def tell(self, what: str) -> None:
        sys.stderr.write(f"{self._name}: {what}\n")


def _require_room(folder: Path, dataset: Dataset) -> None:
    free = shutil.disk_usage(folder).free
    if free < dataset.bytes_needed + SPARE_BYTES:
        needed = (dataset.bytes_needed + SPARE_BYTES) / 1e9
        raise DiskTooSmall(f"{dataset.name} needs {needed:.0f} GB on the disk of {folder}, which has {free / 1e9:.0f} GB left.")


def _drop_indexes(connection: psycopg.Connection) -> None:
    """Indexes are made after the load; those of constraints stay."""
    tables = [resource.table for resource in REGISTRY.values()]
    indexes = connection.execute(
        """
        SELECT i.indexrelid::regclass::text FROM pg_index i
        WHERE i.indrelid = ANY(%s::text[]::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
        """,
        (tables,),
    ).fetchall()
    for (index,) in indexes:
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.SQL(index)))


def _load(connection: psycopg.Connection, done: _Steps, dataset: Dataset) -> None:
    # No trigger looks at rows that are right by construction, foreign keys included.
    connection.execute("SET session_replication_role = replica")
    parts = [("directory", _DIRECTORY, 0, 0)]
    parts += [(f"tasks to {last:,}", _TASKS, first, last) for first, last in _chunks(dataset.tasks)]
    parts += [(f"memory to {last:,}", _MEMORY, first, last) for first, last in _chunks(dataset.memories, CHUNK // 10)]
    parts += [(f"grants to {last:,}", _GRANTS, first, last) for first, last in _chunks(dataset.grants)]
    numbers = {"users": USERS, "teams": TEAMS, "per_user": TEAMS_PER_USER, "words": WORDS, "tasks": dataset.tasks}
    for name, statement, first, last in parts:
        if name not in done:
            with done.step(name):
                # Bound here and not by the server, which would have to be told the type of every number.
                psycopg.ClientCursor(connection).execute(statement, numbers | {"first": first, "last": last})


def _chunks(rows: int, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, size):
        yield first, min(first + size, rows) - 1


def _forget_earlier_runs(connection: psycopg.Connection) -> None:
    """What a run leaves: its audit log, which would make every next run's indexes larger, and its connections."""
    connection.execute("SET session_replication_role = replica")
    connection.execute(
        "TRUNCATE federation.federation_audit_log, federation.federation_audit_chains, federation.federation_audit_heads CASCADE"
    )
    connection.execute("TRUNCATE federation.federation_peer_keys")
    connection.execute("DELETE FROM federation.federation_peers WHERE direction = 'outbound'")


_DIRECTORY: Final = """
WITH made_users AS (
    INSERT INTO public.users (id, email, name)
    SELECT md5('user' || n)::uuid, 'user' || n || '@example.com', 'User ' || n FROM generate_series(0, %(users)s - 1) n
), made_teams AS (
    INSERT INTO public.teams (id, name) SELECT md5('team' || n)::uuid, 'Team ' || n FROM generate_series(0, %(teams)s - 1) n
)
INSERT INTO public.team_members (user_id, team_id)
SELECT md5('user' || n)::uuid, md5('team' || (n + m) %% %(teams)s)::uuid
FROM generate_series(0, %(users)s - 1) n, generate_series(0, %(per_user)s - 1) m
"""

# Half of the rows belong to a team. Times are a permutation (7919 is prime), so that what is newest lies anywhere in the table.
_TASKS: Final = """
INSERT INTO public.tasks (id, owner_id, team_id, updated_at, title, description, status, due_at)
SELECT md5('task' || n)::uuid, md5('user' || n %% %(users)s)::uuid,
    CASE WHEN n %% 2 = 0 THEN md5('team' || (n / 2) %% %(teams)s)::uuid END,
    timestamptz '2026-01-01 00:00:00+00' + (n::bigint * 7919 %% %(tasks)s) * interval '1 second',
    'Task ' || n || ' word' || n::bigint * 13 %% %(words)s,
    'word' || n::bigint * 17 %% %(words)s || ' word' || n::bigint * 29 %% %(words)s || ' word' || n::bigint * 31 %% %(words)s
        || ' word' || n::bigint * 41 %% %(words)s || ' word' || n::bigint * 43 %% %(words)s,
    'open', CASE WHEN n %% 3 = 0 THEN timestamptz '2027-01-01 00:00:00+00' END
FROM generate_series(%(first)s, %(last)s) n
"""

_MEMORY: Final = """
INSERT INTO public.memory (id, owner_id, team_id, updated_at, kind, content, embedding)
SELECT md5('memory' || n)::uuid, md5('user' || n %% %(users)s)::uuid,
    CASE WHEN n %% 2 = 0 THEN md5('team' || (n / 2) %% %(teams)s)::uuid END,
    timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second', 'fact',
    'word' || n::bigint * 17 %% %(words)s || ' word' || n::bigint * 29 %% %(words)s,
    (SELECT array_agg((random() - 0.5 + 0 * (n + d))::real) FROM generate_series(1, 384) d)::public.vector(384)
FROM generate_series(%(first)s, %(last)s) n
"""

# One peer for each grant; each with the filter that operators write most: two of the subject's teams, and what is their own.
_GRANTS: Final = """
WITH peers AS (
    INSERT INTO federation.federation_peers (id, name, common_name, direction, state, created_by, activated_at)
    SELECT md5('peer' || n)::uuid, 'peer-' || n, 'peer-' || n, 'inbound', 'active', 'bench', now()
    FROM generate_series(%(first)s, %(last)s) n
), certificates AS (
    INSERT INTO federation.federation_certificates
        (fingerprint_sha256, grant_id, serial, der, chain_pem, spki_sha256, not_before, not_after)
    SELECT sha256(('certificate' || n)::bytea), md5('grant' || n)::uuid, n + 1, '\\x00', '', sha256('key'),
        now(), now() + interval '10 years'
    FROM generate_series(%(first)s, %(last)s) n
)
INSERT INTO federation.federation_grants
    (id, subject_user_id, peer_id, status, scope, rate_per_second, rate_burst, created_by, activated_at)
SELECT md5('grant' || n)::uuid, md5('user' || n %% %(users)s)::uuid, md5('peer' || n)::uuid, 'active',
    jsonb_build_object('resources', '["tasks", "memory"]'::jsonb, 'max_rows_per_query', 10000, 'filters',
        jsonb_build_object('tasks', jsonb_build_object('include_personal', true, 'include_teams', jsonb_build_array(
            md5('team' || n %% %(users)s %% %(teams)s)::uuid, md5('team' || (n %% %(users)s + 1) %% %(teams)s)::uuid)))),
    1000000, 1000000, 'bench', now()
FROM generate_series(%(first)s, %(last)s) n
"""
