"""Bearer tokens of operators and users (architecture.md "Operators and users").

    header  alg ES256 | EdDSA, bound to the key · typ at+jwt (RFC 9068) · kid
    iss     this gateway's own issuer, or one configured app's
    aud     mosaic:<gateway>:operate or mosaic:<gateway>:query, exactly one
    sub     a user's UUID, or an operator's name
    jti, iat, exp
    roles   federation:admin | federation:read | federation:query; believed from this gateway's own issuer only

The two audiences refuse each other's tokens, so a broken edge cannot replay an administrator's.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from mosaic_common.clock import Clock
from mosaic_common.errors import AuthRefused, ConfigurationError, Layer, Reason
from mosaic_common.jwts import Algorithm, JwtExpired, JwtRefused, VerifiedJwt, find_key_id, verify_jwt
from mosaic_common.keys import is_p256, load_p256_private_key, spki_sha256

ACCESS_TOKEN_TYPE: Final = "at+jwt"  # noqa: S105  a media type
MAX_ADMIN_LIFE: Final = timedelta(hours=1)

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey


class Role(StrEnum):
    """What a token may do; the value is the claim."""

    ADMIN = "federation:admin"
    READ = "federation:read"
    QUERY = "federation:query"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is behind a verified bearer token; ``subject`` is recorded as the actor."""

    subject: str
    roles: frozenset[Role]
    jti: str
    issuer: str


@dataclass(frozen=True, slots=True)
class DenyList:
    """Tokens refused before they expire.

    Attributes:
        jtis: single tokens.
        subjects: everything issued to a subject before a time.
    """

    jtis: frozenset[str] = frozenset()
    subjects: Mapping[str, datetime] = field(default_factory=dict)


def own_issuer(gateway: str) -> str:
    """The ``iss`` of tokens that `mosaic auth token` makes for this gateway."""
    return f"mosaic:{gateway}"


def operate_audience(gateway: str) -> str:
    """For the operator listener."""
    return f"mosaic:{gateway}:operate"


def query_audience(gateway: str) -> str:
    """For edge-outbound and GetPeerCredential."""
    return f"mosaic:{gateway}:query"


def key_id(key: PublicKey) -> str:
    """The ``kid`` of a key: hex SHA-256 of its SubjectPublicKeyInfo."""
    return spki_sha256(key).hex()


def jwk_set(public_keys: Iterable[PublicKey]) -> dict[str, Any]:
    """A JWK set (RFC 7517 §5) that binds each key to its algorithm."""
    return {"keys": [_jwk(key) for key in public_keys]}


class TokenIssuer:
    """Makes this gateway's own tokens."""

    def __init__(self, private_key_pem: bytes, gateway: str, clock: Clock) -> None:
        self._key = load_p256_private_key(private_key_pem, name="jwt.key")
        self._gateway = gateway
        self._clock = clock

    def issue(self, subject: str, roles: Iterable[Role], audience: str, ttl: timedelta) -> str:
        """Return a compact JWS, ES256.

        Raises:
            ValueError: the lifetime is not positive, or above an hour with the admin role.
        """
        granted = sorted(set(roles))
        if ttl < timedelta(seconds=1) or (Role.ADMIN in granted and ttl > MAX_ADMIN_LIFE):
            raise ValueError("A token lives at least a second, and with the admin role at most an hour.")
        issued_at = int(self._clock.now().timestamp())
        claims = {
            "iss": own_issuer(self._gateway),
            "aud": audience,
            "sub": subject,
            "jti": str(uuid4()),
            "iat": issued_at,
            "exp": issued_at + int(ttl.total_seconds()),
            "roles": granted,
        }
        headers = {"typ": ACCESS_TOKEN_TYPE, "kid": key_id(self._key.public_key())}
        return jwt.encode(claims, self._key, algorithm="ES256", headers=headers)


