"""Every way in which a grant, its certificate, its peer or its subject is not live, and what the database answers to each."""

from collections.abc import Callable
from typing import Final
from uuid import uuid4

import pytest

from tests.support.rows import Rows, WrittenGrant

Change = Callable[[Rows, WrittenGrant], WrittenGrant]
"""Changes the ledger; returns what is then asked with."""


def sql(statement: str) -> Change:
    """A change of the ledger; %(grant)s, %(peer)s, %(subject)s are the grant's."""

    def change(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
        rows.owner.execute(statement, {"grant": grant.id, "peer": grant.peer_id, "subject": grant.subject})
        return grant

    return change


def in_turn(*changes: Change) -> Change:
    def change(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
        for each in changes:
            grant = each(rows, grant)
        return grant

    return change


def other_grant_id(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
    return WrittenGrant(uuid4(), grant.fingerprint, grant.peer_id, grant.subject)


def never_pinned(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
    return WrittenGrant(grant.id, bytes(32), grant.peer_id, grant.subject)


def pinned_for_another_grant(rows: Rows, grant: WrittenGrant) -> WrittenGrant:
    return WrittenGrant(grant.id, rows.grant(grant.subject).fingerprint, grant.peer_id, grant.subject)


pending = sql("UPDATE federation.federation_grants SET status = 'pending' WHERE id = %(grant)s")
revoked = sql("UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %(grant)s")
expired = sql("UPDATE federation.federation_grants SET status = 'expired' WHERE id = %(grant)s")
past_its_end = sql("UPDATE federation.federation_grants SET expires_at = now() WHERE id = %(grant)s")
peer_suspended = sql("UPDATE federation.federation_peers SET state = 'suspended' WHERE id = %(peer)s")
peer_pending = sql("UPDATE federation.federation_peers SET state = 'pending' WHERE id = %(peer)s")
peer_revoked = sql("UPDATE federation.federation_peers SET state = 'revoked', revoked_at = now() WHERE id = %(peer)s")
certificate_revoked = sql(
    "UPDATE federation.federation_certificates SET state = 'revoked', revoked_at = now() WHERE grant_id = %(grant)s"
)
certificate_expired = sql("UPDATE federation.federation_certificates SET not_after = now() WHERE grant_id = %(grant)s")
user_disabled = sql("UPDATE public.users SET active = false WHERE id = %(subject)s")
user_gone = sql("DELETE FROM public.users WHERE id = %(subject)s")


def superseded(hours: float) -> Change:
    return sql(
        "UPDATE federation.federation_certificates SET state = 'superseded',"
        f" superseded_at = now() - interval '{hours} hours' WHERE grant_id = %(grant)s"
    )


def scope(document: str) -> Change:
    return sql(f"UPDATE federation.federation_grants SET scope = '{document}' WHERE id = %(grant)s")


REFUSED: Final = [
    pytest.param(other_grant_id, "MF001", id="grant unknown"),
    pytest.param(pending, "MF001", id="grant pending"),
    pytest.param(in_turn(pending, never_pinned), "MF001", id="pending is said before anything about the certificate"),
    pytest.param(never_pinned, "MF002", id="certificate never pinned"),
    pytest.param(pinned_for_another_grant, "MF002", id="certificate of another grant"),
    pytest.param(in_turn(revoked, never_pinned), "MF002", id="a stranger does not learn that the grant was revoked"),
    pytest.param(revoked, "MF003", id="grant revoked"),
    pytest.param(expired, "MF004", id="grant expired"),
    pytest.param(past_its_end, "MF004", id="grant past its end by the database's clock, nobody has marked it yet"),
    pytest.param(in_turn(revoked, peer_suspended), "MF003", id="the grant's end is said before the peer's state"),
    pytest.param(peer_pending, "MF005", id="peer pending"),
    pytest.param(peer_suspended, "MF005", id="peer suspended"),
    pytest.param(peer_revoked, "MF005", id="peer revoked"),
    pytest.param(in_turn(peer_suspended, certificate_revoked), "MF005", id="the peer's state is said before the certificate's"),
    pytest.param(certificate_revoked, "MF006", id="certificate revoked"),
    pytest.param(superseded(24.01), "MF006", id="certificate superseded more than a day ago"),
    pytest.param(certificate_expired, "MF007", id="certificate expired on an open connection"),
    pytest.param(in_turn(certificate_expired, user_disabled), "MF007", id="the certificate is judged before the user"),
    pytest.param(user_disabled, "MF008", id="subject user disabled"),
    pytest.param(user_gone, "MF008", id="subject user gone"),
]
OUT_OF_SCOPE: Final = [
    pytest.param(scope('{"resources": ["notes"], "max_rows_per_query": 5}'), id="not in scope"),
    pytest.param(scope('{"resources": ["tasks"], "excluded_resources": ["tasks"], "max_rows_per_query": 5}'), id="excluded"),
    pytest.param(
        scope('{"resources": ["tasks"], "filters": {"tasks": null}, "max_rows_per_query": 5}'), id="a filter that is none"
    ),
]
