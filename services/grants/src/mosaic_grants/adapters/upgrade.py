"""From any earlier state, or none, to the database that this release needs.

`bootstrap` needs a superuser and runs once: roles, database, extension. `upgrade` runs as the owner, with every release:
migrations, the standalone tables where nobody else has them, the functions rendered anew, partitions, privileges. It is one
transaction under one lock, so that it has either happened or not, and running it again changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from typing import Any, Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from mosaic_common.errors import ConfigurationError
from psycopg import sql
from sqlalchemy import Connection, NullPool, create_engine, make_url
from sqlalchemy.exc import ProgrammingError

from mosaic_grants.adapters.schema.application import Application, create_application, find_application, find_missing_indexes
from mosaic_grants.adapters.schema.functions import Function, render_functions
from mosaic_grants.adapters.schema.names import (
    AUDIT_DEFINER,
    LOGIN_ROLES,
    OWNER,
    READ_DEFINER,
    SCHEMA,
    SERVICE_ROLES,
)
from mosaic_grants.adapters.schema.partitions import create_audit_partitions
from mosaic_grants.adapters.schema.privileges import apply_privileges, find_missing_grants, read_lock_grants, read_roles

Progress = Callable[[str], None]

MAINTENANCE_DATABASE: Final = "postgres"
# Arbitrary, ours; the same everywhere, because what it guards (roles, one schema) has the same name everywhere.
_LOCK: Final = 0x6D6F73616963
PATIENCE: Final = timedelta(seconds=60)
"""How long one upgrade waits for another: as long as any should take."""
_AS_IT_IS: Final = {"no_parameters": True}


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that the read functions need of somebody else's tables.

    Attributes:
        statement: what the tables' owner has to run.
    """

    what: str
    statement: str


def bootstrap(superuser_url: str, passwords: Mapping[str, str], *, progress: Progress = lambda _: None) -> None:
    """Create the roles, the database that the URL names, the extension and the schema; set every login role's password.

    Args:
        superuser_url: of a superuser; it names the database to prepare, created when absent.
        passwords: role → password, for mosaic_owner and the three service roles.

    Raises:
        ConfigurationError: a password is missing, empty, or for a role that does not log in; another upgrade does not end.
    """
    if set(passwords) != set(LOGIN_ROLES) or not all(passwords.values()):
        raise ConfigurationError(f"The bootstrap passwords must name exactly {', '.join(LOGIN_ROLES)}, each with a password.")
    url = make_url(superuser_url)
    database = url.database or MAINTENANCE_DATABASE
    with _superuser(url.set(database=MAINTENANCE_DATABASE)) as connection:
        with connection.transaction():
            _take_turn(connection, PATIENCE, progress)
            progress("roles")
            connection.execute(read_roles())
            for role in LOGIN_ROLES:
                _set_password(connection, role, passwords[role])
        if not connection.execute("SELECT FROM pg_database WHERE datname = %s", (database,)).fetchone():
            progress(f"database {database}")
            _create_database(connection, database)
    with _superuser(url) as connection, connection.transaction():
        _take_turn(connection, PATIENCE, progress)
        progress("extension vector, schema federation")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public")
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(_name(SCHEMA), _name(OWNER)))
        _close_database(connection, database, progress)


def upgrade(owner_url: str, *, patience: timedelta = PATIENCE, progress: Progress = lambda _: None) -> tuple[Missing, ...]:
    """Bring the database to this release. Return what is left to the owner of the application's tables.

    Args:
        owner_url: of mosaic_owner.

    Raises:
        ConfigurationError: another upgrade does not end.
    """
    with _owner(owner_url) as connection:
        _take_turn(connection.connection.driver_connection, patience, progress)
        # Everything is qualified; nothing that somebody put into schema public can pass for something of ours.
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog, pg_temp")
        progress("migrations")
        command.upgrade(_alembic(connection), "head")
        application = find_application(connection)
        if application is not Application.FOREIGN:
            progress("application tables")
            create_application(connection)
        progress("functions")
        _install_functions(connection)
        for partition in create_audit_partitions(connection):
            progress(f"partition {partition}")
        progress("privileges")
        apply_privileges(connection, to_application=application is not Application.FOREIGN)
        return missing_privileges(connection)


def missing_privileges(connection: Connection) -> tuple[Missing, ...]:
    """What the application's owner has still to run: grants without which reads fail, indexes without which they are slow.

    Any role with USAGE on both schemas may ask.
    """
    grants = (
        Missing(f"{grant.role} may not {', '.join(grant.verbs)} {grant.target}", grant.statement)
        for grant in find_missing_grants(connection)
    )
    indexes = (Missing(f"no index ON {index.shape}", index.concurrent_statement) for index in find_missing_indexes(connection))
    return (*grants, *indexes)


def missing_at(url: str) -> tuple[Missing, ...]:
    """The same, on a connection of its own."""
    with _owner(url) as connection:
        return missing_privileges(connection)


