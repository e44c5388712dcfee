"""The folder of an embedded authority: made once, whole or not at all.

    root.pem           what grants and the edge trust; its subject says DEV ONLY
    intermediate.pem
    intermediate.key   PKCS#8, mode 0600
    used/              one empty file per spent order
    revoked/           see embedded_revocations, like revocation-list.der, which appears when the first list is published

The root's key signs the intermediate and is forgotten.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from mosaic_common.errors import ConfigurationError
from mosaic_common.federation_root import DEV_ONLY
from mosaic_common.keys import load_p256_private_key, private_pem

_LIFETIME: Final = timedelta(days=3650)
_BACKDATING: Final = timedelta(minutes=5)
_FILES: Final = ("root.pem", "intermediate.pem", "intermediate.key")
_SIGNS_CERTIFICATES_AND_LISTS: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class EmbeddedCaFolder:
    """What the embedded authority signs with, and where it remembers what it spent."""

    path: Path
    intermediate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a folder that ``init`` made.

        Raises:
            ConfigurationError: it is not one.
        """
        try:
            intermediate = x509.load_pem_x509_certificate((path / "intermediate.pem").read_bytes())
            key = load_p256_private_key((path / "intermediate.key").read_bytes(), name="intermediate.key of the embedded authority")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"{path} holds no embedded authority; make one with 'python -m mosaic_ca_broker embedded-ca init --dir {path}'."
            ) from error
        if intermediate.public_key() != key.public_key():
            raise ConfigurationError(f"intermediate.pem and intermediate.key in {path} do not belong together.")
        return cls(path, intermediate, key)


def init(path: Path, *, now: datetime) -> None:
    """Make an authority in an absent or empty folder; leave an existing one as it is.

    Raises:
        ConfigurationError: the folder holds something else, or half of one.
    """
    if _is_complete(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))  # 0700 from the start
    try:
        _make(staging, now)
        # Renaming onto an empty folder replaces it, onto any other it fails: of two that race, one wins whole.
        staging.rename(path)
    except OSError as error:
        if not _is_complete(path):
            raise ConfigurationError(f"{path} has to be absent or empty to become an embedded authority.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_complete(path: Path) -> bool:
    return all((path / name).is_file() for name in _FILES)


def _make(folder: Path, now: datetime) -> None:
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, name = _name(f"Mosaic {DEV_ONLY} Federation Root"), _name(f"Mosaic {DEV_ONLY} Federation Intermediate")
    root = _authority(root_name, root_key.public_key(), path_length=1, issuer=root_name, issuer_key=root_key, now=now)
    intermediate = _authority(name, key.public_key(), path_length=0, issuer=root_name, issuer_key=root_key, now=now)
    (folder / "used").mkdir(mode=0o700)
    (folder / "revoked").mkdir(mode=0o700)
    _write(folder / "root.pem", root.public_bytes(Encoding.PEM), mode=0o644)
    _write(folder / "intermediate.pem", intermediate.public_bytes(Encoding.PEM), mode=0o644)
    _write(folder / "intermediate.key", private_pem(key), mode=0o600)


def _write(path: Path, content: bytes, *, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _authority(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    path_length: int,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_SIGNS_CERTIFICATES_AND_LISTS, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256())
