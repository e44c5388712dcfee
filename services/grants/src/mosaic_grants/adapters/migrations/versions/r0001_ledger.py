"""Peers, grants, certificates, enrollment tokens, what is owed to the CA."""

from typing import Final

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})


_STATEMENTS: Final = """
CREATE TABLE federation.federation_peers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    common_name text NOT NULL CHECK (common_name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    display_name text NOT NULL DEFAULT '',
    direction text NOT NULL CHECK (direction IN ('inbound', 'outbound')),
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'active', 'suspended', 'revoked')),
    endpoint_url text,
    trust_bundle_pem text,
    local_user_id uuid,
    remote_gateway text,
    remote_grant_id uuid,
    remote_subject_user_id uuid,
    enrollment_url text,
    redemption_id uuid,
    last_seen_at timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    CONSTRAINT an_outbound_peer_belongs_to_one_user CHECK ((direction = 'outbound') = (local_user_id IS NOT NULL)),
    CONSTRAINT an_active_connection_knows_where_and_what CHECK (
        direction = 'inbound' OR state IN ('pending', 'revoked')
        OR num_nulls(endpoint_url, remote_gateway, remote_grant_id, remote_subject_user_id) = 0
    ),
    CONSTRAINT a_revoked_peer_has_its_time CHECK ((state = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE UNIQUE INDEX federation_peers_inbound_common_name
    ON federation.federation_peers (common_name) WHERE direction = 'inbound';
CREATE UNIQUE INDEX federation_peers_outbound_name
    ON federation.federation_peers (local_user_id, name) WHERE direction = 'outbound';
CREATE INDEX federation_peers_newest ON federation.federation_peers (created_at DESC, id);

CREATE TABLE federation.federation_peer_keys (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    peer_id uuid NOT NULL REFERENCES federation.federation_peers,
    client_key_pem text NOT NULL,
    csr_der bytea NOT NULL,
    cert_pem text,
    chain_pem text,
    serial numeric(39) CHECK (serial > 0 AND serial < 340282366920938463463374607431768211456),
    fingerprint_sha256 bytea CHECK (octet_length(fingerprint_sha256) = 32),
    not_before timestamptz,
    not_after timestamptz,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'active', 'superseded')),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sealed_never_plain CHECK (client_key_pem NOT LIKE '%PRIVATE KEY%'),
    CONSTRAINT an_active_key_has_its_certificate CHECK (
        state = 'pending' OR num_nulls(cert_pem, serial, fingerprint_sha256, not_before, not_after) = 0
    )
);
CREATE UNIQUE INDEX federation_peer_keys_one_active ON federation.federation_peer_keys (peer_id) WHERE state = 'active';
CREATE INDEX federation_peer_keys_peer ON federation.federation_peer_keys (peer_id);

-- The subject is no foreign key: users belong to the application. That they exist is checked at create and in every read.
CREATE TABLE federation.federation_grants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    subject_user_id uuid NOT NULL,
    peer_id uuid NOT NULL REFERENCES federation.federation_peers,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'active', 'revoked', 'expired')),
    scope jsonb NOT NULL,
    rate_per_second integer CHECK (rate_per_second > 0),
    rate_burst integer CHECK (rate_burst > 0),
    created_by text NOT NULL,
    approved_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    activated_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    revoked_reason text,
    -- The read functions trust these three. IS TRUE: a CHECK that is null passes, and a missing cap would be no cap.
    CONSTRAINT a_scope_lists_resources CHECK ((jsonb_typeof(scope -> 'resources') = 'array') IS TRUE),
    CONSTRAINT a_scope_has_a_cap CHECK (
        (jsonb_typeof(scope -> 'max_rows_per_query') = 'number'
        AND (scope ->> 'max_rows_per_query')::numeric BETWEEN 1 AND 10000) IS TRUE
    ),
    CONSTRAINT filters_are_an_object CHECK (NOT scope ? 'filters' OR (jsonb_typeof(scope -> 'filters') = 'object') IS TRUE),
    CONSTRAINT an_active_grant_was_activated CHECK (status <> 'active' OR activated_at IS NOT NULL),
    CONSTRAINT a_revoked_grant_has_its_time CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE INDEX federation_grants_peer ON federation.federation_grants (peer_id);
CREATE INDEX federation_grants_newest ON federation.federation_grants (created_at DESC, id);
CREATE INDEX federation_grants_expiring ON federation.federation_grants (expires_at) WHERE status IN ('pending', 'active');

CREATE TABLE federation.federation_certificates (
    fingerprint_sha256 bytea PRIMARY KEY CHECK (octet_length(fingerprint_sha256) = 32),
    grant_id uuid NOT NULL REFERENCES federation.federation_grants,
    serial numeric(39) NOT NULL UNIQUE CHECK (serial > 0 AND serial < 340282366920938463463374607431768211456),
    der bytea NOT NULL,
    chain_pem text NOT NULL,
    spki_sha256 bytea NOT NULL CHECK (octet_length(spki_sha256) = 32),
    not_before timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'superseded', 'revoked')),
    superseded_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT a_superseded_certificate_has_its_time CHECK (state <> 'superseded' OR superseded_at IS NOT NULL),
    CONSTRAINT a_revoked_certificate_has_its_time CHECK ((state = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE UNIQUE INDEX federation_certificates_one_active ON federation.federation_certificates (grant_id) WHERE state = 'active';
CREATE INDEX federation_certificates_grant ON federation.federation_certificates (grant_id);

-- token_id is the SHA-256 of the token's public key: the token itself is nowhere.
CREATE TABLE federation.federation_enrollment_tokens (
    token_id bytea PRIMARY KEY CHECK (octet_length(token_id) = 32),
    grant_id uuid NOT NULL REFERENCES federation.federation_grants,
    peer_id uuid NOT NULL REFERENCES federation.federation_peers,
    reenroll boolean NOT NULL DEFAULT false,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    voided_at timestamptz,
    redemption_id uuid,
    csr_sha256 bytea CHECK (octet_length(csr_sha256) = 32),
    spki_sha256 bytea CHECK (octet_length(spki_sha256) = 32),
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    serial numeric(39) CHECK (serial > 0 AND serial < 340282366920938463463374607431768211456),
    lease_until timestamptz,
    fingerprint_sha256 bytea REFERENCES federation.federation_certificates,
    CONSTRAINT a_token_lives_at_most_fifteen_minutes CHECK (expires_at <= created_at + interval '900 seconds'),
    CONSTRAINT a_claim_is_whole CHECK (num_nulls(redemption_id, csr_sha256, spki_sha256, serial) IN (0, 4)),
    CONSTRAINT only_what_was_claimed_completes CHECK (fingerprint_sha256 IS NULL OR redemption_id IS NOT NULL)
);
CREATE INDEX federation_enrollment_tokens_grant ON federation.federation_enrollment_tokens (grant_id);
-- Two operators who ask at once must not leave two tokens that can both be redeemed.
CREATE UNIQUE INDEX federation_enrollment_tokens_one_open
    ON federation.federation_enrollment_tokens (grant_id) WHERE voided_at IS NULL AND fingerprint_sha256 IS NULL;

-- Revocations that the CA has still to hear of, written in the transaction that decided them. It may never have signed the serial.
CREATE TABLE federation.federation_ca_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    serial numeric(39) NOT NULL UNIQUE CHECK (serial > 0 AND serial < 340282366920938463463374607431768211456),
    grant_id uuid NOT NULL REFERENCES federation.federation_grants,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    last_error text,
    done_at timestamptz
);
CREATE INDEX federation_ca_outbox_due ON federation.federation_ca_outbox (next_attempt_at) WHERE done_at IS NULL;
"""