class TokenVerifier:
    """Accepts one issuer's tokens for one audience.

    Args:
        jwks: JWK set as parsed JSON. Keys of other kinds than P-256 and Ed25519 are passed over; a private key stops the start.
        issuer: the one accepted ``iss``.
        role_map: subject → roles, required for every issuer but this gateway's own: what an app writes into its tokens gives no
            role here.
        deny: asked at every verification, so that a list can be loaded while running.

    Raises:
        ConfigurationError: no usable key, two keys with one id, or an issuer without its role map.
    """

    def __init__(
        self,
        jwks: Mapping[str, Any],
        *,
        issuer: str,
        audience: str,
        gateway: str,
        clock: Clock,
        role_map: Mapping[str, frozenset[Role]] | None = None,
        deny: Callable[[], DenyList] = DenyList,
    ) -> None:
        self._keys = _parse_jwks(jwks)
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._deny = deny
        self._role_map = role_map
        if (issuer == own_issuer(gateway)) != (role_map is None):
            raise ConfigurationError("A role map is needed for an app's issuer, and only for one.")

    def verify(self, unverified: str) -> Principal:
        """Return who is asking.

        Raises:
            AuthRefused: AUTH_TOKEN_MISSING, AUTH_TOKEN_EXPIRED, AUTH_TOKEN_REVOKED, or AUTH_TOKEN_INVALID for everything else.
        """
        if not unverified:
            raise _refused(Reason.AUTH_TOKEN_MISSING, "A bearer token is needed.")
        key = self._keys.get(find_key_id(unverified) or "")
        if key is None:
            raise _refused(Reason.AUTH_TOKEN_INVALID, "The bearer token is not signed by a known key.")
        try:
            token = verify_jwt(
                unverified,
                key=key.key,
                algorithm=key.algorithm,
                typ=ACCESS_TOKEN_TYPE,
                issuer=self._issuer,
                audience=self._audience,
                further_claims=frozenset() if self._role_map is not None else frozenset({"roles"}),
                now=self._clock.now(),
            )
            roles = self._roles_of(token)
        except JwtExpired:
            raise _refused(Reason.AUTH_TOKEN_EXPIRED, "The bearer token has expired.") from None
        except JwtRefused as refused:
            raise _refused(Reason.AUTH_TOKEN_INVALID, f"The bearer token does not hold. {refused}") from None
        if Role.ADMIN in roles and token.expires_at - token.issued_at > MAX_ADMIN_LIFE:
            raise _refused(Reason.AUTH_TOKEN_INVALID, "A token with the admin role may live an hour at most.")
        _verify_not_denied(token, self._deny())
        return Principal(token.subject, roles, token.jti, self._issuer)

    def _roles_of(self, token: VerifiedJwt) -> frozenset[Role]:
        if self._role_map is not None:
            return self._role_map.get(token.subject, frozenset())
        claimed = token.claims["roles"]
        if not isinstance(claimed, list) or not all(isinstance(role, str) for role in claimed):
            raise JwtRefused("The claim roles is not a list of texts.")
        try:
            return frozenset(Role(role) for role in claimed)
        except ValueError:
            raise JwtRefused("The claim roles names an unknown role.") from None


@dataclass(frozen=True, slots=True)
class _VerificationKey:
    key: PublicKey
    algorithm: Algorithm


def _jwk(key: PublicKey) -> dict[str, Any]:
    shape = (
        ECAlgorithm.to_jwk(key, as_dict=True) if isinstance(key, EllipticCurvePublicKey) else OKPAlgorithm.to_jwk(key, as_dict=True)
    )
    return {**shape, "kid": key_id(key), "use": "sig", "alg": "ES256" if isinstance(key, EllipticCurvePublicKey) else "EdDSA"}


def _parse_jwks(jwks: Mapping[str, Any]) -> dict[str, _VerificationKey]:
    entries = jwks.get("keys")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigurationError("The JWK set is not a JWK set.")
    keys: dict[str, _VerificationKey] = {}
    for entry in entries:
        key = _find_verification_key(entry)
        if key is None:
            continue
        name = entry.get("kid")
        if not isinstance(name, str) or not name or name in keys:
            raise ConfigurationError("Each key of the JWK set needs a kid of its own.")
        keys[name] = key
    if not keys:
        raise ConfigurationError("The JWK set holds no P-256 or Ed25519 signature key.")
    return keys


def _find_verification_key(entry: dict[str, Any]) -> _VerificationKey | None:
    if "d" in entry or entry.get("kty") == "oct":
        raise ConfigurationError("The JWK set holds a secret key; it has to hold public keys only.")
    if entry.get("use", "sig") != "sig":
        return None
    # The algorithm follows from the key alone. Were it the token's to choose, a public key could serve as an HMAC secret.
    try:
        match entry.get("kty"), entry.get("crv"), entry.get("alg"):
            case "EC", "P-256", "ES256" | None:
                key = ECAlgorithm.from_jwk(entry)
                return _VerificationKey(key, "ES256") if is_p256(key) else None
            case "OKP", "Ed25519", "EdDSA" | "Ed25519" | None:
                okp = OKPAlgorithm.from_jwk(entry)
                return _VerificationKey(okp, "EdDSA") if isinstance(okp, Ed25519PublicKey) else None
            case _:
                return None
    except (jwt.PyJWTError, ValueError, TypeError):
        raise ConfigurationError("The JWK set holds a key that cannot be read.") from None


def _verify_not_denied(token: VerifiedJwt, deny: DenyList) -> None:
    denied_before = deny.subjects.get(token.subject, datetime.min.replace(tzinfo=UTC))
    # iat is a whole second: a token of the very second may be older than the denial.
    if token.jti in deny.jtis or token.issued_at <= denied_before:
        raise _refused(Reason.AUTH_TOKEN_REVOKED, "The bearer token has been revoked.")


def _refused(reason: Reason, message: str) -> AuthRefused:
    return AuthRefused(reason, message, layer=Layer.CALLER, remedy="Make a new one with `mosaic auth token`.")