def head() -> str:
    """The newest migration; what federation.schema_version() answers after an upgrade by this release."""
    revision = ScriptDirectory.from_config(_alembic(None)).get_current_head()
    if revision is None:
        raise RuntimeError("the package carries no migrations")
    return revision


def _install_functions(connection: Connection) -> None:
    functions = render_functions()
    # Whoever owns a function must be allowed to create it there; privileges.sql takes this back in the same transaction.
    connection.exec_driver_sql(f"GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO {READ_DEFINER}, {AUDIT_DEFINER}")
    for function in functions:
        _install(connection, function)
    for stale in connection.exec_driver_sql(_STALE_FUNCTIONS, ([function.identity for function in functions],)).scalars().all():
        connection.exec_driver_sql(f"DROP FUNCTION {stale}")


def _install(connection: Connection, function: Function) -> None:
    try:
        # Replaced in place: callers that are under way keep their function.
        with connection.begin_nested():
            connection.exec_driver_sql(function.statement, execution_options=_AS_IT_IS)
    except ProgrammingError as refused:
        if not isinstance(refused.orig, psycopg.errors.InvalidFunctionDefinition):
            raise
        # Its columns have changed, which CREATE OR REPLACE cannot do.
        connection.exec_driver_sql(f"DROP FUNCTION {function.identity}")
        connection.exec_driver_sql(function.statement, execution_options=_AS_IT_IS)
    connection.exec_driver_sql(f"ALTER FUNCTION {function.identity} OWNER TO {function.owner}")


_STALE_FUNCTIONS: Final = f"""
SELECT p.oid::regprocedure::text
FROM pg_proc p
WHERE p.pronamespace = '{SCHEMA}'::regnamespace AND p.prorettype <> 'trigger'::regtype
AND p.oid NOT IN (SELECT to_regprocedure(identity) FROM unnest(%s::text[]) identity WHERE to_regprocedure(identity) IS NOT NULL)
"""  # noqa: S608 — a constant


def _take_turn(connection: Any, patience: timedelta, progress: Progress) -> None:
    """Wait, within a transaction of a psycopg connection, until no other upgrade is under way in its database.

    Raises:
        ConfigurationError: one is, for longer than that.
    """
    if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()[0]:
        return
    progress("waiting for another upgrade")
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{patience / timedelta(milliseconds=1):.0f}ms",))
    try:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    except psycopg.errors.LockNotAvailable:
        raise ConfigurationError(
            f"Another session has held the upgrade's lock for {patience.total_seconds():g} s: if no other upgrade is under way, "
            "end the session that pg_locks shows with locktype advisory, and upgrade again."
        ) from None
    connection.execute("SET LOCAL lock_timeout TO DEFAULT")


def _alembic(connection: Connection | None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(resources.files("mosaic_grants.adapters.migrations")))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _owner(url: str) -> Iterator[Connection]:
    # The driver reads the URL itself: it knows what may stand in one, the folder of a Unix socket included.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    with engine.begin() as connection:
        yield connection


def _superuser(url: Any) -> psycopg.Connection:
    return psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True)


def _set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """As a SCRAM verifier: the password itself is in no statement, and so in no log."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(_name(role), sql.Literal(verifier)))


def _create_database(connection: psycopg.Connection, database: str) -> None:
    try:
        statement = "CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0"
        connection.execute(sql.SQL(statement).format(_name(database), _name(OWNER)))
    except psycopg.errors.DuplicateDatabase:
        pass  # another bootstrap was faster


def _close_database(connection: psycopg.Connection, database: str, progress: Progress) -> None:
    """Only our roles come in, and none can leave anything behind, temporary tables or large objects, or take others' locks."""
    roles = sql.SQL(", ").join(map(_name, SERVICE_ROLES))
    row = connection.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()").fetchone()
    if row and row[0] == OWNER:
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(_name(database), roles))
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        connection.execute("REVOKE EXECUTE ON FUNCTION lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea) FROM PUBLIC")
        for statement in _closing_locks(connection):
            connection.execute(statement.encode())
    else:
        progress(f'the owner of "{database}" should REVOKE TEMPORARY ON DATABASE "{database}" FROM PUBLIC')
        progress(f'in "{database}", a superuser should, having granted the application the locks that it takes itself:')
        for statement in _closing_locks(connection):
            progress(statement)
    connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}, {}").format(_name(database), _name(OWNER), roles))


def _closing_locks(connection: psycopg.Connection) -> Iterator[str]:
    """Statements that leave advisory locks to those whom locks.sql names. To unlock stays open: it frees only one's own."""
    for (function,) in connection.execute(_ADVISORY_LOCKS).fetchall():
        yield f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC, {', '.join(LOGIN_ROLES)};"
    for grant in read_lock_grants():
        yield grant.statement


_ADVISORY_LOCKS: Final = r"""
SELECT p.oid::regprocedure::text FROM pg_proc p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ '^pg_(try_)?advisory_.*lock' AND p.proname !~ 'unlock'
ORDER BY 1
"""


def _name(name: str) -> sql.Identifier:
    return sql.Identifier(name)
