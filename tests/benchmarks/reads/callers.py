"""The peers who ask: keys and certificates for the first grants of a dataset.

A hundred thousand enrollments are not what is measured. A dataset holds grants whose certificates nobody has a key for; for a few
of them a certificate is signed here, exactly as the CA signs one, and pinned in place of the one that was there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final
from uuid import UUID

from mosaic_common.keys import private_pem
from mosaic_common.x509 import make_csr

from tests.benchmarks.reads.dataset import USERS, id_of
from tests.support.authorities import LyingAuthority, new_key, to_pem
from tests.support.orders import SigningOrder
from tests.support.postgres import Database

CALLERS: Final = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """One peer."""

    grant: int
    chain_pem: bytes
    key_pem: bytes = field(repr=False)


def make_callers(authority: LyingAuthority) -> Sequence[Caller]:
    """The peers of the grants 0 to CALLERS - 1."""
    callers = []
    for grant in range(CALLERS):
        key = new_key()
        chain = sign_for(authority, grant, make_csr(key, common_name(grant)))
        callers.append(Caller(grant, b"".join(map(to_pem, chain)), private_pem(key)))
    return callers


def common_name(grant: int) -> str:
    return f"peer-{grant}"


def grant_id(grant: int) -> UUID:
    return id_of("grant", grant)


def subject_id(grant: int) -> UUID:
    return id_of("user", grant % USERS)


def sign_for(authority: LyingAuthority, grant: int, csr_der: bytes) -> list[bytes]:
    """Return the chain of a new certificate of this grant, DER, leaf first."""
    order = SigningOrder.make(
        csr_der=csr_der, common_name=common_name(grant), grant_id=grant_id(grant), subject_user_id=subject_id(grant)
    )
    return authority.sign(order.csr.public_key, order.warrant)


def pin(database: Database, grant: int, certificate_der: bytes) -> None:
    """Make this the one certificate of the grant."""
    with database.connect_superuser() as connection:
        connection.execute(_PIN, (sha256(certificate_der).digest(), certificate_der, grant_id(grant)))


_PIN: Final = """
    UPDATE federation.federation_certificates
    SET fingerprint_sha256 = %s, der = %s, not_before = now() - interval '1 minute', not_after = now() + interval '7 days'
    WHERE grant_id = %s
"""
