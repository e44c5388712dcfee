"""Where a query over several sources goes on: sealed, so that a user can neither read a peer's token nor make a position up.

The key is drawn when the process starts: this service holds no key of its own beside its leaves. So a token opens in the process
that made it, and after a restart or at another replica the query has to begin again, which PAGE_TOKEN_INVALID says.

    version, 1 ‖ nonce, 12 ‖ AES-256-GCM(JSON of expiry µs, position by source, and status and reason by source that is missing)

in base64url without padding.
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from mosaic_common.clock import Clock
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, PageTokenRefused, Reason

from mosaic_federation_edge.domain.fan_out import SourceStatus

LIFETIME: Final = timedelta(minutes=10)
_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_BEGIN_AGAIN: Final = (
    "Repeat the query without a page token: one is good for its own query and ten minutes, until the edge restarts."
)


@dataclass(frozen=True, slots=True)
class QueryBinding:
    """What a token is good for."""

    user_id: UUID
    verb: Verb
    resource: str
    source: str

    @property
    def associated_data(self) -> bytes:
        # JSON keeps the parts apart whatever they hold.
        return _VERSION + orjson.dumps([str(self.user_id), self.verb.value, self.resource, self.source])


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a query has come.

    Attributes:
        positions: where each source goes on that goes on.
        missing: how each source failed that is not asked again: every further page lacks its rows too, and says so.
    """

    positions: Mapping[str, str]
    missing: Mapping[str, tuple[SourceStatus, Reason | None]] = field(default_factory=dict)


class QueryTokens:
    """Makes and opens the page tokens of queries. One per process."""

    def __init__(self, clock: Clock) -> None:
        # Random nonces are safe for 2³² tokens under one key (NIST SP 800-38D §8.3): longer than a process lives.
        self._cipher: Final = AESGCM(AESGCM.generate_key(bit_length=256))
        self._clock: Final = clock

    def seal(self, progress: Progress, binding: QueryBinding) -> str:
        """Return a token that opens to this progress for the next ten minutes."""
        expires_at_us = _microseconds(self._clock.now() + LIFETIME)
        contents = orjson.dumps([expires_at_us, dict(progress.positions), dict(progress.missing)])
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, contents, binding.associated_data)
        return base64.urlsafe_b64encode(_VERSION + nonce + sealed).rstrip(b"=").decode()

    def open(self, unverified_token: str, binding: QueryBinding) -> Progress:
        """Return how far the query has come.

        Raises:
            PageTokenRefused: PAGE_TOKEN_INVALID when it was altered, or made elsewhere or for something else, which is not told
                apart; PAGE_TOKEN_EXPIRED when it was made for this and is too old.
        """
        try:
            raw = _parse_base64(unverified_token)
            if not raw.startswith(_VERSION):
                raise ValueError("another version")
            nonce, sealed = raw[1 : 1 + _NONCE_BYTES], raw[1 + _NONCE_BYTES :]
            expires_at_us, positions, missing = orjson.loads(self._cipher.decrypt(nonce, sealed, binding.associated_data))
        except (binascii.Error, ValueError, InvalidTag):
            raise PageTokenRefused(
                Reason.PAGE_TOKEN_INVALID,
                "The page token does not belong to this query: start the query again.",
                layer=Layer.REQUEST,
                remedy=_BEGIN_AGAIN,
            ) from None
        if _microseconds(self._clock.now()) >= expires_at_us:
            raise PageTokenRefused(
                Reason.PAGE_TOKEN_EXPIRED,
                "The page token has expired: start the query again.",
                layer=Layer.REQUEST,
                remedy=_BEGIN_AGAIN,
            )
        return Progress(positions, {source: _parse_failure(*failure) for source, failure in missing.items()})


def _parse_failure(status: str, reason: str | None) -> tuple[SourceStatus, Reason | None]:
    return SourceStatus(status), None if reason is None else Reason(reason)


def _parse_base64(unverified_token: str) -> bytes:
    raw = base64.b64decode(unverified_token + "=" * (-len(unverified_token) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != unverified_token:
        raise ValueError("not the one spelling that seal() makes")
    return raw


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
