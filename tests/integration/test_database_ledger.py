"""What the ledger's tables refuse, whatever a service does."""

import secrets
from typing import Final
from uuid import UUID

import psycopg
import pytest

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
