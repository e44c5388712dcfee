-- Who may do what, completely: what no GRANT below allows is refused, and a test tries all of it.
--
-- Applied by `db upgrade` as mosaic_owner, again each time; the REVOKEs come first, so that the result is always exactly this file.
-- One statement per line, `GRANT … ON <TABLE|FUNCTION|SCHEMA> … TO <role>;`: upgrade, the check at start and the tests parse it.
-- Lines on schema public concern the application's tables. Where those belong to somebody else, upgrade changes nothing there and
-- prints the lines that their owner has still to run.

-- Nothing by default, for functions to come too. (A default of PUBLIC can only be revoked globally, not IN SCHEMA.)
ALTER DEFAULT PRIVILEGES FOR ROLE mosaic_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE mosaic_read_definer REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE mosaic_audit_definer REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE ALL ON SCHEMA federation FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON ALL TABLES IN SCHEMA federation FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA federation FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA federation FROM PUBLIC, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.users FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.teams FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.team_members FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.tasks FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.notes FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.memory FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.credentials FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;
REVOKE ALL ON TABLE public.api_keys FROM PUBLIC, mosaic_read_definer, mosaic_audit_definer, mosaic_grants, mosaic_edge_inbound, mosaic_edge_outbound;

-- mosaic_edge_inbound: what a peer's call needs, and no table.
GRANT USAGE ON SCHEMA federation TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.schema_version() TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.capabilities(uuid, bytea) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.list_tasks(uuid, bytea, integer, bigint, uuid, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.list_notes(uuid, bytea, integer, bigint, uuid, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.list_memory(uuid, bytea, integer, bigint, uuid, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.list_credentials(uuid, bytea, integer, bigint, uuid, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.list_api_keys(uuid, bytea, integer, bigint, uuid, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.get_tasks(uuid, bytea, uuid) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.get_notes(uuid, bytea, uuid) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.get_memory(uuid, bytea, uuid) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.get_credentials(uuid, bytea, uuid) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.get_api_keys(uuid, bytea, uuid) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.search_tasks(uuid, bytea, text, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.search_notes(uuid, bytea, text, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.search_memory(uuid, bytea, text, real[], integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.search_credentials(uuid, bytea, text, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.search_api_keys(uuid, bytea, text, integer) TO mosaic_edge_inbound;
GRANT EXECUTE ON FUNCTION federation.append_audit(bytea, bigint, bytea, federation.audit_entry[]) TO mosaic_edge_inbound;

-- mosaic_edge_outbound: what a local user's query needs, and no table.
GRANT USAGE ON SCHEMA federation TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.schema_version() TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_list_tasks(uuid, integer, bigint, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_list_notes(uuid, integer, bigint, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_list_memory(uuid, integer, bigint, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_list_credentials(uuid, integer, bigint, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_list_api_keys(uuid, integer, bigint, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_get_tasks(uuid, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_get_notes(uuid, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_get_memory(uuid, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_get_credentials(uuid, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_get_api_keys(uuid, uuid) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_search_tasks(uuid, text, integer) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_search_notes(uuid, text, integer) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_search_memory(uuid, text, real[], integer) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_search_credentials(uuid, text, integer) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.local_search_api_keys(uuid, text, integer) TO mosaic_edge_outbound;
GRANT EXECUTE ON FUNCTION federation.append_audit(bytea, bigint, bytea, federation.audit_entry[]) TO mosaic_edge_outbound;

-- mosaic_grants: the ledger. Who a grant is for, and what it shows, is written once; what was active is kept, by triggers.
GRANT USAGE ON SCHEMA federation TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.schema_version() TO mosaic_grants;
-- How much a scope shows, and whether one row: for preview and explain, which show no row.
GRANT EXECUTE ON FUNCTION federation.count_tasks(uuid, jsonb, jsonb) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.count_notes(uuid, jsonb, jsonb) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.count_memory(uuid, jsonb, jsonb) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.count_credentials(uuid, jsonb, jsonb) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.count_api_keys(uuid, jsonb, jsonb) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.locate_tasks(uuid, jsonb, uuid) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.locate_notes(uuid, jsonb, uuid) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.locate_memory(uuid, jsonb, uuid) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.locate_credentials(uuid, jsonb, uuid) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.locate_api_keys(uuid, jsonb, uuid) TO mosaic_grants;
GRANT EXECUTE ON FUNCTION federation.append_audit(bytea, bigint, bytea, federation.audit_entry[]) TO mosaic_grants;
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE federation.federation_peers TO mosaic_grants;
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE federation.federation_peer_keys TO mosaic_grants;
GRANT SELECT, INSERT, DELETE ON TABLE federation.federation_grants TO mosaic_grants;
GRANT UPDATE (status, activated_at, expires_at, revoked_at, revoked_reason, rate_per_second, rate_burst) ON TABLE federation.federation_grants TO mosaic_grants;
GRANT SELECT, INSERT ON TABLE federation.federation_certificates TO mosaic_grants;
GRANT UPDATE (state, superseded_at, revoked_at) ON TABLE federation.federation_certificates TO mosaic_grants;
GRANT SELECT, INSERT, DELETE ON TABLE federation.federation_enrollment_tokens TO mosaic_grants;
GRANT UPDATE (voided_at, redemption_id, csr_sha256, spki_sha256, attempt, serial, lease_until, unfinished_at, fingerprint_sha256) ON TABLE federation.federation_enrollment_tokens TO mosaic_grants;
GRANT SELECT, INSERT, UPDATE ON TABLE federation.federation_ca_outbox TO mosaic_grants;
GRANT SELECT, INSERT, UPDATE ON TABLE federation.federation_revocation_list TO mosaic_grants;
GRANT SELECT, INSERT ON TABLE federation.federation_foreign_revocations TO mosaic_grants;
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE federation.federation_replicas TO mosaic_grants;
GRANT SELECT ON TABLE federation.federation_audit_log TO mosaic_grants;
GRANT SELECT, INSERT ON TABLE federation.federation_audit_chains TO mosaic_grants;
GRANT UPDATE (closed_at_us, moved) ON TABLE federation.federation_audit_chains TO mosaic_grants;
GRANT SELECT, INSERT ON TABLE federation.federation_audit_heads TO mosaic_grants;
GRANT SELECT, INSERT ON TABLE federation.federation_audit_grant_heads TO mosaic_grants;
GRANT UPDATE (rows, hash, time_us, signature) ON TABLE federation.federation_audit_grant_heads TO mosaic_grants;
GRANT SELECT, INSERT ON TABLE federation.federation_audit_month_ends TO mosaic_grants;
GRANT SELECT, INSERT, DELETE ON TABLE federation.federation_received_grant_heads TO mosaic_grants;
GRANT USAGE ON SCHEMA public TO mosaic_grants;
GRANT SELECT (id, email, name, active) ON TABLE public.users TO mosaic_grants;
GRANT SELECT (id, name) ON TABLE public.teams TO mosaic_grants;
GRANT SELECT (user_id, team_id) ON TABLE public.team_members TO mosaic_grants;

-- mosaic_audit_definer: append_audit runs as it. Rows are added and heads moved; nothing is changed or removed.
GRANT USAGE ON SCHEMA federation TO mosaic_audit_definer;
GRANT SELECT, INSERT ON TABLE federation.federation_audit_log TO mosaic_audit_definer;
GRANT SELECT ON TABLE federation.federation_audit_chains TO mosaic_audit_definer;
GRANT UPDATE (head_seq, head_hash, head_time_us, moved) ON TABLE federation.federation_audit_chains TO mosaic_audit_definer;

-- mosaic_read_definer: the read functions run as it. Every column that visibility, order and answers need; never a secret.
GRANT USAGE ON SCHEMA federation TO mosaic_read_definer;
GRANT SELECT (version_num) ON TABLE federation.alembic_version TO mosaic_read_definer;
GRANT SELECT (id, status, subject_user_id, peer_id, scope, expires_at) ON TABLE federation.federation_grants TO mosaic_read_definer;
GRANT SELECT (id, state) ON TABLE federation.federation_peers TO mosaic_read_definer;
GRANT SELECT (fingerprint_sha256, grant_id, state, superseded_at, not_after) ON TABLE federation.federation_certificates TO mosaic_read_definer;
GRANT USAGE ON SCHEMA public TO mosaic_read_definer;
GRANT SELECT (id, active) ON TABLE public.users TO mosaic_read_definer;
GRANT SELECT (user_id, team_id) ON TABLE public.team_members TO mosaic_read_definer;
GRANT SELECT (id, owner_id, team_id, updated_at, title, description, status, due_at) ON TABLE public.tasks TO mosaic_read_definer;
GRANT SELECT (id, owner_id, team_id, updated_at, title, body) ON TABLE public.notes TO mosaic_read_definer;
GRANT SELECT (id, owner_id, team_id, updated_at, kind, content, embedding) ON TABLE public.memory TO mosaic_read_definer;
GRANT SELECT (id, owner_id, team_id, updated_at, label, provider, created_at, expires_at) ON TABLE public.credentials TO mosaic_read_definer;
GRANT SELECT (id, owner_id, team_id, updated_at, label, provider, created_at, last_used_at) ON TABLE public.api_keys TO mosaic_read_definer;
