"""Enrollment tokens: a secret that never travels.

The token is an Ed25519 seed. It signs the request that redeems it; the serving gateway knows only the SHA-256 of its public key,
so no break-in there, and no log, yields a token. The message layouts are architecture.md "Enrollment" and "Renewal", to the byte:
`openssl` alone can make them.
"""

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mosaic_common.errors import InvalidInput, Layer, Reason, TokenRefused, Violation
from mosaic_common.identity import HOST_PATTERN, NAME_PATTERN

ENROLLMENT_PATH: Final = "/api/federation/enrollment"
SEED_BYTES: Final = 32
MAX_URL_CHARACTERS: Final = 2048

_NO_PIN: Final = bytes(32)
_PIN: Final = re.compile(r"[0-9a-f]{64}")
# Every encoding of the eight points of small order, the sign bit cleared; the list is libsodium's (ge25519_has_small_order).
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(encoded)
    for encoded in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


@dataclass(frozen=True, slots=True)
class EnrollmentToken:
    """The 32 random bytes that turn a pending grant into a certificate, once. Its repr hides them."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ValueError("An enrollment token is 32 bytes.")

    @classmethod
    def generate(cls) -> Self:
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read base64url without padding, 43 characters. Raises InvalidInput, never echoing the text."""
        try:
            seed = base64.b64decode(text + "=", altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            seed = b""
        if len(seed) != SEED_BYTES or _base64url(seed) != text:
            raise _url_refused("token", "The token is 32 bytes in base64url, 43 characters.")
        return cls(seed)

    def encode(self) -> str:
        return _base64url(self.seed)

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 public key, 32 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()

    def prove(self, csr_der: bytes, redemption_id: UUID, pin: bytes | None) -> bytes:
        """Sign one redemption; 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(enroll_proof_message(csr_der, redemption_id, pin))


def token_id(public_key: bytes) -> bytes:
    """What the serving gateway stores of a token: the SHA-256 of its raw public key, 32 bytes."""
    return hashlib.sha256(public_key).digest()


def verify_token_public_key(unverified_public_key: bytes) -> None:
    """Accept a key that only the holder of its seed can sign with.

    Raises:
        InvalidInput: REQUEST_INVALID; not 32 bytes, or a point of small order, such as the zeros of a buffer that nobody filled:
            under one of those, signatures hold that anybody can write down (RFC 8032 §5.1.7 does not refuse them).
    """
    point = unverified_public_key[:-1] + bytes([unverified_public_key[-1] & 0x7F]) if unverified_public_key else b""
    if len(point) != SEED_BYTES or point in _SMALL_ORDER:
        raise InvalidInput(
            Reason.REQUEST_INVALID,
            "The token's public key is none that a token has.",
            layer=Layer.REQUEST,
            violations=[Violation("token_public_key", "must be the raw Ed25519 public key of a random seed, 32 bytes")],
        )


def enroll_proof_message(csr_der: bytes, redemption_id: UUID, pin: bytes | None) -> bytes:
    """What a redemption signs.

    ``mosaic-enroll-v1`` 0x00 ‖ SHA-256(csr_der), 32 bytes ‖ redemption_id, 36 lower-case ASCII ‖ pin, 32 bytes (zeros if none). The
    pin is in it so that whoever was led to another listener has signed something that the real one refuses.
    """
    return b"mosaic-enroll-v1\x00" + hashlib.sha256(csr_der).digest() + str(redemption_id).encode("ascii") + (pin or _NO_PIN)


def renew_proof_message(grant_id: UUID, csr_der: bytes, current_fingerprint: bytes, at: datetime) -> bytes:
    """What a renewal signs with the current certificate's key.

    ``mosaic-renew-v1`` 0x00 ‖ grant id, 36 lower-case ASCII ‖ SHA-256(csr_der) ‖ current fingerprint, 32 bytes ‖ time, decimal
    seconds in ASCII.
    """
    seconds = str(int(at.timestamp())).encode("ascii")
    return b"mosaic-renew-v1\x00" + str(grant_id).encode("ascii") + hashlib.sha256(csr_der).digest() + current_fingerprint + seconds


def verify_enroll_proof(
    unverified_public_key: bytes, csr_der: bytes, redemption_id: UUID, pin: bytes | None, unverified_proof: bytes
) -> None:
    """Return if whoever sent the request holds the token.

    Raises:
        TokenRefused: ENROLLMENT_TOKEN_UNKNOWN, the same answer as for a token that nobody knows.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(unverified_public_key)
        key.verify(unverified_proof, enroll_proof_message(csr_der, redemption_id, pin))
    except (InvalidSignature, ValueError):
        raise unknown_token() from None


def unknown_token() -> TokenRefused:
    """The one answer for an unknown token and for a wrong proof: they must not be told apart."""
    return TokenRefused(Reason.ENROLLMENT_TOKEN_UNKNOWN, "This gateway knows no such enrollment token.", layer=Layer.TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentOffer:
    """Where a grant can be redeemed, without the token: what grants answers and the CLI completes.

    Attributes:
        host: DNS name or address as peers reach it, without brackets.
        gateway: the serving gateway's name.
        common_name: what the CSR has to say.
        pin: SHA-256 of the root (DER) that the listener presents, 32 bytes; None when it is publicly trusted.
    """

    host: str
    port: int
    gateway: str
    common_name: str
    pin: bytes | None

    @property
    def target(self) -> str:
        """``host:port``, as gRPC dials it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> str:
        return f"https://{self.target}"

    def with_token(self, token: EnrollmentToken) -> "EnrollmentUrl":
        return EnrollmentUrl(
            host=self.host, port=self.port, gateway=self.gateway, common_name=self.common_name, pin=self.pin, token=token
        )

    def format(self) -> str:
        """The URL. All that matters sits in the fragment, which no client ever sends."""
        pin = {} if self.pin is None else {"sha256": self.pin.hex()}
        return f"{self.address}{ENROLLMENT_PATH}#{urlencode({'gateway': self.gateway, 'cn': self.common_name, **pin})}"

    @classmethod
    def parse(cls, url: str) -> "EnrollmentOffer":
        """Read such a URL. Raises InvalidInput naming the part that is wrong."""
        parts = _parse_address(url)
        return _parse_offer(parts, _parse_fragment(parts, {"gateway", "cn", "sha256"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentUrl(EnrollmentOffer):
    """What one operator hands to the other. As secret as its token until that is redeemed; the repr hides it."""

    token: EnrollmentToken = field(repr=False)

    def format(self) -> str:
        return f"{EnrollmentOffer.format(self)}&token={self.token.encode()}"

    @classmethod
    def parse(cls, url: str) -> "EnrollmentUrl":
        """Read an enrollment URL.

        Raises:
            InvalidInput: REQUEST_INVALID; names the part that is wrong and never echoes the URL, which holds the token.
        """
        parts = _parse_address(url)
        fragment = _parse_fragment(parts, {"gateway", "cn", "sha256", "token"})
        if "token" not in fragment:
            raise _url_refused("token", "The URL has no token; copy it whole, with everything after the #.")
        return _parse_offer(parts, fragment).with_token(EnrollmentToken.parse(fragment["token"]))


def _parse_address(url: str) -> SplitResult:
    # urlsplit silently drops tabs and line breaks, so a URL cut in two by a mail client would be read as another one.
    if len(url) > MAX_URL_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise _url_refused("url", "The URL has to be one line of at most 2048 ASCII characters without spaces.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _url_refused("url", "The URL's host or port cannot be read.") from None
    if parts.scheme != "https":
        raise _url_refused("scheme", "The URL has to begin with https://.")
    if "@" in parts.netloc or not parts.hostname or not HOST_PATTERN.fullmatch(parts.hostname) or port == 0:
        raise _url_refused("host", "The URL needs a host name and port, and no user name.")
    if parts.path != ENROLLMENT_PATH or parts.query:
        raise _url_refused("path", f"The URL's path has to be {ENROLLMENT_PATH}, with nothing between it and the #.")
    return parts


def _parse_fragment(parts: SplitResult, known: Set[str]) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(parts.fragment, keep_blank_values=True, strict_parsing=True, max_num_fields=8)
    except ValueError:
        raise _url_refused("fragment", "What follows the # has to be name=value pairs joined by &.") from None
    fragment = dict(pairs)
    if len(fragment) != len(pairs) or not fragment.keys() <= known:
        raise _url_refused("fragment", f"What follows the # may hold {', '.join(sorted(known))}, each once, and nothing else.")
    return fragment


def _parse_offer(parts: SplitResult, fragment: Mapping[str, str]) -> EnrollmentOffer:
    for name in ("gateway", "cn"):
        if not NAME_PATTERN.fullmatch(fragment.get(name, "")):
            raise _url_refused(name, f"{name} has to be a name of lower-case letters, digits and hyphens.")
    pin = fragment.get("sha256")
    if pin is not None and not _PIN.fullmatch(pin):
        raise _url_refused("sha256", "sha256 has to be 64 lower-case hexadecimal digits, or absent.")
    return EnrollmentOffer(
        host=parts.hostname or "",
        port=parts.port or 443,
        gateway=fragment["gateway"],
        common_name=fragment["cn"],
        pin=None if pin is None else bytes.fromhex(pin),
    )


def _url_refused(part: str, sentence: str) -> InvalidInput:
    return InvalidInput(
        Reason.REQUEST_INVALID, f"The enrollment URL cannot be used. {sentence}", violations=[Violation(part, sentence)]
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
