"""Retry-safe single use: one token, one certificate, whoever dies in between.

A claim is bound to (token, CSR, redemption id) and carries an attempt number, the fence that every later step repeats.
The serial that an attempt wants is stored before anything is signed, so a certificate that nobody recorded can be
revoked without ever having been seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from mosaic_common.errors import AccessDenied, Conflict, InvalidInput, Layer, Reason, TokenRefused, Unavailable
from mosaic_common.identity import CA_BROKER
from mosaic_common.tokens import unknown_token, verify_enroll_proof
from mosaic_common.warrants import Purpose, Warrant, WarrantSigner
from mosaic_common.x509 import Csr, Ordered, draw_serial, verify_csr, verify_issued

from mosaic_grants.domain.lifecycle import ELIGIBLE_PEERS, GrantStatus
from mosaic_grants.domain.model import Claim, Grant, Recorded, Ticket, Token
from mosaic_grants.domain.permissions import enrollable_status
from mosaic_grants.domain.ports import Transaction

LEASE: Final = timedelta(seconds=120)
WARRANT_LIFE: Final = timedelta(seconds=60)
CERTIFICATE_LIFE: Final = timedelta(days=30)
# Each attempt that is not completed leaves a serial on the authority's list for good, so nobody may make them without end.
MAX_ATTEMPTS: Final = 200
# The authority dates a certificate a minute back; a second minute is its clock's.
_NOT_BEFORE_LEEWAY: Final = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claim that was won, with the order for the CA broker."""

    token_id: bytes
    number: int
    warrant: str


class Enrollments:
    """Claims, releases and completes redemptions within a transaction of the caller's."""

    def __init__(self, signer: WarrantSigner, *, federation_root: bytes, pin: bytes | None) -> None:
        self._signer = signer
        self._root = federation_root
        self._pin = pin

    def verify_proof(self, unverified_key: bytes, unverified_csr: bytes, redemption_id: UUID, unverified_proof: bytes) -> None:
        """Return if whoever sent the request holds the token. Comes before `claim`.

        Raises:
            TokenRefused: as for a token that nobody knows.
        """
        verify_enroll_proof(unverified_key, unverified_csr, redemption_id, self._pin, unverified_proof)

    async def claim(
        self,
        tx: Transaction,
        ticket: Ticket | None,
        *,
        unverified_csr: bytes,
        redemption_id: UUID,
        signer_reachable: bool,
    ) -> Attempt | Recorded:
        """Claim the token for this CSR, or return what this same redemption got before.

        Args:
            ticket: of a token whose proof holds; None when nobody knows it.
            signer_reachable: whether anybody could sign now; only a new attempt needs it.

        Raises:
            TokenRefused, CsrRefused, InvalidInput, Conflict, AccessDenied: see the denial table.
        """
        if ticket is None:
            raise unknown_token()
        token, grant = ticket.token, ticket.grant
        # What this token may still do, before what the request asks: a used token tells nothing about CSRs.
        same_redemption = token.redemption_id == redemption_id
        _verify_token(token, grant, tx.now, same_redemption=same_redemption)
        csr = verify_csr(unverified_csr, common_name=grant.peer_common_name)
        if token.redemption_id is not None and token.csr_sha256 != csr.sha256:
            raise _used()
        if token.fingerprint is not None:
            return await tx.certificates.get_recorded(token.fingerprint)
        _verify_eligible(token, grant)
        if token.attempt >= MAX_ATTEMPTS:
            raise _tried_too_often()
        if token.lease_until is not None and token.lease_until > tx.now:
            raise Conflict(
                Reason.ENROLLMENT_IN_PROGRESS,
                "This redemption is already under way.",
                layer=Layer.TOKEN,
                retry_after=token.lease_until - tx.now,
                remedy="Wait and run the same command again; the same certificate will be handed out.",
            )
        if not signer_reachable:
            raise Unavailable(
                Reason.DEPENDENCY_UNAVAILABLE,
                "The certificate authority cannot be asked now; the token stays as it is.",
                layer=Layer.CA,
                remedy="Check ca-broker, and step-ca behind it.",
                metadata={"dependency": CA_BROKER},
            )
        return await self._order(tx, token, grant, csr, redemption_id)

    async def _order(self, tx: Transaction, token: Token, grant: Grant, csr: Csr, redemption_id: UUID) -> Attempt:
        # An attempt whose lease ran out may have been signed all the same: its serial is owed to the CA before a new one is drawn.
        if token.serial is not None:
            await tx.outbox.owe(token.serial, grant.id, "attempt not completed")
        serial = draw_serial()
        claim = Claim(token.token_id, token.attempt, redemption_id, csr.sha256, csr.spki_sha256, serial, tx.now + LEASE)
        if not await tx.tokens.claim(claim):
            raise _used()
        issued_at = tx.now.replace(microsecond=0)
        warrant = Warrant(
            jti=uuid4(),
            common_name=grant.peer_common_name,
            grant_id=grant.id,
            subject_user_id=grant.subject_user_id,
            csr_sha256=csr.sha256,
            serial=serial,
            purpose=Purpose.ENROLL,
            not_after=_not_after(grant, issued_at),
            issued_at=issued_at,
            expires_at=issued_at + WARRANT_LIFE,
        )
        return Attempt(token.token_id, token.attempt + 1, self._signer.sign(warrant))

    async def release(self, tx: Transaction, ticket: Ticket | None, attempt: int) -> None:
        """Give a claim back whose CSR cannot have been signed; a late or repeated release changes nothing."""
        if ticket is None:
            return
        token = ticket.token
        if token.attempt != attempt or token.serial is None or token.fingerprint is not None:
            return
        # That nothing was signed is enrollment's word; the serial is owed all the same.
        await tx.outbox.owe(token.serial, token.grant_id, "attempt released")
        await tx.tokens.release(token.token_id, attempt)

    async def complete(self, tx: Transaction, ticket: Ticket | None, attempt: int, unverified_chain: Sequence[bytes]) -> Recorded:
        """Verify what the broker brought, pin it and activate grant and peer.

        Args:
            ticket: found for completing: peer, grant and token are locked, so a revocation that comes now waits.

        Raises:
            CaLied: it is not exactly what this attempt ordered; nothing is written.
            Conflict: the grant left the state that the token is for.
            TokenRefused: another attempt has the fence.
        """
        if ticket is None:
            raise unknown_token()
        # 1. The fence.
        token, grant = ticket.token, ticket.grant
        if token.fingerprint is not None or token.attempt != attempt:
            raise _used()
        if token.serial is None or token.spki_sha256 is None or token.lease_until is None:
            raise _used()  # released meanwhile
        # A grant that ended meanwhile says so itself: its end would show in the order below, and look like a lie.
        _verify_eligible(token, grant)
        if token.voided_at is not None:
            raise _replaced()
        # 2. The broker is believed in nothing.
        ordered_at = (token.lease_until - LEASE).replace(microsecond=0)
        ordered = Ordered(
            common_name=grant.peer_common_name,
            grant_id=grant.id,
            subject_user_id=grant.subject_user_id,
            serial=token.serial,
            spki_sha256=token.spki_sha256,
            not_after=_not_after(grant, ordered_at),
            not_before_min=ordered_at - _NOT_BEFORE_LEEWAY,
        )
        issued = verify_issued(unverified_chain, ordered, root_pem=self._root, now=tx.now)
        # 3. One transaction: pinned, complete, active. The guards in SQL have the last word over what was read above.
        if token.reenroll:
            # Only a renewal supersedes: whoever has the lost key must not use it for another day.
            await tx.certificates.revoke_all(grant.id, "re-enrolled")
        await tx.certificates.pin(grant.id, issued)
        if not await tx.tokens.complete(token.token_id, attempt, issued.fingerprint):
            raise _used()
        activated = token.reenroll or await tx.grants.activate(grant.id)
        if not activated or not await tx.peers.activate(grant.peer_id):
            raise _grant_changed()
        return Recorded(issued.der, issued.chain_der, grant.id, grant.subject_user_id)


