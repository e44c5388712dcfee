"""What privileges.sql and locks.sql do not list is refused: generated from the catalog, and tried as each role."""

from collections.abc import Iterator
from typing import Final

import psycopg
import pytest
from mosaic_common.resources import REGISTRY
from mosaic_grants.adapters.schema.functions import render_functions
from mosaic_grants.adapters.schema.names import AUDIT_DEFINER, OWNER, READ_DEFINER, SERVICE_ROLES
from mosaic_grants.adapters.schema.privileges import read_grants, read_lock_grants, read_statements
from psycopg import sql

from tests.support.postgres import Database

ROLES: Final = (*SERVICE_ROLES, READ_DEFINER, AUDIT_DEFINER)
EDGES: Final = ("mosaic_edge_inbound", "mosaic_edge_outbound")

# What is read under a grant, what a local user reads, and what shows no row: each for one service alone.
OF_GRANTS: Final = ("list", "get", "search")
OF_USERS: Final = ("local_list", "local_get", "local_search")
OF_SCOPES: Final = ("count", "locate")

# Each is refused before it touches anything, or touches no row.
ATTEMPTS: Final = {
    "SELECT": "SELECT {column} FROM {table} LIMIT 0",
    "INSERT": "INSERT INTO {table} ({column}) OVERRIDING SYSTEM VALUE SELECT NULL WHERE false",
    "UPDATE": "UPDATE {table} SET {column} = DEFAULT WHERE false",
    "DELETE": "DELETE FROM {table} WHERE false",
    "TRUNCATE": "TRUNCATE {table}",
    "TRIGGER": "CREATE TRIGGER t BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
}
OF_A_COLUMN: Final = ("SELECT", "INSERT", "UPDATE")


class Acting:
    """A connection that acts as one role; definers cannot log in, so a superuser's session is handed to each."""

    def __init__(self, connection: psycopg.Connection, role: str) -> None:
        self._connection = connection
        connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))

    def may(self, statement: str | sql.Composed) -> bool:
        """Whether privileges let the statement through; what it then does is undone."""
        composed = sql.SQL(statement) if isinstance(statement, str) else statement
        try:
            with self._connection.transaction(force_rollback=True):
                self._connection.execute(composed)
        except psycopg.errors.InsufficientPrivilege:
            return False
        except psycopg.Error:
            pass  # it ran into something else: the privilege was there
        return True


@pytest.fixture
def acting(module_database: Database, role: str) -> Iterator[Acting]:
    with module_database.connect_superuser() as connection:
        yield Acting(connection, role)


@pytest.fixture(scope="module")
def columns(module_database: Database) -> list[tuple[str, str, str]]:
    """Schema, relation and column of everything that is not PostgreSQL's own."""
    with module_database.connect_superuser() as connection:
        found: list[tuple[str, str, str]] = connection.execute(
            """
            SELECT n.nspname, c.relname, a.attname
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE n.nspname IN ('federation', 'public') AND c.relkind IN ('r', 'p', 'v', 'm')
            AND a.attnum > 0 AND NOT a.attisdropped
            ORDER BY 1, 2, a.attnum
            """
        ).fetchall()
    assert len({name for _, name, _ in found}) > 20
    return found


def attempt(verb: str, schema: str, table: str, column: str) -> sql.Composed:
    statement = sql.SQL(ATTEMPTS[verb])
    return statement.format(table=sql.Identifier(schema, table), column=sql.Identifier(column))


@pytest.mark.parametrize("role", ROLES)
def test_tables_open_exactly_as_listed(acting: Acting, role: str, columns: list[tuple[str, str, str]]) -> None:
    """Column by column, verb by verb: what the file lists works, everything else is refused; secrets, partitions and audit too."""
    listed = {
        (verb, grant.target, column)
        for grant in read_grants()
        if grant.role == role and grant.kind == "TABLE"
        for verb in grant.verbs
        for column in grant.columns or ("*",)
    }
    wrong = []
    for schema, table, column in columns:
        target = f"{schema}.{table}"
        for verb in ATTEMPTS:
            expected = (verb, target, "*") in listed or (verb in OF_A_COLUMN and (verb, target, column) in listed)
            if acting.may(attempt(verb, schema, table, column)) != expected:
                wrong.append(f"{role} {'may not' if expected else 'may'} {verb} {target}.{column}")
    assert not wrong


