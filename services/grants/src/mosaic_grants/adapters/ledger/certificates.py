"""Certificates that are pinned for a grant: nobody else is let in under it."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from mosaic_common.x509 import IssuedCertificate

from mosaic_grants.adapters.ledger.statements import Row, Statements, ders_of, pem_of
from mosaic_grants.domain.model import Certificate, Recorded

# Owed in the same statement that ends them: a certificate is never refused here and honoured by a reader of the list for longer.
_REVOKE: Final = """
    WITH ended AS (
        UPDATE federation.federation_certificates SET state = 'revoked', revoked_at = now()
        WHERE grant_id = :grant AND state <> 'revoked'
        RETURNING fingerprint_sha256, serial, grant_id, not_before, not_after, state, superseded_at, revoked_at
    ), owed AS (
        INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason)
        SELECT serial, grant_id, :why FROM ended WHERE not_after > now() ON CONFLICT (serial) DO NOTHING
    )
    SELECT * FROM ended
"""


class Certificates:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def pin(self, grant_id: UUID, issued: IssuedCertificate) -> None:
        await self._sql.execute(
            """INSERT INTO federation.federation_certificates
                   (fingerprint_sha256, grant_id, serial, der, chain_pem, spki_sha256, not_before, not_after)
               VALUES (:fingerprint, :grant, :serial, :der, :chain, :spki, :not_before, :not_after)""",
            fingerprint=issued.fingerprint,
            grant=grant_id,
            serial=issued.serial,
            der=issued.der,
            chain=pem_of(issued.chain_der),
            spki=issued.spki_sha256,
            not_before=issued.not_before,
            not_after=issued.not_after,
        )

    async def get_recorded(self, fingerprint: bytes) -> Recorded:
        row = await self._sql.one(
            """SELECT c.der, c.chain_pem, c.grant_id, g.subject_user_id FROM federation.federation_certificates c
               JOIN federation.federation_grants g ON g.id = c.grant_id WHERE c.fingerprint_sha256 = :fingerprint""",
            fingerprint=fingerprint,
        )
        return Recorded(bytes(row.der), ders_of(row.chain_pem), row.grant_id, row.subject_user_id)

    async def list_of(self, grant_id: UUID) -> list[Certificate]:
        rows = await self._sql.all(
            """SELECT fingerprint_sha256, serial, not_before, not_after, state, superseded_at, revoked_at
               FROM federation.federation_certificates WHERE grant_id = :grant ORDER BY not_before DESC, fingerprint_sha256""",
            grant=grant_id,
        )
        return [_certificate(row) for row in rows]

    async def revoke_all(self, grant_id: UUID, why: str) -> list[Certificate]:
        """Revoke every certificate of a grant, and owe the authority those that have not run out. Return those revoked now."""
        return [_certificate(row) for row in await self._sql.all(_REVOKE, grant=grant_id, why=why)]

    async def revoke_listed(self, serials: Sequence[int]) -> list[UUID]:
        """Revoke what the authority's list names and nobody here had ended. Return the grants concerned."""
        rows = await self._sql.all(
            """UPDATE federation.federation_certificates SET state = 'revoked', revoked_at = now()
               WHERE state <> 'revoked' AND serial = ANY(CAST(:serials AS numeric[])) RETURNING grant_id""",
            serials=list(serials),
        )
        return [row.grant_id for row in rows]


def _certificate(row: Row) -> Certificate:
    return Certificate(
        fingerprint=bytes(row.fingerprint_sha256),
        serial=int(row.serial),
        not_before=row.not_before,
        not_after=row.not_after,
        state=row.state,
        superseded_at=row.superseded_at,
        revoked_at=row.revoked_at,
    )
