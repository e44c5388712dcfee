"""A clock that is off, named: behind most certificates and tokens that are refused for their dates stands a clock, not an attack.

Both times are told, because nobody can see from one machine whose clock it is.
"""

from datetime import UTC, datetime
from typing import Final

import jwt
from cryptography import x509
from mosaic_common.errors import AuthRefused, Reason
from mosaic_common.x509 import CLOCK_LEEWAY

from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.times import iso, length

# How mosaic_common.jwts ends the sentence about a token from the future.
_NOT_VALID_YET: Final = "The token is not valid yet."


def verify_dates(certificate: x509.Certificate, whose: str, now: datetime) -> None:
    """Return if the certificate is valid by this machine's clock, five minutes of leeway at its beginning.

    Raises:
        CommandFailed: CLOCK.
    """
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not_before > now + CLOCK_LEEWAY:
        raise CommandFailed(
            LocalReason.CLOCK,
            f"{whose} is valid from {iso(not_before)}; this machine's clock says {iso(now)}, {length(not_before - now)} earlier.",
            remedy="Set this machine's clock (or the other's, if that one is ahead) and run the command again.",
        )
    if not_after <= now:
        raise CommandFailed(
            LocalReason.CLOCK,
            f"{whose} expired at {iso(not_after)}; this machine's clock says {iso(now)}, {length(now - not_after)} later.",
            remedy="If this clock is right, the other gateway has to renew that certificate; otherwise set the clock.",
        )


def find_clock_difference(refused: AuthRefused, token: str, listener: str, now: datetime) -> CommandFailed | None:
    """What to say of a refused bearer token that holds by this machine's clock: the gateway's clock is another one."""
    issued_at, expires_at = _times_of(token)
    if refused.reason is Reason.AUTH_TOKEN_EXPIRED and now < expires_at:
        says = (
            f"calls a token expired that holds until {iso(expires_at)}: its clock is at least {length(expires_at - now)} ahead of"
        )
    elif refused.message.endswith(_NOT_VALID_YET) and issued_at <= now:
        says = f"calls a token not valid yet that was made at {iso(issued_at)}: its clock is behind"
    else:
        return None
    return CommandFailed(
        LocalReason.CLOCK,
        f"{listener} {says} this machine's, which says {iso(now)}.",
        remedy="Set whichever of the two clocks is wrong, and run the command again.",
    )


def _times_of(token: str) -> tuple[datetime, datetime]:
    """When our own token says that it was made and ends; of one that does not say it, a moment that explains nothing."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        return datetime.fromtimestamp(claims["iat"], UTC), datetime.fromtimestamp(claims["exp"], UTC)
    except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
