"""bootstrap and upgrade: from nothing, again, and beside an application that is already there."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from alembic import command
from mosaic_common.db.version import SCHEMA_VERSION
from mosaic_common.errors import ConfigurationError
from mosaic_common.resources import REGISTRY
from mosaic_grants.adapters.schema.application import TABLES
from mosaic_grants.adapters.schema.names import LOGIN_ROLES, OWNER
from mosaic_grants.adapters.upgrade import _LOCK, Missing, _alembic, _owner, bootstrap, head, upgrade
from psycopg import sql

from tests.support.postgres import PASSWORDS, Database, PostgresServer

APPLICATION_OWNER: Final = "mosaic_test_application"


def state(database: Database) -> list[tuple[Any, ...]]:
    """Everything that upgrade may change: relations, columns, indexes, functions, privileges, comments."""
    statements = (
        "SELECT c.oid::regclass::text, c.relkind::text, c.relacl::text, obj_description(c.oid, 'pg_class') FROM pg_class c"
        " WHERE c.relnamespace IN ('federation'::regnamespace, 'public'::regnamespace)",
        "SELECT a.attrelid::regclass::text, a.attname, a.attacl::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a"
        " JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace IN ('federation'::regnamespace, 'public'::regnamespace)",
        "SELECT oid::regprocedure::text, oid, prosrc, proacl::text, proowner FROM pg_proc"
        " WHERE pronamespace = 'federation'::regnamespace",
        "SELECT oid::regprocedure::text, proacl::text FROM pg_proc WHERE proname ~ 'advisory'",
        "SELECT nspname, nspacl::text FROM pg_namespace",
        "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint",
        "SELECT defaclrole, defaclacl::text FROM pg_default_acl",
    )
    with database.connect_superuser() as connection:
        return [row for statement in statements for row in sorted(connection.execute(statement), key=str)]


def test_an_upgrade_ends_at_the_head_that_services_expect(database: Database) -> None:
    """schema_version() answers the newest migration of the package, and services are built against the same."""
    assert head() == SCHEMA_VERSION
    for role in ("mosaic_grants", "mosaic_edge_inbound", "mosaic_edge_outbound"):
        with database.connect(role) as connection:
            assert connection.execute("SELECT federation.schema_version()").fetchone() == (SCHEMA_VERSION,)


def test_running_again_changes_nothing(database: Database) -> None:
    """Bootstrap and upgrade converge: a second run leaves tables, functions and privileges as they were, the functions in place."""
    before = state(database)
    bootstrap(database.superuser_url, PASSWORDS)
    assert upgrade(database.url(OWNER)) == ()
    assert state(database) == before


def test_what_somebody_added_is_taken_back(database: Database) -> None:
    """Privileges, stale functions and function bodies are those of this release after an upgrade, whatever stood there before."""
    before = state(database)
    with database.connect_superuser() as connection:
        connection.execute("GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA federation TO mosaic_edge_inbound, PUBLIC")
        connection.execute("GRANT SELECT (secret_value) ON public.credentials TO mosaic_read_definer")
        connection.execute("GRANT CREATE ON SCHEMA federation TO mosaic_edge_outbound")
        connection.execute("GRANT EXECUTE ON FUNCTION federation.capabilities TO PUBLIC")
        connection.execute("REVOKE EXECUTE ON FUNCTION federation.list_tasks FROM mosaic_edge_inbound")
        connection.execute(
            "CREATE FUNCTION federation.list_everything() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';"
            "CREATE OR REPLACE FUNCTION federation.schema_version() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT '9'$$"
        )
    upgrade(database.url(OWNER))
    assert state(database) == before


def test_a_function_whose_columns_changed_is_replaced(database: Database) -> None:
    """CREATE OR REPLACE cannot change a result; the upgrade can."""
    with database.connect() as owner:
        owner.execute(
            "DROP FUNCTION federation.capabilities;"
            "CREATE FUNCTION federation.capabilities(grant_id uuid, fingerprint bytea) RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
    upgrade(database.url(OWNER))
    with database.connect("mosaic_edge_inbound") as edge, pytest.raises(psycopg.Error, match="refused"):
        edge.execute("SELECT scope FROM federation.capabilities(NULL, NULL)")


def test_upgrades_take_turns(postgres_server: PostgresServer) -> None:
    """Two replicas' upgrades at once: one works, the other waits and finds nothing to do."""
    database = postgres_server.unmigrated("mosaic_in_turn")
    bootstrap(database.superuser_url, PASSWORDS)
    outcomes: list[tuple[Missing, ...]] = []
    threads = [threading.Thread(target=lambda: outcomes.append(upgrade(database.url(OWNER)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [(), (), ()]


def test_an_upgrade_waits_for_another_only_so_long(database: Database) -> None:
    """Whoever holds the lock, a hung upgrade or a broken service: one sentence that says what to do, and nothing was changed."""
    told: list[str] = []
    with database.connect() as holding, holding.transaction():
        holding.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match=r"held the upgrade's lock for 0\.3 s"):
            upgrade(database.url(OWNER), patience=timedelta(seconds=0.3), progress=told.append)
        assert 0.3 <= time.monotonic() - began < 5
    assert told == ["waiting for another upgrade"]
    assert upgrade(database.url(OWNER)) == ()


def test_progress_is_told(postgres_server: PostgresServer) -> None:
    """Whoever watches sees each stage by name, and no password."""
    database = postgres_server.unmigrated("mosaic_progress")
    told: list[str] = []
    bootstrap(database.superuser_url, PASSWORDS, progress=told.append)
    upgrade(database.url(OWNER), progress=told.append)
    assert {"roles", "migrations", "application tables", "functions", "privileges"} <= set(told)
    assert not any(password in line for password in PASSWORDS.values() for line in told)


@pytest.mark.parametrize(
    "passwords",
    [
        pytest.param(dict.fromkeys(LOGIN_ROLES[1:], "x"), id="one is missing"),
        pytest.param(dict.fromkeys(LOGIN_ROLES, ""), id="one is empty"),
        pytest.param(dict.fromkeys((*LOGIN_ROLES, "mosaic_read_definer"), "x"), id="a definer does not log in"),
    ],
)
def test_bootstrap_wants_every_password(passwords: dict[str, str]) -> None:
    """No role is left open or locked by an incomplete file; nothing is connected to before."""
    with pytest.raises(ConfigurationError, match="mosaic_owner"):
        bootstrap("postgresql://nobody@192.0.2.1/nowhere", passwords)


def test_passwords_reach_the_server_as_verifiers(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With every statement logged, no password is in the server's log."""
    with psycopg.connect(postgres_server.superuser_url, autocommit=True) as server:
        server.execute("ALTER SYSTEM SET log_statement = 'all'")
        server.execute("SELECT pg_reload_conf()")
    try:
        bootstrap(postgres_server.unmigrated("mosaic_logged").superuser_url, PASSWORDS)
    finally:
        with psycopg.connect(postgres_server.superuser_url, autocommit=True) as server:
            server.execute("ALTER SYSTEM RESET log_statement")
            server.execute("SELECT pg_reload_conf()")
    logs = [path.read_text() for path in Path(tmp_path_factory.getbasetemp()).rglob("postgres.log")]
    told = [log for log in logs if "SCRAM-SHA-256" in log]  # of other servers, too, where such a test ran before
    assert told
    assert not any(password in log for log in told for password in PASSWORDS.values())


def test_whatever_is_of_now_has_a_month(database: Database) -> None:
    """Last month too, which a row may be dated in until a day after it: in no month, it would keep for ever what follows it."""
    with database.connect() as owner:
        expected = owner.execute(
            """SELECT 'federation.federation_audit_log_' || to_char(month, 'YYYY_MM')
               FROM generate_series(-1, 12) AS ahead,
                    LATERAL (SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + ahead * interval '1 month' AS month) m"""
        ).fetchall()
        found = owner.execute(
            """SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'federation.federation_audit_log'::regclass
               AND inhrelid::regclass::text NOT LIKE '%default' ORDER BY 1"""
        ).fetchall()
    assert found == sorted(expected)


def test_rows_that_nobody_made_a_month_for_move_to_it(database: Database) -> None:
    """After a year without an upgrade the default partition has taken the rows; the next upgrade sorts them, hashes and all."""
    with database.connect() as owner:
        owner.execute(
            """
            DO $$
            DECLARE
                month text := 'federation.federation_audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM');
            BEGIN
                EXECUTE format('DROP TABLE %s', month);
            END $$;
            INSERT INTO federation.federation_audit_log
            SELECT gen_random_uuid(), (extract(epoch FROM now()) * 1000000)::bigint, 'read', '', '', NULL, NULL, NULL, NULL, NULL,
                '', 'allowed', NULL, NULL, 0, 0, 0, NULL, 0, 1, decode(repeat('00', 16), 'hex'), 1, sha256('a'), sha256('b')
            """
        )
        rows = owner.execute("TABLE federation.federation_audit_log_default").fetchall()
        upgrade(database.url(OWNER))
        assert owner.execute("TABLE federation.federation_audit_log").fetchall() == rows
        assert owner.execute("TABLE federation.federation_audit_log_default").fetchall() == []


@pytest.fixture
def beside_an_application(postgres_server: PostgresServer) -> Iterator[Database]:
    """A database whose application tables another role made and fills, with rows in them; bootstrapped, not upgraded."""
    database = postgres_server.unmigrated("mosaic_beside_an_application")
    with psycopg.connect(postgres_server.superuser_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'of the application'").format(sql.Identifier(APPLICATION_OWNER)))
        server.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database.name), sql.Identifier(APPLICATION_OWNER))
        )
        with database.connect_superuser() as application:
            application.execute("CREATE EXTENSION vector")
            application.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(APPLICATION_OWNER)))
            application.execute(
                """
                CREATE TABLE users (id uuid PRIMARY KEY, email text, name text, active boolean, plan text);
                CREATE TABLE teams (id uuid PRIMARY KEY, name text);
                CREATE TABLE team_members (user_id uuid, team_id uuid, PRIMARY KEY (user_id, team_id));
                INSERT INTO users VALUES (gen_random_uuid(), 'maya@example.com', 'Maya', true, 'family');
                """
            )
            for resource in REGISTRY.values():
                columns = ", ".join(f"{column.name} {column.type}" for column in resource.columns)
                embedding = ", embedding public.vector(384)" if resource.embedding else ""
                application.execute(f"CREATE TABLE {resource.table} ({columns}{embedding}, PRIMARY KEY (id))")
        bootstrap(database.superuser_url, PASSWORDS)
        try:
            yield database
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))
            server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(APPLICATION_OWNER)))


