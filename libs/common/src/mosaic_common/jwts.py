"""The one place that lets PyJWT decode anything: warrants and bearer tokens are verified here, every option spelled out.

Algorithm, type, issuer and audience are the verifier's, never the token's (RFC 8725 §3.1, §3.8, §3.9, §3.11). Time is checked
here and not by PyJWT, which knows only the machine's clock.
"""

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.utils import base64url_decode

Algorithm = Literal["ES256", "EdDSA"]

LEEWAY: Final = timedelta(seconds=30)
MAX_JWT_CHARACTERS: Final = 8192

# PyJWT takes padding too; RFC 7515 §2 has none, and one token has one spelling.
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){2}")
_REGISTERED_CLAIMS: Final = frozenset({"iss", "aud", "sub", "jti", "iat", "exp"})
_LAST_SECOND: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())


class JwtRefused(Exception):
    """The token does not hold. Its text is one sentence without the token."""


class JwtExpired(JwtRefused):
    """The token held once."""


@dataclass(frozen=True, slots=True)
class VerifiedJwt:
    """A token whose signature, type, issuer, audience and time hold. Claims beyond those are signed, and of any shape."""

    claims: Mapping[str, object]
    jti: str
    subject: str
    issued_at: datetime
    expires_at: datetime


def verify_jwt(
    unverified: str,
    *,
    key: EllipticCurvePublicKey | Ed25519PublicKey,
    algorithm: Algorithm,
    typ: str,
    issuer: str,
    audience: str,
    further_claims: Set[str],
    now: datetime,
) -> VerifiedJwt:
    """Return the token's claims.

    Args:
        unverified: compact JWS.
        typ: the one accepted value of the header.
        audience: the one accepted value; a list of audiences is refused, since such a token could be replayed to the others.
        further_claims: names that have to be there beside the registered ones.

    Raises:
        JwtExpired: ``exp`` is more than LEEWAY ago.
        JwtRefused: anything else.
    """
    if len(unverified) > MAX_JWT_CHARACTERS or not _COMPACT.fullmatch(unverified):
        raise JwtRefused("The token is not a compact JWS of at most 8192 characters.")
    try:
        decoded: dict[str, Any] = jwt.decode_complete(
            unverified,
            key=key,
            algorithms=[algorithm],
            issuer=issuer,
            audience=audience,
            options={
                "verify_signature": True,
                "require": sorted(_REGISTERED_CLAIMS | further_claims),
                "verify_iss": True,
                "verify_aud": True,
                "strict_aud": True,
                "verify_sub": True,
                "verify_jti": True,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "enforce_minimum_key_length": True,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise JwtRefused("The token's signature, issuer, audience or form does not hold.") from None
    _verify_one_reading(unverified)
    # A condition that the signer calls critical and that we do not know (RFC 7515 §4.1.11); PyJWT knows one.
    if "crit" in decoded["header"]:
        raise JwtRefused("The token has a critical header that is not known here.")
    if decoded["header"].get("typ") != typ:
        raise JwtRefused(f"The token is not of the type {typ}.")
    claims: dict[str, object] = decoded["payload"]
    verified = VerifiedJwt(
        claims=claims,
        jti=parse_text(claims, "jti"),
        subject=parse_text(claims, "sub"),
        issued_at=parse_seconds(claims, "iat"),
        expires_at=parse_seconds(claims, "exp"),
    )
    _verify_time(verified, now)
    return verified


def find_key_id(unverified: str) -> str | None:
    """The ``kid`` that a token names, to look a key up with; nothing has been verified."""
    try:
        key_id = jwt.get_unverified_header(unverified).get("kid")
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    return key_id if isinstance(key_id, str) else None


def parse_text(claims: Mapping[str, object], name: str) -> str:
    """A claim that is a text of 1 to 255 printable ASCII characters. Raises JwtRefused."""
    value = claims.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or not (value.isascii() and value.isprintable()):
        raise JwtRefused(f"The claim {name} is not a text of at most 255 printable ASCII characters.")
    return value


def parse_seconds(claims: Mapping[str, object], name: str) -> datetime:
    """A claim that is a NumericDate in whole seconds. Raises JwtRefused."""
    value = claims.get(name)
    # bool is an int in Python, and a float would let two verifiers round to different seconds.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LAST_SECOND:
        raise JwtRefused(f"The claim {name} is not a time in whole seconds.")
    return datetime.fromtimestamp(value, UTC)


def _verify_one_reading(unverified: str) -> None:
    """Return if header and claims are UTF-8 JSON without a name given twice: two parsers could read two different tokens."""
    try:
        for part in unverified.split(".")[:2]:
            json.loads(base64url_decode(part).decode(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        raise JwtRefused("The token's header or claims can be read in more than one way.") from None


def _each_once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is given twice")
    return members


def _verify_time(token: VerifiedJwt, now: datetime) -> None:
    if token.expires_at <= token.issued_at:
        raise JwtRefused("The token expires before it was issued.")
    if token.issued_at > now + LEEWAY or ("nbf" in token.claims and parse_seconds(token.claims, "nbf") > now + LEEWAY):
        raise JwtRefused("The token is not valid yet.")
    if token.expires_at <= now - LEEWAY:
        raise JwtExpired("The token has expired.")
