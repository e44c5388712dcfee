"""Who is at the other end of a connection: a peer by its two OIDs, a service of ours by its URI.

The two never meet: a service leaf carries no federation OIDs, a federation certificate no service URI.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from mosaic_common.der import UNPARSABLE
from mosaic_common.errors import AccessDenied, CertificateRefused, Layer, Reason
from mosaic_common.oids import FEDERATION_OIDS, parse_extensions, parse_federation_ids

CA_BROKER: Final = "ca-broker"
GRANTS: Final = "grants"
ENROLLMENT: Final = "enrollment"
EDGE_INBOUND: Final = "edge-inbound"
EDGE_OUTBOUND: Final = "edge-outbound"
OPERATOR: Final = "operator"
SERVICES: Final = (CA_BROKER, GRANTS, ENROLLMENT, EDGE_INBOUND, EDGE_OUTBOUND)
IDENTITIES: Final = (*SERVICES, OPERATOR)
"""Everyone with a leaf of the service PKI; the operator is a client only."""

NAME_PATTERN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Gateways, peers and common names: a DNS label in lower case."""

HOST_PATTERN: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?|::1?")
"""A DNS name or an IP address, without brackets: what it may be made of, not whether it exists."""

MAX_PEM_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a federation client certificate says. The handshake has verified its chain; no pin has been checked yet.

    Attributes:
        fingerprint: SHA-256 of the DER, 32 bytes.
    """

    fingerprint: bytes
    grant_id: UUID
    subject_user_id: UUID
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """A service of this gateway, or its operator."""

    gateway: str
    name: str


def dns_name(identity: str, gateway: str) -> str:
    """The name that clients ask for: gRPC for Python cannot read the server's certificate, only match a name in it."""
    return f"{identity}.{gateway}.mosaic.internal"


def service_uri(identity: str, gateway: str) -> str:
    """The URI SAN of a service's internal leaf."""
    return f"mosaic://{gateway}/svc/{identity}"


def parse_peer_certificate(unverified_pem: bytes) -> PeerCertificate:
    """Read a peer's certificate as the auth context gives it.

    gRPC accepts client certificates without extendedKeyUsage, of version 1, and of authorities; here is where they are refused.

    Raises:
        CertificateRefused: CERTIFICATE_NOT_ACCEPTED, CERTIFICATE_OID_MISSING or CERTIFICATE_OID_MALFORMED.
    """
    certificate = _load(unverified_pem)
    extensions = parse_extensions(certificate)
    if certificate.version is not x509.Version.v3 or not _is_for_clients(extensions) or _is_authority(extensions):
        raise _not_accepted("The certificate is not a client certificate.")
    ids = parse_federation_ids(extensions)
    return PeerCertificate(
        fingerprint=certificate.fingerprint(hashes.SHA256()),
        grant_id=ids.grant_id,
        subject_user_id=ids.subject_user_id,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


class PeerCertificates:
    """Parses each certificate once: a bounded cache by PEM, least recently used out first.

    Only what parsed is kept, so a stranger's rejects push nobody out.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._parsed: OrderedDict[bytes, PeerCertificate] = OrderedDict()

    def get(self, unverified_pem: bytes, now: datetime) -> PeerCertificate:
        """Return what the certificate says, if it is valid now.

        The handshake checked validity once; a connection, or a resumed session, outlives it.

        Raises:
            CertificateRefused: as `parse_peer_certificate`; CERTIFICATE_NOT_ACCEPTED outside its validity.
        """
        certificate = self._parsed.get(unverified_pem)
        if certificate is None:
            certificate = self._parsed[unverified_pem] = parse_peer_certificate(unverified_pem)
            if len(self._parsed) > self._size:
                self._parsed.popitem(last=False)
        else:
            self._parsed.move_to_end(unverified_pem)
        if not certificate.not_before <= now < certificate.not_after:
            raise _not_accepted("The certificate is not valid at this time.")
        return certificate


def parse_service_identity(unverified_pem: bytes, *, gateway: str) -> ServiceIdentity:
    """Read which service of this gateway a client certificate belongs to.

    Raises:
        AccessDenied: CALLER_NOT_ALLOWED when it names none, several, another gateway's, or is a federation certificate.
    """
    try:
        extensions = parse_extensions(_load(unverified_pem))
    except CertificateRefused:
        raise _no_caller() from None
    if any(extension.oid.dotted_string in FEDERATION_OIDS for extension in extensions) or not _is_for_clients(extensions):
        raise _no_caller()
    for name in IDENTITIES:
        if _uris(extensions) == [service_uri(name, gateway)]:
            return ServiceIdentity(gateway, name)
    raise _no_caller()


def _load(unverified_pem: bytes) -> x509.Certificate:
    if len(unverified_pem) > MAX_PEM_BYTES:
        raise _not_accepted("The certificate is too large.")
    try:
        return x509.load_pem_x509_certificate(unverified_pem)
    except UNPARSABLE:
        raise _not_accepted("The certificate cannot be read.") from None


def _is_for_clients(extensions: x509.Extensions) -> bool:
    return any(
        isinstance(extension.value, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.CLIENT_AUTH in extension.value
        for extension in extensions
    )


def _is_authority(extensions: x509.Extensions) -> bool:
    return any(isinstance(extension.value, x509.BasicConstraints) and extension.value.ca for extension in extensions)


def _uris(extensions: x509.Extensions) -> list[str]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _not_accepted(message: str) -> CertificateRefused:
    return CertificateRefused(Reason.CERTIFICATE_NOT_ACCEPTED, message, layer=Layer.CERTIFICATE)


def _no_caller() -> AccessDenied:
    return AccessDenied(
        Reason.CALLER_NOT_ALLOWED, "The client certificate is not that of a service of this gateway.", layer=Layer.CALLER
    )