@pytest.mark.parametrize("role", SERVICE_ROLES)
def test_functions_open_exactly_as_listed(acting: Acting, role: str) -> None:
    """Each service executes what its listener needs; the inbound edge no local function, the outbound one no grant function."""
    listed = {grant.target for grant in read_grants() if grant.role == role and grant.kind == "FUNCTION"}
    executable = set()
    for function in render_functions():
        name, _, arguments = function.identity.rstrip(")").partition("(")
        nulls = ", ".join(f"NULL::{argument}" for argument in arguments.split(", ") if argument)
        if acting.may(f"SELECT {name}({nulls})"):
            executable.add(function.identity)
    assert executable == listed


@pytest.fixture(scope="module")
def locking(module_database: Database) -> list[str]:
    """Every function of PostgreSQL that takes an advisory lock, of any kind."""
    with module_database.connect_superuser() as connection:
        found = connection.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE proname ~ 'advisory.*lock' AND proname !~ 'unlock'"
        ).fetchall()
    assert len(found) >= 16
    return [name for (name,) in found]


@pytest.mark.parametrize("role", [OWNER, *ROLES])
def test_advisory_locks_open_exactly_as_listed(acting: Acting, role: str, locking: list[str]) -> None:
    """Who holds a lock stops whoever waits for it, and the keys are no secret: an edge can take none of any kind."""
    listed = {grant.target.removeprefix("pg_catalog.") for grant in read_lock_grants() if grant.role == role}
    taken = set()
    for function in locking:
        name, _, arguments = function.rstrip(")").partition("(")
        if acting.may(f"SELECT {name}({', '.join(f'7::{argument}' for argument in arguments.split(','))})"):
            taken.add(function)
    assert taken == listed
    assert not listed or role in {OWNER, "mosaic_grants"}


def test_grants_lock_resolves_to_the_function_that_is_granted(module_database: Database) -> None:
    """What it calls with a hash takes the bigint variant."""
    with module_database.connect("mosaic_grants") as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('federation_audit_chains'))")


def test_the_file_lists_every_resource() -> None:
    """A resource that is added to the registry and forgotten in privileges.sql fails here, and one that shows a secret too."""
    grants = read_grants()
    executable = {(grant.role, grant.target.partition("(")[0]) for grant in grants if grant.kind == "FUNCTION"}
    for resource in REGISTRY.values():
        families = {family for _, name in executable if (family := name.removesuffix(resource.name)) != name}
        assert families == {f"federation.{family}_" for family in (*OF_GRANTS, *OF_USERS, *OF_SCOPES)}
        for role, reads in (("mosaic_edge_inbound", OF_GRANTS), ("mosaic_edge_outbound", OF_USERS), ("mosaic_grants", OF_SCOPES)):
            for family in reads:
                assert [who for who, name in executable if name == f"federation.{family}_{resource.name}"] == [role]
        readable = [grant.columns for grant in grants if grant.role == READ_DEFINER and grant.target == resource.table]
        assert [set(names) for names in readable] == [set(resource.readable)]
        assert any(statement.startswith(f"REVOKE ALL ON TABLE {resource.table} ") for statement in read_statements())


@pytest.mark.parametrize("role", EDGES)
def test_an_edge_has_no_table_at_all(role: str) -> None:
    """The file itself gives the edges nothing but USAGE of the schema and EXECUTE."""
    assert {(grant.kind, grant.verbs) for grant in read_grants() if grant.role == role} == {
        ("SCHEMA", ("USAGE",)),
        ("FUNCTION", ("EXECUTE",)),
    }


ELSEWHERE = [
    "CREATE TABLE federation.t ()",
    "CREATE TABLE public.t ()",
    "CREATE TEMPORARY TABLE t ()",
    "CREATE SCHEMA s",
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION federation.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION federation.schema_version() RETURNS text LANGUAGE sql AS 'SELECT ''0'''",
    "ALTER FUNCTION federation.schema_version() RESET ALL",
    "DROP FUNCTION federation.schema_version()",
    "ALTER TABLE public.tasks ADD COLUMN c int",
    "ALTER TABLE federation.federation_audit_log DETACH PARTITION federation.federation_audit_log_default",
    "DROP TABLE public.tasks",
    "CREATE INDEX ON public.tasks (id)",
    "GRANT SELECT ON public.tasks TO PUBLIC",
    "DROP EXTENSION vector",
    "CREATE ROLE r",
    "CREATE DATABASE d",
    "SET ROLE mosaic_owner",
    "SET ROLE mosaic_read_definer",
    "SET SESSION AUTHORIZATION mosaic_owner",
    "SET session_replication_role = replica",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_statistic",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "DO $$ BEGIN LOCK TABLE public.users; END $$",
]