def application_state(database: Database) -> list[tuple[Any, ...]]:
    names = {table.removeprefix("public.") for table in TABLES}
    return [row for row in state(database) if str(row[0]).removeprefix("public.") in names]


def use(database: Database) -> int:
    """What the application does all day, as its own role."""
    with database.connect_superuser() as application:
        application.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(APPLICATION_OWNER)))
        application.execute(
            """
            CREATE TEMPORARY TABLE scratch ON COMMIT DROP AS SELECT * FROM users;
            INSERT INTO tasks (id, owner_id, updated_at, title) SELECT gen_random_uuid(), id, now(), 'Water the plants' FROM users;
            UPDATE tasks SET status = 'done';
            DELETE FROM tasks WHERE title = 'Water the plants' AND id < (SELECT max(id::text)::uuid FROM tasks);
            """
        )
        return len(application.execute("SELECT * FROM tasks").fetchall())


def test_an_applications_own_tables_are_left_alone(beside_an_application: Database) -> None:
    """Their owner reads and writes the same before and after; columns, indexes, comments and privileges are untouched."""
    database = beside_an_application
    rows_before = use(database)
    before = application_state(database)
    upgrade(database.url(OWNER))
    assert application_state(database) == before
    assert use(database) == rows_before


def test_an_applications_locks_stay_its_own_and_the_lines_that_close_them_are_told(beside_an_application: Database) -> None:
    """An application may rely on advisory locks: nothing is taken away, and the lines work once somebody runs them."""
    database, told = beside_an_application, list[str]()
    bootstrap(database.superuser_url, PASSWORDS, progress=told.append)
    takes = sql.SQL("SELECT has_function_privilege({}, 'pg_advisory_lock(bigint)', 'EXECUTE')")
    with database.connect_superuser() as superuser:
        for role in (APPLICATION_OWNER, "mosaic_edge_inbound"):
            assert superuser.execute(takes.format(role)).fetchone() == (True,)
        for line in told:
            if line.endswith(";"):
                superuser.execute(line.encode())
        assert superuser.execute(takes.format("mosaic_edge_inbound")).fetchone() == (False,)
    assert upgrade(database.url(OWNER)) != ()


