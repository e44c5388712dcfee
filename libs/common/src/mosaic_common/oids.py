"""The two extensions that say exactly who: the grant, and the local user as whom the peer acts.

Each holds a DER UTF8String (X.690 §8.23) of a UUID in its canonical spelling: 0x0c 0x24 and 36 lower-case ASCII characters. One
value, one spelling: a second way to write a UUID would let two services read two different grants out of one certificate.
"""

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cryptography import x509

from mosaic_common.der import UNPARSABLE
from mosaic_common.errors import CertificateRefused, Layer, Reason

GRANT_ID_OID: Final = "1.3.6.1.4.1.99999.1"
SUBJECT_USER_ID_OID: Final = "1.3.6.1.4.1.99999.2"
FEDERATION_OIDS: Final = frozenset({GRANT_ID_OID, SUBJECT_USER_ID_OID})

_UTF8_STRING_OF_36: Final = b"\x0c\x24"
_CANONICAL: Final = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class FederationIds:
    """What a federation certificate says."""

    grant_id: UUID
    subject_user_id: UUID


def encode_uuid(value: UUID) -> bytes:
    """DER UTF8String of the canonical spelling, 38 bytes."""
    return _UTF8_STRING_OF_36 + str(value).encode("ascii")


def parse_uuid(der: bytes) -> UUID:
    """Read what `encode_uuid` writes, and nothing else.

    Raises:
        CertificateRefused: CERTIFICATE_OID_MALFORMED for any other tag, length or spelling.
    """
    head, text = der[:2], der[2:]
    if head != _UTF8_STRING_OF_36 or not _CANONICAL.fullmatch(text):
        raise _malformed("An identifier in the certificate is not a UTF8String of a UUID in canonical spelling.")
    return UUID(text.decode("ascii"))


def parse_extensions(certificate: x509.Certificate) -> x509.Extensions:
    """All extensions of a certificate.

    Raises:
        CertificateRefused: CERTIFICATE_OID_MALFORMED when one of ours is there twice (which one is meant would be the attacker's
            choice), CERTIFICATE_NOT_ACCEPTED when any other is doubled or cannot be parsed.
    """
    try:
        return certificate.extensions
    except x509.DuplicateExtension as duplicate:
        if duplicate.oid.dotted_string in FEDERATION_OIDS:
            raise _malformed("An identifier is in the certificate twice.") from None
        raise _not_accepted() from None
    except UNPARSABLE:
        raise _not_accepted() from None


def parse_federation_ids(extensions: x509.Extensions) -> FederationIds:
    """Both identifiers.

    Raises:
        CertificateRefused: CERTIFICATE_OID_MISSING or CERTIFICATE_OID_MALFORMED.
    """
    return FederationIds(
        grant_id=_parse_extension(extensions, GRANT_ID_OID, "grant"),
        subject_user_id=_parse_extension(extensions, SUBJECT_USER_ID_OID, "subject user"),
    )


def _parse_extension(extensions: x509.Extensions, oid: str, what: str) -> UUID:
    for extension in extensions:
        if extension.oid.dotted_string == oid:
            assert isinstance(extension.value, x509.UnrecognizedExtension)
            return parse_uuid(extension.value.value)
    raise CertificateRefused(
        Reason.CERTIFICATE_OID_MISSING, f"The certificate does not say which {what} it is for.", layer=Layer.CERTIFICATE
    )


def _malformed(message: str) -> CertificateRefused:
    return CertificateRefused(Reason.CERTIFICATE_OID_MALFORMED, message, layer=Layer.CERTIFICATE)


def _not_accepted() -> CertificateRefused:
    return CertificateRefused(
        Reason.CERTIFICATE_NOT_ACCEPTED, "The certificate's extensions cannot be read.", layer=Layer.CERTIFICATE
    )
