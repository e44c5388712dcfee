"""Private keys at rest: AES-256-GCM, bound to the row that holds them (contracts.md "Sealing").

The stored form is ``v2.<key id>.<base64url of nonce ‖ ciphertext ‖ tag>``. Everything that says where the value belongs is
authenticated with it, so a value moved to another row, or a row given to another user, does not open.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mosaic_common.errors import ConfigurationError

VERSION: Final = "v2"
MIN_SECRET_BYTES: Final = 32

_KEY_INFO: Final = b"mosaic/federation/seal/v2"
_KEY_ID_INFO: Final = b"mosaic/federation/seal/v2/key-id"
_KEY_BYTES: Final = 32
_KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12


class SealBroken(Exception):
    """The sealed value does not open: altered, moved, or sealed under a secret that this process does not have."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a sealed value belongs.

    Attributes:
        public_key_sha256: of the key pair's canonical SubjectPublicKeyInfo, 32 bytes.
    """

    table: str
    column: str
    row_id: UUID
    local_user_id: UUID
    public_key_sha256: bytes


class SealingKeys:
    """The sealing secret, and its successor or predecessor while it is being rotated.

    Seals under the current secret; opens under any of the three.
    """

    def __init__(self, current: bytes | str, next: bytes | str | None = None, previous: bytes | str | None = None) -> None:  # noqa: A002
        self._current = _derive(current)
        others = [_derive(secret) for secret in (next, previous) if secret is not None]
        self._by_id = {key.id: key for key in (self._current, *others)}

    @property
    def current_id(self) -> str:
        """Names the key that new values are sealed under; says nothing about it."""
        return self._current.id

    @property
    def readable_ids(self) -> frozenset[str]:
        """Every key that this process can open with: `seal rotate` waits until all replicas have the new one."""
        return frozenset(self._by_id)

    def seal(self, plaintext: bytes, binding: Binding) -> str:
        """Return the stored form, ASCII."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        ciphertext = self._current.cipher.encrypt(nonce, plaintext, _associated_data(self._current.id, binding))
        return f"{VERSION}.{self._current.id}.{base64.urlsafe_b64encode(nonce + ciphertext).decode('ascii')}"

    def open(self, sealed: str, binding: Binding) -> bytes:
        """Return what was sealed for exactly this place.

        Raises:
            SealBroken: always the same for whatever is wrong inside; another sentence when the key is not here.
        """
        key_id = parse_key_id(sealed)
        key = self._by_id.get(key_id)
        if key is None:
            raise SealBroken(f"The value is sealed under the key {key_id}, which this process does not have.")
        try:
            box = base64.b64decode(sealed.split(".")[2], altchars=b"-_", validate=True)
            return key.cipher.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], _associated_data(key_id, binding))
        except (InvalidTag, binascii.Error, ValueError):
            raise SealBroken("The sealed value was altered, or does not belong here.") from None

    def reseal(self, sealed: str, binding: Binding) -> str:
        """Return the same value under the current key, for the same place.

        What comes back has been opened again: it is about to replace the only copy of a key.

        Raises:
            SealBroken: the old value does not open here, or the new one would not.
        """
        plaintext = self.open(sealed, binding)
        anew = self.seal(plaintext, binding)
        if not hmac.compare_digest(self.open(anew, binding), plaintext):
            raise SealBroken("What was sealed anew does not open as what it was.")
        return anew


def parse_key_id(sealed: str) -> str:
    """The key that a stored value names. Raises SealBroken when the value is not in the stored form."""
    match sealed.split("."):
        case [version, key_id, _] if version == VERSION and len(key_id) == 2 * _KEY_ID_BYTES and key_id.isalnum():
            return key_id
        case _:
            raise SealBroken("The value is not in the sealed form of this version.")


@dataclass(frozen=True, slots=True)
class _Key:
    id: str
    cipher: AESGCM = field(repr=False)


def _derive(secret: bytes | str) -> _Key:
    material = secret.encode("utf-8") if isinstance(secret, str) else secret
    if len(material) < MIN_SECRET_BYTES:
        raise ConfigurationError(f"A sealing secret has to have at least {MIN_SECRET_BYTES} bytes.")
    # The id is an output of its own: a prefix of the key, or its hash, would tell something about the key.
    key_id = HKDF(SHA256(), _KEY_ID_BYTES, salt=None, info=_KEY_ID_INFO).derive(material).hex()
    return _Key(key_id, AESGCM(HKDF(SHA256(), _KEY_BYTES, salt=None, info=_KEY_INFO).derive(material)))


def _associated_data(key_id: str, binding: Binding) -> bytes:
    return b"".join(_length_prefixed(key_id, binding))


def _length_prefixed(key_id: str, binding: Binding) -> Iterator[bytes]:
    # Without lengths, ("ab", "c") and ("a", "bc") would be the same place.
    fields = (VERSION, key_id, binding.table, binding.column, str(binding.row_id), str(binding.local_user_id))
    for value in (*(text.encode("utf-8") for text in fields), binding.public_key_sha256):
        yield len(value).to_bytes(4, "big")
        yield value
