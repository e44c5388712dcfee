"""Enrollment tokens: their names, their claims. The tokens themselves are nowhere."""

from typing import Final
from uuid import UUID

from mosaic_common.errors import Conflict, Layer, Reason

from mosaic_grants.adapters.ledger.grants import COLUMNS, grant_of
from mosaic_grants.adapters.ledger.statements import Row, Statements
from mosaic_grants.domain.model import Claim, Grant, Ticket, Token, TokenDraft, Unfinished

MAX_KNOWN: Final = 10_000

# What a voided token's attempt may have had signed is owed in the same statement.
_VOID: Final = """
    WITH voided AS (
        UPDATE federation.federation_enrollment_tokens SET voided_at = now()
        WHERE grant_id = :grant AND voided_at IS NULL AND fingerprint_sha256 IS NULL
        RETURNING serial, grant_id
    )
    INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason)
    SELECT serial, grant_id, :why FROM voided WHERE serial IS NOT NULL
    ON CONFLICT (serial) DO NOTHING
"""


_TICKET: Final = f"""
    SELECT {COLUMNS}, t.token_id, t.grant_id, t.peer_id AS token_peer_id, t.created_by AS token_created_by,
           t.created_at AS token_created_at, t.expires_at AS token_expires_at, t.voided_at, t.redemption_id, t.csr_sha256,
           t.spki_sha256, t.attempt, t.serial, t.lease_until, t.unfinished_at, t.fingerprint_sha256, t.reenroll
    FROM federation.federation_enrollment_tokens t
    JOIN federation.federation_grants g ON g.id = t.grant_id
    JOIN federation.federation_peers p ON p.id = g.peer_id
    LEFT JOIN public.users u ON u.id = g.subject_user_id
    WHERE t.token_id = :id
"""  # noqa: S608 - constants


