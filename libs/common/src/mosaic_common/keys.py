"""Key material as files hold it: PKCS#8 and SubjectPublicKeyInfo in PEM, P-256 and Ed25519 only."""

import hashlib
from typing import TypeGuard

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from mosaic_common.errors import ConfigurationError


def load_p256_private_key(pem: bytes, *, name: str) -> EllipticCurvePrivateKey:
    """Read an unencrypted P-256 private key.

    Raises:
        ConfigurationError: says which key (``name``), never what is in it.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{name} is not an unencrypted private key in PEM.") from None
    if not (isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)):
        raise ConfigurationError(f"{name} is not a P-256 key.")
    return key


def load_p256_public_key(pem: bytes, *, name: str) -> EllipticCurvePublicKey:
    """Read a P-256 public key. Raises ConfigurationError."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{name} is not a public key in PEM.") from None
    if not is_p256(key):
        raise ConfigurationError(f"{name} is not a P-256 key.")
    return key


def is_p256(key: object) -> TypeGuard[EllipticCurvePublicKey]:
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)


def private_pem(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """PKCS#8, unencrypted: sealing or file modes protect it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: EllipticCurvePublicKey | Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def spki_der(key: PublicKeyTypes) -> bytes:
    """The one canonical encoding (uncompressed point) that pins and hashes are made of."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_sha256(key: PublicKeyTypes) -> bytes:
    """SHA-256 of the canonical SubjectPublicKeyInfo, 32 bytes."""
    return hashlib.sha256(spki_der(key)).digest()
