"""`mosaic pki show`: what a service PKI consists of. Reads certificates and settings, never a key."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from mosaic_common.der import UNPARSABLE
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import IDENTITIES
from mosaic_common.pki.layout import PUBLIC_LISTENERS, PkiDirectory


@dataclass(frozen=True, slots=True)
class LeafDescription:
    """One certificate in the folder of an identity; nothing here is secret."""

    certificate: Path
    key: Path
    fingerprint_sha256: str
    serial: int
    names: tuple[str, ...]
    not_after: datetime


@dataclass(frozen=True, slots=True)
class IdentityDescription:
    """An identity, its folder, and its leaves."""

    name: str
    folder: Path
    internal: LeafDescription
    public: LeafDescription | None


@dataclass(frozen=True, slots=True)
class PkiDescription:
    """What `mosaic pki show` prints. ``root_fingerprint_sha256`` (hex) is the pin of enrollment URLs."""

    gateway: str
    public_host: str
    root_certificate: Path
    root_fingerprint_sha256: str
    root_not_after: datetime
    identities: tuple[IdentityDescription, ...]


def describe(directory: Path) -> PkiDescription:
    """Read what is there.

    Raises:
        ConfigurationError: no complete PKI in this directory.
    """
    pki = PkiDirectory(directory)
    gateway, public_host = read_settings(pki)
    root = load_certificate(pki.root.certificate)
    return PkiDescription(
        gateway=gateway,
        public_host=public_host,
        root_certificate=pki.root.certificate,
        root_fingerprint_sha256=root.fingerprint(hashes.SHA256()).hex(),
        root_not_after=root.not_valid_after_utc,
        identities=tuple(_describe_identity(pki, name) for name in IDENTITIES),
    )


def read_settings(pki: PkiDirectory) -> tuple[str, str]:
    """Gateway and public host. Raises ConfigurationError."""
    try:
        settings = json.loads(read_file(pki.root.settings))
        return str(settings["gateway"]), str(settings["public_host"])
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{pki.root.settings} cannot be read as the settings of a service PKI.") from None


def load_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises ConfigurationError."""
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except UNPARSABLE:
        raise ConfigurationError(f"{path} is not a certificate in PEM.") from None


def read_file(path: Path) -> bytes:
    """A file that `init` has made. Raises ConfigurationError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{path} does not exist; `mosaic pki init` makes it.") from None


def _describe_identity(pki: PkiDirectory, name: str) -> IdentityDescription:
    folder = pki.identity(name)
    public = _describe_leaf(folder.public_certificate, folder.public_certificate_key) if name in PUBLIC_LISTENERS else None
    return IdentityDescription(name, folder.path, _describe_leaf(folder.internal_certificate, folder.internal_key), public)


def _describe_leaf(certificate: Path, key: Path) -> LeafDescription:
    leaf = load_certificate(certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return LeafDescription(
        certificate=certificate,
        key=key,
        fingerprint_sha256=leaf.fingerprint(hashes.SHA256()).hex(),
        serial=leaf.serial_number,
        names=tuple(str(name.value) for name in names),
        not_after=leaf.not_valid_after_utc,
    )
