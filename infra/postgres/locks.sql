-- Who may take advisory locks, completely. PostgreSQL lets everybody take all of them, and their keys stand in our source: a broken edge
-- that held one would stop grants, and every upgrade.
--
-- Applied by a superuser in the database itself (`python -m mosaic_grants db bootstrap`), after a REVOKE of every kind from everybody. Of
-- a database that belongs to somebody else nothing is taken: bootstrap prints these lines and the REVOKE.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO mosaic_owner;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) TO mosaic_owner;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_advisory_xact_lock(bigint) TO mosaic_grants;
