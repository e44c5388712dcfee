"""One real PostgreSQL for the whole run, and databases that cost a copy: migrated once as a template, then fresh for whoever asks.

Use the fixtures `database` (one per test) and `module_database` (one per module).
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pytest
from mosaic_cli.dev.embedded import EmbeddedPostgres
from mosaic_grants.adapters.schema.names import LOGIN_ROLES, OWNER
from mosaic_grants.adapters.upgrade import bootstrap, upgrade
from psycopg import sql
from psycopg.rows import dict_row

PASSWORDS: Final = {role: f"{role}-of-this-test-run-only" for role in LOGIN_ROLES}
TEMPLATE: Final = "mosaic_template"


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database of its own, with every role."""

    name: str
    superuser_url: str

    def url(self, role: str) -> str:
        """postgresql://… of one of the login roles."""
        server = self.superuser_url.rpartition("@")[2]
        return f"postgresql://{role}:{PASSWORDS[role]}@{server}"

    @contextmanager
    def connect(self, role: str = OWNER) -> Iterator[psycopg.Connection]:
        """An autocommitting connection; the owner's unless said otherwise."""
        with psycopg.connect(self.url(role), autocommit=True) as connection:
            yield connection

    @contextmanager
    def connect_superuser(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            yield connection


def edge(database: Database, role: str) -> "psycopg.Connection[dict[str, Any]]":
    """A session that plans as those of the edges do, and gives rows by column."""
    options = "-c plan_cache_mode=force_generic_plan"
    return psycopg.connect(database.url(role), autocommit=True, row_factory=dict_row, options=options)


class PostgresServer:
    """The server of this run."""

    def __init__(self, embedded: EmbeddedPostgres) -> None:
        self._embedded = embedded
        self._numbers = itertools.count(1)
        self._migrated = False

    @property
    def superuser_url(self) -> str:
        return self._embedded.superuser_url

    def unmigrated(self, name: str) -> Database:
        """A name on this server, nothing behind it yet."""
        return Database(name, f"{self.superuser_url.rpartition('/')[0]}/{name}")

    @contextmanager
    def fresh(self) -> Iterator[Database]:
        """A migrated database, dropped afterwards."""
        self._migrate_template()
        database = self.unmigrated(f"mosaic_{next(self._numbers)}")
        name = sql.Identifier(database.name)
        with psycopg.connect(self.superuser_url, autocommit=True) as server:
            copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {} STRATEGY file_copy")
            server.execute(copy.format(name, sql.Identifier(TEMPLATE), sql.Identifier(OWNER)))
            try:
                # A copy does not inherit who may connect.
                bootstrap(database.superuser_url, PASSWORDS)
                yield database
            finally:
                server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))

    def _migrate_template(self) -> None:
        if not self._migrated:
            template = self.unmigrated(TEMPLATE)
            bootstrap(template.superuser_url, PASSWORDS)
            upgrade(template.url(OWNER))
            self._migrated = True


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False) as embedded:
        with psycopg.connect(embedded.superuser_url, autocommit=True) as server:
            # A service that is stopped while it logs in leaves a backend waiting for it, and DROP DATABASE waits for every backend.
            server.execute("ALTER SYSTEM SET authentication_timeout = '5s'")
            server.execute("SELECT pg_reload_conf()")
        yield PostgresServer(embedded)


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    with postgres_server.fresh() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def module_database(postgres_server: PostgresServer) -> Iterator[Database]:
    with postgres_server.fresh() as fresh:
        yield fresh
