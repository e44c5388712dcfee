"""A live grant that names a sensitive resource says who approved it."""

from typing import Final

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})


_STATEMENTS: Final = """
-- No release made such a grant. One that is there all the same ends here: no read answers it from now on, and housekeeping marks
-- and records it like any other that has run out. Who needs it makes it anew, with --approve-sensitive.
UPDATE federation.federation_grants SET expires_at = now()
WHERE status IN ('pending', 'active') AND (expires_at IS NULL OR expires_at > now())
    AND coalesce(approved_by, '') = '' AND (scope -> 'resources') ?| ARRAY['credentials', 'api_keys'];

-- Held here, so that whatever a service believes no scope without an approval can be read, explained or previewed. NOT VALID: those
-- that ended above stand in the ledger until they are marked, and what has ended may say what it likes.
ALTER TABLE federation.federation_grants
    ADD CONSTRAINT sensitive_resources_are_approved CHECK (
        status IN ('revoked', 'expired')
        OR coalesce(approved_by, '') <> ''
        OR NOT (scope -> 'resources') ?| ARRAY['credentials', 'api_keys']
    ) NOT VALID;
"""