def test_its_owner_is_told_what_to_run_and_then_reads_work(beside_an_application: Database) -> None:
    """The lines that upgrade returns can be run as they stand, and are all that is missing; no index is asked for twice."""
    database = beside_an_application
    told = upgrade(database.url(OWNER))
    assert {missing.statement.partition(" (")[0].partition(" IF ")[0] for missing in told} == {
        "GRANT SELECT",
        "CREATE INDEX CONCURRENTLY",
    }
    assert {missing.what.partition(" USING ")[2].partition(" ")[0] for missing in told if "INDEX" in missing.statement} == {
        "btree",
        "gin",
        "hnsw",
    }
    with database.connect_superuser() as application:
        application.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(APPLICATION_OWNER)))
        user = application.execute("SELECT id FROM public.users").fetchone()
        assert user is not None
        with database.connect("mosaic_edge_outbound") as edge:
            reading = "SELECT * FROM federation.local_list_tasks(%s, 50, NULL, NULL)"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                edge.execute(reading, user)
            for missing in told:
                application.execute(missing.statement)
            assert edge.execute(reading, user).fetchall() == []
    assert upgrade(database.url(OWNER)) == ()


# ── a database with rows in it ────────────────────────────────────────────────────────────────────────────────────────────────────

BEFORE_LIFECYCLES: Final = """
    INSERT INTO federation.federation_peers (name, common_name, direction, state, created_by, revoked_at) VALUES
        ('waiting', 'waiting', 'inbound', 'pending', 'otto', NULL), ('welcome', 'welcome', 'inbound', 'active', 'otto', NULL),
        ('paused', 'paused', 'inbound', 'suspended', 'otto', NULL), ('evicted', 'evicted', 'inbound', 'revoked', 'otto', now());
    INSERT INTO federation.federation_peers (name, common_name, direction, state, local_user_id, remote_gateway, remote_grant_id,
        remote_subject_user_id, endpoint_url, enrollment_url, redemption_id, created_by) VALUES
        ('begun', 'home', 'outbound', 'pending', gen_random_uuid(), 'work', NULL, NULL, NULL, 'https://w:7444',
         '00000000-0000-0000-0000-000000000001', 'otto'),
        ('made', 'home', 'outbound', 'active', gen_random_uuid(), 'work', gen_random_uuid(), gen_random_uuid(), 'w:7443',
         'https://w:7444', '00000000-0000-0000-0000-000000000002', 'otto');
    INSERT INTO federation.federation_peer_keys (peer_id, client_key_pem, csr_der, state, cert_pem, serial, fingerprint_sha256,
        not_before, not_after)
    SELECT id, 'sealed', 'csr', state, 'pem', 1, sha256('certificate'), now(), now() + interval '1 d'
    FROM federation.federation_peers WHERE direction = 'outbound';
    INSERT INTO federation.federation_grants (subject_user_id, peer_id, status, scope, created_by, activated_at)
    SELECT gen_random_uuid(), id, state, '{"resources": ["tasks"], "max_rows_per_query": 1}', 'otto',
           CASE state WHEN 'active' THEN now() END
    FROM federation.federation_peers WHERE direction = 'inbound' AND state IN ('pending', 'active');
    INSERT INTO federation.federation_enrollment_tokens (token_id, grant_id, peer_id, created_by, expires_at, redemption_id,
        csr_sha256, spki_sha256, attempt, serial, lease_until)
    SELECT sha256('token'), id, peer_id, 'otto', now() + interval '1 min', gen_random_uuid(), sha256('a'), sha256('b'), 1, 7, now()
    FROM federation.federation_grants WHERE status = 'pending';
    INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason)
    SELECT 4711, id, 'attempt released' FROM federation.federation_grants WHERE status = 'pending';
"""


