"""Which chains a round has to look at: not every one that was ever opened."""

from typing import Final

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(_STATEMENTS, execution_options={"no_parameters": True})


_STATEMENTS: Final = """
-- True where rows may be that no round has covered; at first everywhere, and the next round looks: what is empty now may get its
-- first row from a process of the release before, which waits for this very table. No index on head_seq itself: that changes with
-- every commit, and each would leave entries in every index; this changes when a chain wakes up or falls asleep.
ALTER TABLE federation.federation_audit_chains ADD COLUMN moved boolean NOT NULL DEFAULT false;
UPDATE federation.federation_audit_chains SET moved = true;
CREATE INDEX federation_audit_chains_moved ON federation.federation_audit_chains (chain_id) WHERE moved;
"""
