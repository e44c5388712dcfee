"""Rounds of countersignatures, what they say of each grant, where chains stood when a month ended, and what other gateways told."""

from typing import Final

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})


_STATEMENTS: Final = """
-- Time never goes back within a chain. Null before the first row.
ALTER TABLE federation.federation_audit_chains ADD COLUMN head_time_us bigint;
UPDATE federation.federation_audit_chains c SET head_time_us =
    (SELECT max(l.time_us) FROM federation.federation_audit_log l WHERE l.chain_id = c.chain_id);

CREATE INDEX federation_audit_log_request ON federation.federation_audit_log (request_id);
CREATE INDEX federation_audit_log_refused ON federation.federation_audit_log (time_us DESC) WHERE outcome <> 'allowed';
-- The latest round: the next one is later.
CREATE INDEX federation_audit_heads_time ON federation.federation_audit_heads (time_us);

-- How each grant's record stood after the last round that found rows of it dated in a month. The newest has the most rows; an older
-- month's is where the history begins once that month's rows are dropped.
CREATE TABLE federation.federation_audit_grant_heads (
    grant_id uuid NOT NULL,
    month date NOT NULL,
    rows bigint NOT NULL CHECK (rows > 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    time_us bigint NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    PRIMARY KEY (grant_id, month)
) WITH (fillfactor = 70);

-- A chain's last row in a month that has ended. A row that came late is followed by another end: the highest seq counts.
CREATE TABLE federation.federation_audit_month_ends (
    chain_id bytea NOT NULL REFERENCES federation.federation_audit_chains,
    ends_us bigint NOT NULL,
    chain_number bigint NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    time_us bigint NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    PRIMARY KEY (chain_id, ends_us, seq)
);

-- What other gateways said of their record of our connections' grants: the last ones, and what contradicts them.
CREATE TABLE federation.federation_received_grant_heads (
    peer_id uuid NOT NULL,
    grant_id uuid NOT NULL,
    rows bigint NOT NULL,
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    time_us bigint NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    received_at_us bigint NOT NULL,
    contradicts boolean NOT NULL,
    PRIMARY KEY (peer_id, rows, time_us, hash)
);
"""
