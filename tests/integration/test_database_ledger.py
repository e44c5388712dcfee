"""What the ledger's tables refuse, whatever a service does."""

import json
import secrets
from typing import Final
from uuid import UUID

import psycopg
import pytest
from mosaic_common.resources import SENSITIVE

from tests.support.postgres import Database
from tests.support.rows import Rows, WrittenGrant

NEW_TOKEN: Final = """
    INSERT INTO federation.federation_enrollment_tokens (token_id, grant_id, peer_id, created_by, expires_at)
    VALUES (%s, %s, %s, 'otto', now() + interval '10 minutes')
"""


def new_token(connection: psycopg.Connection, grant: WrittenGrant) -> bytes:
    token_id = secrets.token_bytes(32)
    connection.execute(NEW_TOKEN, (token_id, grant.id, grant.peer_id))
    return token_id


def test_a_grant_has_one_token_that_can_be_redeemed(module_database: Database) -> None:
    """Two operators who ask for a token at once do not leave two; a voided one and a used one make room."""
    with module_database.connect() as owner, module_database.connect("mosaic_grants") as grants:
        rows = Rows(owner)
        grant, other = rows.grant(rows.user()), rows.grant(rows.user())
        first = new_token(grants, grant)
        new_token(grants, other)
        with pytest.raises(psycopg.errors.UniqueViolation) as refused:
            new_token(grants, grant)
        assert refused.value.diag.constraint_name == "federation_enrollment_tokens_one_open"

        grants.execute("UPDATE federation.federation_enrollment_tokens SET voided_at = now() WHERE token_id = %s", (first,))
        second = new_token(grants, grant)
        grants.execute(
            "UPDATE federation.federation_enrollment_tokens SET redemption_id = %s, csr_sha256 = %s, spki_sha256 = %s, serial = 7,"
            " fingerprint_sha256 = %s WHERE token_id = %s",
            (UUID(int=7), bytes(32), bytes(32), grant.fingerprint, second),
        )
        new_token(grants, grant)


NEW_GRANT: Final = """
    INSERT INTO federation.federation_grants (subject_user_id, peer_id, scope, created_by, approved_by)
    VALUES (%s, %s, %s, 'otto', %s)
"""


@pytest.mark.parametrize("resource", sorted(SENSITIVE))
def test_a_sensitive_resource_is_in_no_scope_that_nobody_approved(database: Database, resource: str) -> None:
    """Neither made by a grants service that forgot to ask, nor slipped into a scope; what has ended may be kept as it was."""
    scope = json.dumps({"resources": ["tasks", resource], "max_rows_per_query": 5})
    slipped_in = "UPDATE federation.federation_grants SET scope = %s WHERE id = %s"
    with database.connect() as owner, database.connect("mosaic_grants") as grants:
        rows = Rows(owner)
        user, peer = rows.user(), rows.peer()
        for nobody in (None, ""):
            with pytest.raises(psycopg.errors.CheckViolation) as refused:
                grants.execute(NEW_GRANT, (user, peer, scope, nobody))
            assert refused.value.diag.constraint_name == "sensitive_resources_are_approved"
        grants.execute(NEW_GRANT, (user, peer, scope, "olivia"))

        plain = rows.grant(user, {"resources": ["tasks"], "max_rows_per_query": 5})
        owner.execute("UPDATE federation.federation_grants SET approved_by = NULL WHERE id = %s", (plain.id,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            grants.execute(slipped_in, (scope, plain.id))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            grants.execute("UPDATE federation.federation_grants SET approved_by = 'olivia' WHERE id = %s", (plain.id,))
        with pytest.raises(psycopg.errors.CheckViolation):
            owner.execute(slipped_in, (scope, plain.id))
        owner.execute("UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %s", (plain.id,))
        owner.execute(slipped_in, (scope, plain.id))
