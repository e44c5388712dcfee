"""Names that come free, keys that are made anew, revocations that outlive their grant, and what the authority published."""

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})


_STATEMENTS: Final = """
-- Whoever was evicted stays out by their certificate; their name may be given again.
DROP INDEX federation.federation_peers_inbound_common_name;
CREATE UNIQUE INDEX federation_peers_inbound_common_name
    ON federation.federation_peers (common_name) WHERE direction = 'inbound' AND state <> 'revoked';
DROP INDEX federation.federation_peers_outbound_name;
CREATE UNIQUE INDEX federation_peers_outbound_name
    ON federation.federation_peers (local_user_id, name) WHERE direction = 'outbound' AND state <> 'revoked';

-- activated_at: whether a peer ever was active, which suspended and revoked do not say.
-- refused_*: what the other gateway last answered on a connection; a reason and a word, never anything that it sent.
ALTER TABLE federation.federation_peers
    ADD COLUMN activated_at timestamptz,
    ADD COLUMN revoked_reason text,
    ADD COLUMN refused_at timestamptz,
    ADD COLUMN refused_reason text,
    ADD COLUMN refused_grant_status text CHECK (refused_grant_status IN ('revoked', 'expired')),
    ADD CONSTRAINT a_refusal_is_whole CHECK ((refused_at IS NULL) = (refused_reason IS NULL));
-- Whether a revoked one ever was, nobody wrote down: it is kept.
UPDATE federation.federation_peers SET activated_at = created_at WHERE state <> 'pending';
ALTER TABLE federation.federation_peers
    ADD CONSTRAINT an_active_peer_was_activated CHECK (state NOT IN ('active', 'suspended') OR activated_at IS NOT NULL);

-- A redemption belongs to a key: a connection whose key is lost makes another one.
ALTER TABLE federation.federation_peer_keys
    ADD COLUMN redemption_id uuid,
    ADD COLUMN token_id bytea CHECK (octet_length(token_id) = 32);
UPDATE federation.federation_peer_keys k
    SET redemption_id = coalesce(
        (SELECT p.redemption_id FROM federation.federation_peers p WHERE p.id = k.peer_id), gen_random_uuid()
    );
ALTER TABLE federation.federation_peer_keys ALTER COLUMN redemption_id SET NOT NULL;
ALTER TABLE federation.federation_peers DROP COLUMN redemption_id;
CREATE UNIQUE INDEX federation_peer_keys_one_pending ON federation.federation_peer_keys (peer_id) WHERE state = 'pending';

-- A claim that nobody finished is named once.
ALTER TABLE federation.federation_enrollment_tokens ADD COLUMN unfinished_at timestamptz;
CREATE INDEX federation_enrollment_tokens_unfinished
    ON federation.federation_enrollment_tokens (lease_until)
    WHERE fingerprint_sha256 IS NULL AND serial IS NOT NULL AND unfinished_at IS NULL;
CREATE INDEX federation_enrollment_tokens_newest ON federation.federation_enrollment_tokens (created_at DESC);

-- What is owed to the authority outlives the grant. done_at: seen on a list that it signed, not merely promised.
ALTER TABLE federation.federation_ca_outbox DROP CONSTRAINT federation_ca_outbox_grant_id_fkey;
CREATE INDEX federation_ca_outbox_grant ON federation.federation_ca_outbox (grant_id) WHERE done_at IS NULL;

-- Deleting is for what never became active; whatever a service believes, the ledger keeps the rest.
CREATE FUNCTION federation.keep_what_was_active() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a % that was active is kept, and so is when', TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER keep_grant BEFORE DELETE ON federation.federation_grants
    FOR EACH ROW WHEN (OLD.activated_at IS NOT NULL) EXECUTE FUNCTION federation.keep_what_was_active('grant');
CREATE TRIGGER keep_grant_activation BEFORE UPDATE OF activated_at ON federation.federation_grants
    FOR EACH ROW WHEN (OLD.activated_at IS NOT NULL AND NEW.activated_at IS DISTINCT FROM OLD.activated_at)
    EXECUTE FUNCTION federation.keep_what_was_active('grant');
CREATE TRIGGER keep_peer BEFORE DELETE ON federation.federation_peers
    FOR EACH ROW WHEN (OLD.activated_at IS NOT NULL) EXECUTE FUNCTION federation.keep_what_was_active('peer');
CREATE TRIGGER keep_peer_activation BEFORE UPDATE OF activated_at ON federation.federation_peers
    FOR EACH ROW WHEN (OLD.activated_at IS NOT NULL AND NEW.activated_at IS DISTINCT FROM OLD.activated_at)
    EXECUTE FUNCTION federation.keep_what_was_active('peer');

-- The newest revocation list that was verified: an older one is no longer believed. RFC 5280: a number has at most 20 octets.
CREATE TABLE federation.federation_revocation_list (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    number numeric(49) NOT NULL CHECK (number >= 0),
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    der bytea NOT NULL,
    fetched_at timestamptz NOT NULL DEFAULT now()
);

-- Serials on the list that nobody here ordered: each raises its alarm once.
CREATE TABLE federation.federation_foreign_revocations (
    serial numeric(49) PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);

-- Which secrets the replicas of grants can read, so that none is left behind by a rotation.
CREATE TABLE federation.federation_replicas (
    id uuid PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    current_key_id text NOT NULL,
    readable_key_ids text[] NOT NULL
);
"""