@pytest.mark.parametrize("role", SERVICE_ROLES)
def test_a_service_leaves_nothing_behind_and_becomes_nobody_else(module_database: Database, role: str) -> None:
    """No DDL, no temporary tables, no large objects, no other role, nothing of the server."""
    with module_database.connect(role) as connection:
        refused = []
        for statement in ELSEWHERE:
            try:
                connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                refused.append(statement)
    assert refused == ELSEWHERE


@pytest.mark.parametrize("role", EDGES)
@pytest.mark.parametrize("ending", ["commit", "rollback", "error"])
def test_a_reused_connection_stays_shut(module_database: Database, role: str, ending: str) -> None:
    """Having called a definer function leaves no right behind, however the transaction ended."""
    inbound = role == "mosaic_edge_inbound"
    function = "list_tasks(NULL, NULL, 1, NULL, NULL, 0)" if inbound else "local_list_tasks(NULL, 1, NULL, NULL)"
    with psycopg.connect(module_database.url(role)) as connection:
        if ending == "error":
            with pytest.raises(psycopg.Error, match="refused"):
                connection.execute(f"SELECT * FROM federation.{function}")
        else:
            connection.execute("SELECT federation.schema_version()")
        if ending == "commit":
            connection.commit()
        else:
            connection.rollback()
        for schema, table, column in (
            ("public", "tasks", "id"),
            ("federation", "federation_grants", "id"),
            ("federation", "federation_audit_log", "seq"),
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(attempt("SELECT", schema, table, column))
            connection.rollback()


@pytest.mark.parametrize("role", [*SERVICE_ROLES, READ_DEFINER, AUDIT_DEFINER])
def test_roles_have_no_attribute_that_opens_more(module_database: Database, role: str) -> None:
    """No superuser, no way around row security, members of nothing; definers do not log in, services only so often."""
    with module_database.connect_superuser() as connection:
        found = connection.execute(
            """
            SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls, rolcanlogin, rolconnlimit > 0,
                EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid)
            FROM pg_roles r WHERE rolname = %s
            """,
            (role,),
        ).fetchone()
    service = role in SERVICE_ROLES
    assert found == (False, service, service, False)


@pytest.mark.parametrize("role", SERVICE_ROLES)
def test_no_session_waits_for_ever(module_database: Database, role: str) -> None:
    """Statement, lock and idle transaction end by themselves."""
    with module_database.connect(role) as connection:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            assert connection.execute("SELECT current_setting(%s)", (setting,)).fetchone() != ("0",)


def test_every_function_is_sealed(module_database: Database) -> None:
    """All run as a definer without login, with a fixed search path, and for nobody by default; only append_audit may write."""
    with module_database.connect_superuser() as connection:
        found = connection.execute(
            """
            SELECT p.proname, p.prosecdef, p.provolatile, pg_get_userbyid(p.proowner),
                'search_path=pg_catalog, pg_temp' = ANY (p.proconfig),
                EXISTS (SELECT FROM aclexplode(p.proacl) WHERE grantee = 0)
            FROM pg_proc p WHERE p.pronamespace = 'federation'::regnamespace AND p.prorettype <> 'trigger'::regtype
            """
        ).fetchall()
        open_triggers = connection.execute(
            """
            SELECT p.proname FROM pg_proc p
            WHERE p.pronamespace = 'federation'::regnamespace AND p.prorettype = 'trigger'::regtype
                AND (p.prosecdef OR EXISTS (SELECT FROM aclexplode(p.proacl) WHERE grantee = 0))
            """
        ).fetchall()
    assert open_triggers == []
    assert len(found) == len(render_functions())
    for name, definer, volatility, owner, search_path, public in found:
        writes = name == "append_audit"
        assert (definer, search_path, public) == (True, True, False)
        assert (volatility, owner) == (("v", AUDIT_DEFINER) if writes else ("s", READ_DEFINER))
