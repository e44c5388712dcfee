"""The audit log, its chains and their countersigned heads."""

from typing import Final

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})


_STATEMENTS: Final = """
-- One chain per writer process. The number has no gaps, so that a chain cannot be dropped unnoticed.
CREATE TABLE federation.federation_audit_chains (
    chain_id bytea PRIMARY KEY CHECK (octet_length(chain_id) = 16),
    chain_number bigint NOT NULL UNIQUE CHECK (chain_number > 0),
    writer text NOT NULL CHECK (writer IN ('grants', 'edge-inbound', 'edge-outbound')),
    opened_at_us bigint NOT NULL,
    opening_hash bytea NOT NULL CHECK (octet_length(opening_hash) = 32),
    opening_signature bytea NOT NULL CHECK (octet_length(opening_signature) = 64),
    head_seq bigint NOT NULL DEFAULT 0 CHECK (head_seq >= 0),
    head_hash bytea NOT NULL CHECK (octet_length(head_hash) = 32),
    closed_at_us bigint
);

-- Short printable words, so that no row's content, no query and no terminal escape can be smuggled into the record.
CREATE DOMAIN federation.audit_word AS text CHECK (VALUE ~ '^[ -~]{0,64}$');

-- Columns in the order in which a row is hashed (mosaic_common.audit). Time is int64 microseconds since 1970 UTC, stored as hashed.
-- chain_id is no foreign key: only append_audit writes here, and it has locked the chain.
CREATE TABLE federation.federation_audit_log (
    request_id uuid NOT NULL,
    time_us bigint NOT NULL,
    event federation.audit_word NOT NULL,
    actor federation.audit_word NOT NULL,
    source_address federation.audit_word NOT NULL,
    peer_id uuid,
    grant_id uuid,
    subject_user_id uuid,
    token_id bytea CHECK (octet_length(token_id) = 32),
    verb federation.audit_word,
    resource federation.audit_word NOT NULL,
    outcome federation.audit_word NOT NULL CHECK (outcome IN ('allowed', 'denied', 'error')),
    denied_layer federation.audit_word,
    denied_reason federation.audit_word,
    status_code integer NOT NULL,
    result_count bigint NOT NULL,
    bytes_out bigint NOT NULL,
    query_hash bytea CHECK (octet_length(query_hash) = 32),
    latency_us bigint NOT NULL,
    repeated bigint NOT NULL,
    chain_id bytea NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    prev_hash bytea NOT NULL CHECK (octet_length(prev_hash) = 32),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (chain_id, seq, time_us)
) PARTITION BY RANGE (time_us);
CREATE INDEX federation_audit_log_newest ON federation.federation_audit_log (time_us DESC);
CREATE INDEX federation_audit_log_peer ON federation.federation_audit_log (peer_id, time_us DESC);
CREATE INDEX federation_audit_log_grant ON federation.federation_audit_log (grant_id, time_us DESC);
CREATE INDEX federation_audit_log_subject ON federation.federation_audit_log (subject_user_id, time_us DESC);
-- Whatever no month holds: a clock that is behind or a forgotten upgrade must not stop the record, and with it every answer.
CREATE TABLE federation.federation_audit_log_default PARTITION OF federation.federation_audit_log DEFAULT;

-- Heads that the audit key has countersigned; rows after a chain's last one are unsealed.
CREATE TABLE federation.federation_audit_heads (
    chain_id bytea NOT NULL REFERENCES federation.federation_audit_chains,
    chain_number bigint NOT NULL,
    seq bigint NOT NULL CHECK (seq >= 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    time_us bigint NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    PRIMARY KEY (chain_id, seq)
);
"""
