"""The provisioner's private key, and the one-time tokens that it signs."""

import json
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

from joserfc import jwe, jwt
from joserfc.errors import JoseError
from joserfc.jwe import JWERegistry
from joserfc.jwk import ECKey, OctKey
from joserfc.registry import HeaderParameter
from mosaic_common.errors import ConfigurationError

PROVISIONER: Final = "mosaic-fed"
# step-ca adds a minute of leeway of its own and would accept any lifetime, so the short one is ours to choose.
ONE_TIME_TOKEN_LIFETIME: Final = timedelta(seconds=60)
# step 0.29 writes 600,000 rounds; joserfc stops at 300,000. Bounded still: a key file must not stall the start.
PBES2_ROUNDS_MAX: Final = 1_000_000

PASSWORD_BYTES_MIN: Final = 14


@dataclass(frozen=True, slots=True)
class ProvisionerKey:
    """An ES256 key that step-ca knows under ``kid``."""

    kid: str
    _key: ECKey = field(repr=False)

    @classmethod
    def parse(cls, document: str, *, password: str | None) -> Self:
        """Read the JWK, plain or as a PBES2 JWE (JSON or compact) that the password opens.

        Raises:
            ConfigurationError: never repeats any of the document.
        """
        try:
            key = ECKey.import_key(_parse_jwk(document, password))
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(
                "STEP_CA_PROVISIONER_KEY_JSON is neither a private EC JWK nor a JWE that STEP_CA_PROVISIONER_PASSWORD opens."
            ) from error
        if not key.is_private or key.curve_name != "P-256" or not key.kid:
            raise ConfigurationError("STEP_CA_PROVISIONER_KEY_JSON has to be a private P-256 JWK with its kid.")
        return cls(key.kid, key)

    def mint(self, claims: dict[str, Any], *, audience: str, now: datetime) -> str:
        """Return a one-time token, compact JWS. Mint it last: step-ca spends it even when it then refuses."""
        issued_at = int(now.timestamp())
        lifetime = int(ONE_TIME_TOKEN_LIFETIME.total_seconds())
        times = {"iat": issued_at, "nbf": issued_at, "exp": issued_at + lifetime}
        header = {"alg": "ES256", "kid": self.kid}
        return jwt.encode(header, {**claims, **times, "iss": PROVISIONER, "aud": audience}, self._key, algorithms=["ES256"])


class _StepRegistry(JWERegistry):
    """Accepts what step writes and nothing else, with the round limit raised here only."""

    def get_alg(self, name: str) -> Any:
        algorithm = copy(super().get_alg(name))
        rounds = HeaderParameter("PBES2 Count", _verify_rounds, True)
        algorithm.more_header_registry = {**algorithm.more_header_registry, "p2c": rounds}
        return algorithm


def _verify_rounds(rounds: Any) -> None:
    if not isinstance(rounds, int) or not 1_000 <= rounds <= PBES2_ROUNDS_MAX:
        raise ValueError(f"p2c has to be a number from 1000 to {PBES2_ROUNDS_MAX}")


def _parse_jwk(document: str, password: str | None) -> dict[str, Any]:
    text = document.strip()
    parsed = json.loads(text) if text.startswith("{") else text
    if isinstance(parsed, dict) and "kty" in parsed:
        return parsed
    if password is None:
        raise ConfigurationError("STEP_CA_PROVISIONER_KEY_JSON is encrypted; set STEP_CA_PROVISIONER_PASSWORD too.")
    if len(password.encode()) < PASSWORD_BYTES_MIN:
        raise ConfigurationError(f"STEP_CA_PROVISIONER_PASSWORD has fewer than {PASSWORD_BYTES_MIN} bytes (112 bits).")
    secret = OctKey.import_key(password)
    registry = _StepRegistry(algorithms=["PBES2-HS256+A128KW", "A128GCM", "A256GCM"])
    opened = (
        jwe.decrypt_json(parsed, secret, registry=registry)  # type: ignore[arg-type]
        if isinstance(parsed, dict)
        else jwe.decrypt_compact(parsed, secret, registry=registry)
    )
    jwk = json.loads(opened.plaintext or b"")
    if not isinstance(jwk, dict):
        raise TypeError("a JWK is a JSON object")
    return jwk
