-- Who exists, and within which bounds. Run by a superuser (`python -m mosaic_grants db bootstrap`); applying it again converges.
--
-- No password stands here: bootstrap sets them as SCRAM verifiers, so that no statement and no server log ever carries one.
-- Connection limits count all replicas together; raise them with the number of replicas.

DO $$
DECLARE
    wanted name;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[
        'mosaic_owner', 'mosaic_read_definer', 'mosaic_audit_definer', 'mosaic_grants', 'mosaic_edge_inbound', 'mosaic_edge_outbound'
    ]::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I', wanted);
        END IF;
    END LOOP;
END $$;

ALTER ROLE mosaic_owner         LOGIN   INHERIT   NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 10;
ALTER ROLE mosaic_read_definer  NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 0;
ALTER ROLE mosaic_audit_definer NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 0;
ALTER ROLE mosaic_grants        LOGIN   NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 40;
ALTER ROLE mosaic_edge_inbound  LOGIN   NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 60;
ALTER ROLE mosaic_edge_outbound LOGIN   NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 40;

-- Members of nothing, whatever somebody granted meanwhile.
DO $$
DECLARE
    membership record;
BEGIN
    FOR membership IN
        SELECT granted.rolname AS granted, member.rolname AS member, grantor.rolname AS grantor
        FROM pg_catalog.pg_auth_members m
        JOIN pg_catalog.pg_roles granted ON granted.oid = m.roleid
        JOIN pg_catalog.pg_roles member ON member.oid = m.member
        JOIN pg_catalog.pg_roles grantor ON grantor.oid = m.grantor
        WHERE member.rolname IN (
            'mosaic_read_definer', 'mosaic_audit_definer', 'mosaic_grants', 'mosaic_edge_inbound', 'mosaic_edge_outbound'
        )
    LOOP
        EXECUTE pg_catalog.format('REVOKE %I FROM %I GRANTED BY %I', membership.granted, membership.member, membership.grantor);
    END LOOP;
END $$;

-- The owner renders the functions and hands them to their definers.
GRANT mosaic_read_definer, mosaic_audit_definer TO mosaic_owner;

-- A role may change its own defaults; what a broken service left there goes.
ALTER ROLE mosaic_owner RESET ALL;
ALTER ROLE mosaic_grants RESET ALL;
ALTER ROLE mosaic_edge_inbound RESET ALL;
ALTER ROLE mosaic_edge_outbound RESET ALL;

-- An upgrade that waits for a lock makes everybody behind it wait: it gives up instead and is run again.
ALTER ROLE mosaic_owner SET lock_timeout = '10s';
ALTER ROLE mosaic_owner SET idle_in_transaction_session_timeout = '5min';

ALTER ROLE mosaic_grants SET statement_timeout = '5s';
ALTER ROLE mosaic_grants SET lock_timeout = '2s';
ALTER ROLE mosaic_grants SET idle_in_transaction_session_timeout = '10s';

-- jit: the planner knows no row count under a generic plan, and compiling what runs for 0.3 ms takes 50.
ALTER ROLE mosaic_edge_inbound SET statement_timeout = '2s';
ALTER ROLE mosaic_edge_inbound SET lock_timeout = '1s';
ALTER ROLE mosaic_edge_inbound SET idle_in_transaction_session_timeout = '5s';
ALTER ROLE mosaic_edge_inbound SET jit = off;

ALTER ROLE mosaic_edge_outbound SET statement_timeout = '2s';
ALTER ROLE mosaic_edge_outbound SET lock_timeout = '1s';
ALTER ROLE mosaic_edge_outbound SET idle_in_transaction_session_timeout = '5s';
ALTER ROLE mosaic_edge_outbound SET jit = off;
