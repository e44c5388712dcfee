"""Rows come to append_audit typed, without what the chain knows already."""

from typing import Final

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})


_STATEMENTS: Final = """
-- A row of the audit log before it has its place in a chain: the columns in table order, and the hash that it will have there.
CREATE TYPE federation.audit_entry AS (
    request_id uuid,
    time_us bigint,
    event federation.audit_word,
    actor federation.audit_word,
    source_address federation.audit_word,
    peer_id uuid,
    grant_id uuid,
    subject_user_id uuid,
    token_id bytea,
    verb federation.audit_word,
    resource federation.audit_word,
    outcome federation.audit_word,
    denied_layer federation.audit_word,
    denied_reason federation.audit_word,
    status_code integer,
    result_count bigint,
    bytes_out bigint,
    query_hash bytea,
    latency_us bigint,
    repeated bigint,
    hash bytea
);
"""
