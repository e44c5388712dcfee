"""Thousands of grants that wait to be redeemed, each with its own peer and token, and the requests that redeem them."""

import hashlib
import json
import ssl
from collections.abc import Sequence
from uuid import uuid4

from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.tokens import EnrollmentToken, token_id
from mosaic_common.x509 import make_csr

from tests.support.authorities import new_key
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.rows import Rows

# What grants writes when an operator does it, in one statement for all: they are not what is measured.
_INSERT = """
    WITH wanted AS (
        SELECT * FROM unnest(%(names)s::text[], %(tokens)s::bytea[]) AS w (name, token)
    ), peers AS (
        INSERT INTO federation.federation_peers (name, common_name, direction, created_by)
        SELECT name, name, 'inbound', 'bench' FROM wanted RETURNING id, name
    ), grants AS (
        INSERT INTO federation.federation_grants (subject_user_id, peer_id, scope, created_by)
        SELECT %(subject)s, id, %(scope)s, 'bench' FROM peers RETURNING id, peer_id
    )
    INSERT INTO federation.federation_enrollment_tokens (token_id, grant_id, peer_id, created_by, expires_at)
    SELECT wanted.token, grants.id, grants.peer_id, 'bench', now() + interval '900 seconds'
    FROM wanted JOIN peers USING (name) JOIN grants ON grants.peer_id = peers.id
"""


def make_offers(gateway: Gateway, count: int) -> Sequence[bytes]:
    """Return one serialized EnrollRequest for each of as many new tokens."""
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(gateway.service_root.decode())).digest()
    offers = [(f"peer-{uuid4().hex}", EnrollmentToken.generate()) for _ in range(count)]
    with gateway.database.connect() as owner:
        values = {
            "names": [name for name, _ in offers],
            "tokens": [token_id(token.public_key) for _, token in offers],
            "subject": Rows(owner).user(),
            "scope": json.dumps(TASKS_NOTES_MEMORY),
        }
        owner.execute(_INSERT, values)
    return [_redemption(name, token, pin) for name, token in offers]


def _redemption(common_name: str, token: EnrollmentToken, pin: bytes) -> bytes:
    csr, redemption_id = make_csr(new_key(), common_name), uuid4()
    proof = token.prove(csr, redemption_id, pin)
    request = enrollment_pb2.EnrollRequest(
        token_public_key=token.public_key, csr_der=csr, redemption_id=str(redemption_id), proof=proof
    )
    return request.SerializeToString()
