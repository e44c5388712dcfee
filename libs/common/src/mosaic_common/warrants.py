"""Warrants: grants' signed, one-minute order to the CA broker to sign exactly one CSR.

A compact JWS, ES256. The broker keeps no state: the warrant's ``jti`` becomes that of the authority's own one-time token, whose
database then makes the warrant single-use across replicas.

    header  alg ES256 · typ mosaic-warrant+jwt
    iss     grants                                  aud     ca-broker
    jti     UUID                                    sub     common name
    iat     seconds                                 exp     seconds, at most 60 after iat
    grant_id, subject_user_id   UUID                csr_sha256  64 hexadecimal digits
    serial  decimal text: JSON numbers lose bits    purpose     enroll | renew
    not_after  seconds: the certificate may not live longer
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import jwt

from mosaic_common.clock import Clock
from mosaic_common.errors import Layer, Reason, WarrantRefused
from mosaic_common.identity import CA_BROKER, GRANTS, NAME_PATTERN
from mosaic_common.jwts import JwtExpired, JwtRefused, parse_seconds, parse_text, verify_jwt
from mosaic_common.keys import load_p256_private_key, load_p256_public_key

WARRANT_TYPE: Final = "mosaic-warrant+jwt"
MAX_LIFE: Final = timedelta(seconds=60)

_CLAIMS: Final = frozenset({"grant_id", "subject_user_id", "csr_sha256", "serial", "purpose", "not_after"})
_ALL_CLAIMS: Final = _CLAIMS | {"iss", "aud", "sub", "jti", "iat", "exp"}
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")
_SERIAL: Final = re.compile(r"[1-9][0-9]{0,38}")


class Purpose(StrEnum):
    """Why a certificate is ordered."""

    ENROLL = "enroll"
    RENEW = "renew"


@dataclass(frozen=True, slots=True)
class Warrant:
    """One order for one certificate; all times are aware, in UTC, whole seconds.

    Attributes:
        jti: makes the order single-use; a retry takes a new warrant.
        csr_sha256: of the CSR in DER, 32 bytes.
        serial: what grants drew and stored before anything is signed, at most 128 bits.
        not_after: the latest moment at which the certificate may expire.
        expires_at: of the warrant, at most 60 s after ``issued_at``.
    """

    jti: UUID
    common_name: str
    grant_id: UUID
    subject_user_id: UUID
    csr_sha256: bytes
    serial: int
    purpose: Purpose
    not_after: datetime
    issued_at: datetime
    expires_at: datetime


class WarrantSigner:
    """Grants' end."""

    def __init__(self, private_key_pem: bytes) -> None:
        self._key = load_p256_private_key(private_key_pem, name="warrant.key")

    def sign(self, warrant: Warrant) -> str:
        """Return the warrant as a compact JWS.

        Raises:
            ValueError: the warrant is one that no verifier would accept; a bug on our side.
        """
        claims = {
            "iss": GRANTS,
            "aud": CA_BROKER,
            "jti": str(warrant.jti),
            "sub": warrant.common_name,
            "iat": _whole_seconds(warrant.issued_at),
            "exp": _whole_seconds(warrant.expires_at),
            "grant_id": str(warrant.grant_id),
            "subject_user_id": str(warrant.subject_user_id),
            "csr_sha256": warrant.csr_sha256.hex(),
            "serial": str(warrant.serial),
            "purpose": warrant.purpose.value,
            "not_after": _whole_seconds(warrant.not_after),
        }
        if not timedelta() < warrant.expires_at - warrant.issued_at <= MAX_LIFE:
            raise ValueError("A warrant lives at most 60 seconds.")
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"typ": WARRANT_TYPE})


class WarrantVerifier:
    """The broker's end."""

    def __init__(self, public_key_pem: bytes, clock: Clock) -> None:
        self._key = load_p256_public_key(public_key_pem, name="warrant.pub")
        self._clock = clock

    def verify(self, unverified: str) -> Warrant:
        """Return what grants ordered.

        Raises:
            WarrantRefused: WARRANT_EXPIRED, or WARRANT_INVALID for everything else.
        """
        try:
            token = verify_jwt(
                unverified,
                key=self._key,
                algorithm="ES256",
                typ=WARRANT_TYPE,
                issuer=GRANTS,
                audience=CA_BROKER,
                further_claims=_CLAIMS,
                now=self._clock.now(),
            )
            # A claim that we do not know could be a condition that we would not keep.
            if token.claims.keys() != _ALL_CLAIMS:
                raise JwtRefused("It carries claims that no warrant has.")
            if token.expires_at - token.issued_at > MAX_LIFE:
                raise JwtRefused("It lives longer than a minute.")
            return Warrant(
                jti=_parse_uuid(token.claims, "jti"),
                common_name=_parse_matching(token.claims, "sub", NAME_PATTERN),
                grant_id=_parse_uuid(token.claims, "grant_id"),
                subject_user_id=_parse_uuid(token.claims, "subject_user_id"),
                csr_sha256=bytes.fromhex(_parse_matching(token.claims, "csr_sha256", _SHA256_HEX)),
                serial=_parse_serial(token.claims),
                purpose=_parse_purpose(token.claims),
                not_after=parse_seconds(token.claims, "not_after"),
                issued_at=token.issued_at,
                expires_at=token.expires_at,
            )
        except JwtExpired:
            raise WarrantRefused(Reason.WARRANT_EXPIRED, "The warrant has expired; order again.", layer=Layer.CA) from None
        except JwtRefused as refused:
            raise WarrantRefused(
                Reason.WARRANT_INVALID,
                f"The warrant does not hold. {refused}",
                layer=Layer.CA,
                remedy="Check that the broker's warrant.pub belongs to grants' warrant.key, and both machines' clocks.",
            ) from None


def _whole_seconds(moment: datetime) -> int:
    seconds = moment.timestamp()
    if not seconds.is_integer():
        raise ValueError("A warrant's times are whole seconds.")
    return int(seconds)


def _parse_uuid(claims: Mapping[str, object], name: str) -> UUID:
    text = parse_text(claims, name)
    try:
        value = UUID(text)
    except ValueError:
        raise JwtRefused(f"The claim {name} is not a UUID.") from None
    if str(value) != text:
        raise JwtRefused(f"The claim {name} is not a UUID in canonical spelling.")
    return value


def _parse_matching(claims: Mapping[str, object], name: str, pattern: re.Pattern[str]) -> str:
    text = parse_text(claims, name)
    if not pattern.fullmatch(text):
        raise JwtRefused(f"The claim {name} is not in its one accepted form.")
    return text


def _parse_serial(claims: Mapping[str, object]) -> int:
    serial = int(_parse_matching(claims, "serial", _SERIAL))
    if serial.bit_length() > 128:
        raise JwtRefused("The claim serial has more than 128 bits.")
    return serial


def _parse_purpose(claims: Mapping[str, object]) -> Purpose:
    try:
        return Purpose(parse_text(claims, "purpose"))
    except ValueError:
        raise JwtRefused("The claim purpose is neither enroll nor renew.") from None