@contextmanager
def standing_at(server: PostgresServer, revision: str, rows: str) -> Iterator[Database]:
    """A database of an older release, in use."""
    database = server.unmigrated(f"mosaic_at_{revision}")
    bootstrap(database.superuser_url, PASSWORDS)
    with _owner(database.url(OWNER)) as connection:
        command.upgrade(_alembic(connection), revision)
    with database.connect() as owner:
        owner.execute(rows.encode())
    yield database
    with psycopg.connect(server.superuser_url, autocommit=True) as superuser:
        superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))


@pytest.fixture
def before_lifecycles(postgres_server: PostgresServer) -> Iterator[Database]:
    with standing_at(postgres_server, "0002", BEFORE_LIFECYCLES) as database:
        yield database


def test_peers_grants_and_keys_of_the_release_before_go_on(before_lifecycles: Database) -> None:
    """Who was active is known to have been, a key keeps the redemption that it was made for, a claim can be finished, and what was
    owed to the authority still is, even when its grant is forgotten.
    """
    database = before_lifecycles
    upgrade(database.url(OWNER))
    with database.connect() as owner, database.connect("mosaic_grants") as grants:
        assert dict(owner.execute("SELECT name, activated_at IS NOT NULL FROM federation.federation_peers").fetchall()) == {
            "waiting": False,
            "welcome": True,
            "paused": True,
            "evicted": True,
            "begun": False,
            "made": True,
        }
        redemptions = owner.execute(
            "SELECT p.name, k.redemption_id::text FROM federation.federation_peer_keys k"
            " JOIN federation.federation_peers p ON p.id = k.peer_id"
        )
        assert {name: redemption[-1] for name, redemption in redemptions} == {"begun": "1", "made": "2"}
        assert owner.execute("SELECT attempt, serial, unfinished_at FROM federation.federation_enrollment_tokens").fetchall() == [
            (1, 7, None)
        ]
        # The name of the evicted is free, those of the others are not.
        again = (
            "INSERT INTO federation.federation_peers (name, common_name, direction, created_by) VALUES (%s, %s, 'inbound', 'otto')"
        )
        grants.execute(again, ("evicted", "evicted"))
        with pytest.raises(psycopg.errors.UniqueViolation):
            grants.execute(again, ("paused", "paused"))
        # What was active is kept from now on, what was not can be forgotten.
        grants.execute("DELETE FROM federation.federation_enrollment_tokens")
        for table in ("grants", "peers"):
            with pytest.raises(psycopg.errors.RestrictViolation, match="was active is kept"):
                grants.execute(f"DELETE FROM federation.federation_{table} WHERE activated_at IS NOT NULL".encode())
        grants.execute("DELETE FROM federation.federation_grants WHERE activated_at IS NULL")
        assert owner.execute("SELECT serial, done_at FROM federation.federation_ca_outbox").fetchall() == [(4711, None)]