def _not_after(grant: Grant, now: datetime) -> datetime:
    """Whole seconds, never past the grant's own end."""
    latest = now + CERTIFICATE_LIFE
    if grant.expires_at is not None:
        latest = min(latest, grant.expires_at)
    return latest.replace(microsecond=0)


def _verify_token(token: Token, grant: Grant, now: datetime, *, same_redemption: bool) -> None:
    if token.voided_at is not None and grant.status in {GrantStatus.REVOKED, GrantStatus.EXPIRED}:
        raise TokenRefused(
            Reason.ENROLLMENT_TOKEN_VOIDED,
            "The grant of this enrollment token has ended.",
            layer=Layer.TOKEN,
            remedy="Ask the other operator for a new grant.",
        )
    if token.voided_at is not None:
        raise _replaced()
    # Used before expired: a stranger's second redemption is *used* for as long as the row exists.
    if token.redemption_id is not None and not same_redemption:
        raise _used()
    if token.expires_at <= now:
        raise TokenRefused(
            Reason.ENROLLMENT_TOKEN_EXPIRED,
            "This enrollment token has expired.",
            layer=Layer.TOKEN,
            remedy="Ask the other operator for a new one (`mosaic federation grant token`).",
        )


def _verify_eligible(token: Token, grant: Grant) -> None:
    if grant.peer_id != token.peer_id:
        raise InvalidInput(Reason.GRANT_PEER_MISMATCH, "The token was made for another peer than the grant's.", layer=Layer.GRANT)
    if grant.status is not enrollable_status(reenroll=token.reenroll):
        raise _grant_changed()
    if grant.peer_state not in ELIGIBLE_PEERS:
        raise AccessDenied(
            Reason.PEER_NOT_ACTIVE, "This peer is not accepted.", layer=Layer.PEER, remedy="Ask the other operator about the peer."
        )
    if not grant.has_active_subject:
        raise AccessDenied(
            Reason.SUBJECT_INACTIVE,
            "The user that this grant acts as is not active.",
            layer=Layer.SUBJECT,
            remedy="Ask the other operator for a grant for an active user.",
        )


def _replaced() -> TokenRefused:
    return TokenRefused(
        Reason.ENROLLMENT_TOKEN_VOIDED,
        "This enrollment token was replaced by a newer one.",
        layer=Layer.TOKEN,
        remedy="Use the newest URL, or ask the other operator for a new one (`mosaic federation grant token`).",
    )


def _tried_too_often() -> TokenRefused:
    return TokenRefused(
        Reason.ENROLLMENT_TOKEN_VOIDED,
        f"This enrollment token has been tried {MAX_ATTEMPTS} times without a certificate.",
        layer=Layer.TOKEN,
        remedy="Find out why the certificate authority does not sign; then ask for a new one (`mosaic federation grant token`).",
    )


def _used() -> TokenRefused:
    return TokenRefused(
        Reason.ENROLLMENT_TOKEN_USED,
        "This enrollment token has been used.",
        layer=Layer.TOKEN,
        remedy="If it was not you, tell the other operator; a new one comes from `mosaic federation grant token`.",
    )


def _grant_changed() -> Conflict:
    return Conflict(
        Reason.GRANT_STATE_CHANGED,
        "The grant is no longer one that this token enrolls.",
        layer=Layer.GRANT,
        remedy="Ask the other operator what became of the grant.",
    )
