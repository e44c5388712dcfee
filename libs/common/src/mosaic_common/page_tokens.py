"""Where a listing goes on: sealed, so that a peer can neither read a position nor make one up.

A token opens only for the grant, certificate, verb, query and order that it was made for, and only for ten minutes. It carries how
many rows were served, because the cap bounds one query over all its pages and the edge keeps no state.

    version, 1 ‖ key id, 8 ‖ salt, 16 ‖ nonce, 12 ‖ AES-256-GCM(expiry µs, updated_at µs, row id, rows served), 36 + 16

in base64url without padding: always 119 characters, so that its length tells nothing either.
"""

import base64
import binascii
import hmac
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mosaic_common.clock import Clock
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, PageTokenRefused, Reason

LIFETIME: Final = timedelta(minutes=10)
KEY_BYTES: Final = 32
TOKEN_LENGTH: Final = 119

_VERSION: Final = b"\x01"
_KEY_ID_BYTES: Final = 8
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_ROW_ID_BYTES: Final = 16
_TOKENS_PER_SALT: Final = 2**20
_KNOWN_SALTS: Final = 256
_HEADER_BYTES: Final = len(_VERSION) + _KEY_ID_BYTES
_CONTENTS: Final = struct.Struct(">qq16sI")
_KEY_INFO: Final = b"mosaic/federation/page-token/v1"
_KEY_ID_INFO: Final = b"mosaic/federation/page-token/v1/key-id"
_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00Z")


@dataclass(frozen=True, slots=True)
class PagePosition:
    """The last row that was served, as the keyset that orders it, and how many rows of the query were served so far.

    Attributes:
        row_id: a UUID, 16 bytes.
    """

    updated_at_us: int
    row_id: bytes
    served: int


@dataclass(frozen=True, slots=True)
class PageBinding:
    """What a token is good for.

    Attributes:
        fingerprint: of the client certificate, SHA-256 of the DER, 32 bytes.
        query_hash: from QueryHasher, 32 bytes.
    """

    grant_id: UUID
    fingerprint: bytes
    verb: Verb
    query_hash: bytes
    order: str


class PageTokens:
    """Makes and opens page tokens. Every replica holds the same 32-byte key."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the page token key must be {KEY_BYTES} bytes")
        self._key: Final = key
        self._header: Final = _VERSION + _derive(key, info=_KEY_ID_INFO, length=_KEY_ID_BYTES)
        self._clock: Final = clock
        # Deriving a key costs more than the rest of a token, and whoever opens one has mostly just opened another of its salt.
        self._cipher: Final = lru_cache(maxsize=_KNOWN_SALTS)(self._derive_cipher)
        self._salt, self._sealed = secrets.token_bytes(_SALT_BYTES), 0

    def seal(self, position: PagePosition, binding: PageBinding) -> str:
        """Return a token that opens to this position for the next ten minutes."""
        if len(position.row_id) != _ROW_ID_BYTES:
            raise ValueError(f"a row id must be {_ROW_ID_BYTES} bytes")
        salt, nonce = self._next_salt(), secrets.token_bytes(_NONCE_BYTES)
        expiry_us = _microseconds(self._clock.now() + LIFETIME)
        contents = _CONTENTS.pack(expiry_us, position.updated_at_us, position.row_id, position.served)
        sealed = self._cipher(salt).encrypt(nonce, contents, _associated_data(self._header, binding))
        return base64.urlsafe_b64encode(self._header + salt + nonce + sealed).rstrip(b"=").decode()

    def open(self, unverified_token: str, binding: PageBinding) -> PagePosition:
        """Return the position that the token was made for.

        Raises:
            PageTokenRefused: PAGE_TOKEN_INVALID when it was altered, or made elsewhere or for something else, which is not told
                apart; PAGE_TOKEN_EXPIRED when it was made for this and is too old.
        """
        raw = _parse_base64(unverified_token)
        header, rest = raw[:_HEADER_BYTES], raw[_HEADER_BYTES:]
        if header != self._header:
            raise _invalid()
        salt, nonce, sealed = rest[:_SALT_BYTES], rest[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES], rest[_SALT_BYTES + _NONCE_BYTES :]
        try:
            contents = self._cipher(salt).decrypt(nonce, sealed, _associated_data(header, binding))
        except InvalidTag:
            raise _invalid() from None
        expiry_us, updated_at_us, row_id, served = _CONTENTS.unpack(contents)
        if _microseconds(self._clock.now()) >= expiry_us:
            raise PageTokenRefused(
                Reason.PAGE_TOKEN_EXPIRED, "The page token has expired: start the query again.", layer=Layer.REQUEST
            )
        return PagePosition(updated_at_us, row_id, served)

    def _next_salt(self) -> bytes:
        # Random nonces are safe for 2³² tokens under one key (NIST SP 800-38D §8.3), which all replicas together would reach within
        # weeks: a key of its own for each process, and another one after so many tokens.
        if self._sealed >= _TOKENS_PER_SALT:
            self._salt, self._sealed = secrets.token_bytes(_SALT_BYTES), 0
        self._sealed += 1
        return self._salt

    def _derive_cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(_derive(self._key, info=_KEY_INFO, length=32, salt=salt))


class QueryHasher:
    """Names a query without telling it: the audit log and a page token carry this, never a query's text."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the query HMAC key must be {KEY_BYTES} bytes")
        self._key: Final = key

    def hash(self, verb: Verb, resources: Sequence[str], text: str = "", embedding: bytes = b"") -> bytes:
        """HMAC-SHA256, 32 bytes, over the length-prefixed parts.

        Args:
            text: what get, list or search was asked for beside the resources: a row id, a search query.
            embedding: float32 little-endian, for a vector search.
        """
        parts = [verb.value.encode(), text.encode(), embedding, *(name.encode() for name in resources)]
        return hmac.digest(self._key, b"".join(map(_prefixed, parts)), sha256)


def _derive(key: bytes, *, info: bytes, length: int, salt: bytes | None = None) -> bytes:
    return HKDF(SHA256(), length=length, salt=salt, info=info).derive(key)


def _associated_data(header: bytes, binding: PageBinding) -> bytes:
    return b"".join(
        (
            _prefixed(header),
            _prefixed(binding.grant_id.bytes),
            _prefixed(binding.fingerprint),
            _prefixed_word(binding.verb.value),
            _prefixed(binding.query_hash),
            _prefixed_word(binding.order),
        )
    )


def _prefixed(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


@lru_cache(maxsize=64)
def _prefixed_word(word: str) -> bytes:
    """Of our own code: a verb, an order."""
    return _prefixed(word.encode())


def _parse_base64(unverified_token: str) -> bytes:
    """The raw bytes of the one spelling that seal() makes."""
    if len(unverified_token) != TOKEN_LENGTH:
        raise _invalid()
    try:
        raw = base64.b64decode(unverified_token + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _invalid() from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != unverified_token:
        raise _invalid()
    return raw


def _invalid() -> PageTokenRefused:
    return PageTokenRefused(
        Reason.PAGE_TOKEN_INVALID, "The page token does not belong to this query: start the query again.", layer=Layer.REQUEST
    )


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