BEFORE_APPROVALS: Final = """
    INSERT INTO federation.federation_peers (name, common_name, direction, state, created_by, activated_at)
        VALUES ('home', 'home', 'inbound', 'active', 'otto', now());
    INSERT INTO federation.federation_grants (subject_user_id, peer_id, status, scope, created_by, approved_by, activated_at,
        expires_at, revoked_at)
    SELECT gen_random_uuid(), p.id, g.status, jsonb_build_object('resources', g.resources, 'max_rows_per_query', 5), g.name,
        g.approved_by, now(), g.expires_at, CASE g.status WHEN 'revoked' THEN now() END
    FROM federation.federation_peers p, (VALUES
        ('plain', 'active', '["tasks"]'::jsonb, NULL, NULL),
        ('approved', 'active', '["credentials"]', 'olivia', NULL),
        ('slipped in', 'active', '["tasks", "api_keys"]', NULL, NULL),
        ('slipped in, for a day', 'active', '["credentials"]', '', now() + interval '1 day'),
        ('slipped in, not redeemed', 'pending', '["credentials"]', NULL, NULL),
        ('slipped in, over', 'active', '["credentials"]', NULL, now() - interval '1 day'),
        ('slipped in, revoked', 'revoked', '["credentials"]', NULL, NULL)
    ) g (name, status, resources, approved_by, expires_at)
"""


def test_a_live_grant_with_a_sensitive_resource_that_nobody_approved_ends(postgres_server: PostgresServer) -> None:
    """What only a broken service can have left behind answers nothing once the ledger stands where approvals are held; it can be
    marked as over, and nothing else becomes of it. All others are as they were."""
    with standing_at(postgres_server, "0004", BEFORE_APPROVALS) as database:
        listing = "SELECT created_by, expires_at FROM federation.federation_grants"
        with database.connect() as owner, database.connect("mosaic_grants") as grants:
            before = dict(owner.execute(listing).fetchall())
            upgrade(database.url(OWNER))
            after = dict(owner.execute(listing).fetchall())
            ended = {name for name, expires_at in after.items() if expires_at != before[name]}
            assert ended == {"slipped in", "slipped in, for a day", "slipped in, not redeemed"}
            now = owner.execute("SELECT now()").fetchone()
            assert all((after[name],) <= (now or ()) for name in ended)
            with pytest.raises(psycopg.errors.CheckViolation):
                grants.execute("UPDATE federation.federation_grants SET expires_at = NULL WHERE created_by = 'slipped in'")
            over = "UPDATE federation.federation_grants SET status = 'expired' WHERE expires_at <= now()"
            assert grants.execute(over).rowcount == len(ended) + 1