class Tokens:
    def __init__(self, statements: Statements) -> None:
        self._sql = statements

    async def insert(self, draft: TokenDraft, token_id: bytes, *, actor: str) -> Token:
        """Register a token and void every older one of its grant.

        Raises:
            Conflict: another one was made at the same moment.
        """
        await self.void_open(draft.grant.id, "token replaced")
        row = await self._sql.first(
            """INSERT INTO federation.federation_enrollment_tokens (token_id, grant_id, peer_id, reenroll, created_by, expires_at)
               VALUES (:token_id, :grant, :peer, :reenroll, :actor, now() + CAST(:life AS interval))
               ON CONFLICT DO NOTHING RETURNING *""",
            token_id=token_id,
            grant=draft.grant.id,
            peer=draft.grant.peer_id,
            reenroll=draft.reenroll,
            actor=actor,
            life=draft.life,
        )
        if row is None:
            raise Conflict(
                Reason.GRANT_STATE_CHANGED,
                "Another token was made for this grant at the same moment.",
                layer=Layer.TOKEN,
                remedy="Make a new one: it voids the other.",
            )
        return _token(row)

    async def find_ticket(self, token_id: bytes, *, completing: bool = False) -> Ticket | None:
        """Return the token, locked, with its grant: claims of one token are decided one by one.

        Args:
            completing: locks peer and grant before it, so that no revocation comes in between.
        """
        # Rows are locked in the order in which the clauses name them.
        row = await self._sql.first(f"{_TICKET} {'FOR NO KEY UPDATE OF p, g' if completing else ''} FOR UPDATE OF t", id=token_id)
        return Ticket(_token(row, "token_"), grant_of(row)) if row else None

    async def find_grant(self, token_id: bytes) -> Grant | None:
        """Return the grant that a token is for, without holding up anybody who redeems it."""
        row = await self._sql.first(_TICKET, id=token_id)
        return grant_of(row) if row else None

    async def list_of(self, grant_id: UUID) -> list[Token]:
        rows = await self._sql.all(
            "SELECT * FROM federation.federation_enrollment_tokens WHERE grant_id = :grant ORDER BY created_at DESC", grant=grant_id
        )
        return [_token(row) for row in rows]

    async def list_known(self) -> list[bytes]:
        """Return the names of tokens that are worth a precise answer: those of the last day, the newest first."""
        rows = await self._sql.all(
            """SELECT token_id FROM federation.federation_enrollment_tokens
               WHERE created_at > now() - interval '1 day' ORDER BY created_at DESC LIMIT :limit""",
            limit=MAX_KNOWN,
        )
        return [bytes(row.token_id) for row in rows]

    async def void_open(self, grant_id: UUID, why: str) -> None:
        await self._sql.execute(_VOID, grant=grant_id, why=why)

    async def claim(self, claim: Claim) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_enrollment_tokens
               SET redemption_id = :redemption, csr_sha256 = :csr, spki_sha256 = :spki, attempt = attempt + 1, serial = :serial,
                   lease_until = :lease
               WHERE token_id = :id AND attempt = :previous AND fingerprint_sha256 IS NULL
                 AND voided_at IS NULL AND expires_at > now()
                 AND (redemption_id IS NULL OR (redemption_id = :redemption AND csr_sha256 = :csr AND lease_until <= now()))""",
            id=claim.token_id,
            previous=claim.previous_attempt,
            redemption=claim.redemption_id,
            csr=claim.csr_sha256,
            spki=claim.spki_sha256,
            serial=claim.serial,
            lease=claim.lease_until,
        )

    async def release(self, token_id: bytes, attempt: int) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_enrollment_tokens
               SET redemption_id = NULL, csr_sha256 = NULL, spki_sha256 = NULL, serial = NULL, lease_until = NULL
               WHERE token_id = :id AND attempt = :attempt AND redemption_id IS NOT NULL AND fingerprint_sha256 IS NULL""",
            id=token_id,
            attempt=attempt,
        )

    async def complete(self, token_id: bytes, attempt: int, fingerprint: bytes) -> bool:
        return await self._sql.changed(
            """UPDATE federation.federation_enrollment_tokens t SET fingerprint_sha256 = :fingerprint
               WHERE token_id = :id AND attempt = :attempt AND redemption_id IS NOT NULL AND fingerprint_sha256 IS NULL
                 AND voided_at IS NULL AND NOT EXISTS (SELECT FROM federation.federation_ca_outbox o WHERE o.serial = t.serial)""",
            id=token_id,
            attempt=attempt,
            fingerprint=fingerprint,
        )

    async def end_unfinished(self, *, limit: int) -> list[Unfinished]:
        """Owe the authority the serials of claims whose token and lease have run out; from then on they cannot complete.

        A token that is being completed at this moment is locked, and left to the next time. Return each claim once.
        """
        rows = await self._sql.all(
            """WITH ended AS (
                   SELECT token_id FROM federation.federation_enrollment_tokens
                   WHERE fingerprint_sha256 IS NULL AND serial IS NOT NULL AND unfinished_at IS NULL
                     AND lease_until <= now() AND (expires_at <= now() OR voided_at IS NOT NULL)
                   ORDER BY lease_until LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
               ), noticed AS (
                   UPDATE federation.federation_enrollment_tokens t SET unfinished_at = now() FROM ended
                   WHERE t.token_id = ended.token_id RETURNING t.token_id, t.grant_id, t.peer_id, t.attempt, t.serial
               ), owed AS (
                   INSERT INTO federation.federation_ca_outbox (serial, grant_id, reason)
                   SELECT serial, grant_id, 'attempt not completed' FROM noticed ON CONFLICT (serial) DO NOTHING
               )
               SELECT * FROM noticed""",
            limit=limit,
        )
        return [Unfinished(bytes(row.token_id), row.grant_id, row.peer_id, row.attempt, int(row.serial)) for row in rows]


def _token(row: Row, prefix: str = "") -> Token:
    """Read a token's row; the columns whose names a grant has too bear a prefix where they come together."""
    return Token(
        token_id=bytes(row.token_id),
        grant_id=row.grant_id,
        peer_id=row[f"{prefix}peer_id"],
        created_by=row[f"{prefix}created_by"],
        created_at=row[f"{prefix}created_at"],
        expires_at=row[f"{prefix}expires_at"],
        voided_at=row.voided_at,
        redemption_id=row.redemption_id,
        csr_sha256=bytes(row.csr_sha256) if row.csr_sha256 else None,
        spki_sha256=bytes(row.spki_sha256) if row.spki_sha256 else None,
        attempt=row.attempt,
        serial=int(row.serial) if row.serial is not None else None,
        lease_until=row.lease_until,
        unfinished_at=row.unfinished_at,
        fingerprint=bytes(row.fingerprint_sha256) if row.fingerprint_sha256 else None,
        reenroll=row.reenroll,
    )
