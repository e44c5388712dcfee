"""Signing requests that nobody should sign, and one that asks for everything.

The table REFUSED is used twice: on the pure verifier, and at the public listener with a token that holds.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.errors import Reason
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, encode_uuid
from mosaic_common.tokens import EnrollmentUrl
from mosaic_common.x509 import MAX_CSR_BYTES, make_csr

from tests.support.authorities import LyingAuthority, new_key

CsrOf = Callable[[str], bytes]
"""A common name → PKCS#10 in DER, or what poses as one."""

SOMEBODY: Final = UUID("00000000-0000-4000-8000-000000000001")
ASKED_FOR: Final[Mapping[str, x509.ExtensionType]] = {
    "another grant id": x509.UnrecognizedExtension(x509.ObjectIdentifier(GRANT_ID_OID), encode_uuid(SOMEBODY)),
    "another subject user id": x509.UnrecognizedExtension(x509.ObjectIdentifier(SUBJECT_USER_ID_OID), encode_uuid(SOMEBODY)),
    "a provisioner's extension": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.37476.9000.64.1"), b"\x0c\x01x"),
    "a service's DNS name": x509.SubjectAlternativeName([x509.DNSName("grants.work.mosaic.internal")]),
    "a service's URI": x509.SubjectAlternativeName([x509.UniformResourceIdentifier("mosaic://work/svc/grants")]),
    "CA:true": x509.BasicConstraints(ca=True, path_length=3),
    "keyCertSign": x509.UnrecognizedExtension(ExtensionOID.KEY_USAGE, b"\x03\x02\x02\x04"),
    "serverAuth": x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
}
"""What a request may ask for and no request gets."""


def common_names(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def csr_with(subject: x509.Name, key: CertificateIssuerPrivateKeyTypes | None = None, *extensions: x509.ExtensionType) -> bytes:
    """Signed by its own key, as it should be."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    signing_key = key or new_key()
    digest = None if isinstance(signing_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signing_key, digest).public_bytes(Encoding.DER)


def redemption_with(url: EnrollmentUrl, csr_der: bytes) -> enrollment_pb2.EnrollRequest:
    """What whoever holds the token may ask: the proof holds for exactly this."""
    redemption_id = uuid4()
    return enrollment_pb2.EnrollRequest(
        token_public_key=url.token.public_key,
        csr_der=csr_der,
        redemption_id=str(redemption_id),
        proof=url.token.prove(csr_der, redemption_id, url.pin),
    )


def of_size(size: int) -> CsrOf:
    """Perfect, but for an extension that makes it exactly so large."""

    def make(name: str) -> bytes:
        key, filler = new_key(), size
        while True:
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.7"), bytes(filler))
            der = csr_with(common_names(name), key, extension)
            if len(der) == size:
                return der
            # The length of a signature varies by a few bytes, so that this may take some attempts.
            filler += size - len(der)

    return make


# ── spoiled after they were signed, or signed over something else ─────────────────────────────────────────────────────────────────


def with_flipped_last_bit(name: str) -> bytes:
    der = make_csr(new_key(), name)
    return der[:-1] + bytes([der[-1] ^ 1])


def with_key_swapped(name: str) -> bytes:
    """For another's public key: what proof of possession is there to refuse."""
    der = make_csr(new_key(), name)
    mine, theirs = (
        csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for csr in map(x509.load_der_x509_csr, (der, make_csr(new_key(), name)))
    )
    return der.replace(mine, theirs)


def with_name_swapped(name: str) -> bytes:
    """The right name in a request that was signed with another one."""
    other = f"{'a' if name[0] != 'a' else 'b'}{name[1:]}"
    return make_csr(new_key(), other).replace(other.encode(), name.encode())


def signed_with_sha1(name: str) -> bytes:
    return _signed(*_unsigned(name), hashes.SHA1(), b"\x30\x09\x06\x07\x2a\x86\x48\xce\x3d\x04\x01")


def signed_with_sha224(name: str) -> bytes:
    return _signed(*_unsigned(name), hashes.SHA224(), b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x01")


def with_compressed_point(name: str) -> bytes:
    """A compressed point for a key, signed correctly over exactly that."""
    info, key = _unsigned(name)
    long, short = (
        key.public_key().public_bytes(Encoding.X962, form)
        for form in (PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint)
    )
    algorithm = info[info.index(b"\x30\x13") :][:21]
    old, new = b"\x30\x59" + algorithm + b"\x03\x42\x00" + long, b"\x30\x39" + algorithm + b"\x03\x22\x00" + short
    assert old in info
    return _signed(_sequence(_content(info).replace(old, new)), key, hashes.SHA256(), _ECDSA_WITH_SHA256)


def with_long_name(_name: str) -> bytes:
    with pytest.warns(UserWarning, match="length"):
        name = x509.NameAttribute(NameOID.COMMON_NAME, "x" * 65, _validate=False)
    return csr_with(x509.Name([name]))


def in_pem(name: str) -> bytes:
    return x509.load_der_x509_csr(make_csr(new_key(), name)).public_bytes(Encoding.PEM)


def a_certificate(_name: str) -> bytes:
    return LyingAuthority.make(datetime(2026, 3, 2, tzinfo=UTC)).root.public_bytes(Encoding.DER)


_ECDSA_WITH_SHA256: Final = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"


def _unsigned(name: str) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    key = new_key()
    return x509.load_der_x509_csr(make_csr(key, name)).tbs_certrequest_bytes, key


def _signed(info: bytes, key: ec.EllipticCurvePrivateKey, digest: hashes.HashAlgorithm, algorithm: bytes) -> bytes:
    """CertificationRequest ::= SEQUENCE { info, signatureAlgorithm, signature BIT STRING } (RFC 2986 §4.2)."""
    signature = key.sign(info, ec.ECDSA(digest))
    return _sequence(info + algorithm + bytes([0x03, len(signature) + 1, 0]) + signature)


def _sequence(content: bytes) -> bytes:
    size = len(content)
    octets = b"" if size < 0x80 else size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x30, 0x80 | len(octets) if octets else size]) + octets + content


def _content(sequence: bytes) -> bytes:
    octets = 0 if sequence[1] < 0x80 else sequence[1] & 0x7F
    return sequence[2 + octets :]


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_MALFORMED, _SIGNATURE = Reason.CSR_MALFORMED, Reason.CSR_SIGNATURE_INVALID
_KEY, _NAME = Reason.CSR_KEY_NOT_ACCEPTED, Reason.CSR_COMMON_NAME_MISMATCH


def _subject(*attributes: tuple[x509.ObjectIdentifier, str]) -> bytes:
    return csr_with(x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes]))


REFUSED: Final = [
    pytest.param(lambda _: b"", _MALFORMED, id="nothing"),
    pytest.param(lambda _: b"\x30\x03\x02\x01\x00", _MALFORMED, id="other DER"),
    pytest.param(lambda _: b"\x30\x80", _MALFORMED, id="a length without an end"),
    pytest.param(lambda _: b"\x30\x84\xff\xff\xff\xff", _MALFORMED, id="a length of 4 GiB"),
    pytest.param(lambda name: make_csr(new_key(), name) + b"\x00", _MALFORMED, id="trailing byte"),
    pytest.param(lambda name: make_csr(new_key(), name) * 2, _MALFORMED, id="two of them"),
    pytest.param(lambda name: make_csr(new_key(), name)[:-1], _MALFORMED, id="one byte short"),
    pytest.param(in_pem, _MALFORMED, id="PEM instead of DER"),
    pytest.param(a_certificate, _MALFORMED, id="a certificate instead"),
    pytest.param(of_size(MAX_CSR_BYTES + 1), _MALFORMED, id="perfect, and a byte over 2 KiB"),
    pytest.param(of_size(60_000), _MALFORMED, id="perfect, and 60 kB"),
    pytest.param(with_flipped_last_bit, _SIGNATURE, id="signature altered"),
    pytest.param(with_key_swapped, _SIGNATURE, id="another's public key"),
    pytest.param(with_name_swapped, _SIGNATURE, id="signed under another name"),
    pytest.param(signed_with_sha1, _SIGNATURE, id="signed with SHA-1"),
    pytest.param(signed_with_sha224, _SIGNATURE, id="signed with SHA-224"),
    pytest.param(lambda name: csr_with(common_names(name), rsa.generate_private_key(65537, 2048)), _KEY, id="RSA"),
    pytest.param(lambda name: csr_with(common_names(name), ec.generate_private_key(ec.SECP384R1())), _KEY, id="P-384"),
    pytest.param(lambda name: csr_with(common_names(name), ec.generate_private_key(ec.SECP256K1())), _KEY, id="secp256k1"),
    pytest.param(lambda name: csr_with(common_names(name), ed25519.Ed25519PrivateKey.generate()), _KEY, id="Ed25519"),
    pytest.param(with_compressed_point, _KEY, id="compressed point: same key, another hash"),
    pytest.param(lambda _: csr_with(common_names("elsewhere")), _NAME, id="another name"),
    pytest.param(lambda name: csr_with(common_names(name.upper())), _NAME, id="another case"),
    pytest.param(lambda name: csr_with(common_names(f"{name} ")), _NAME, id="trailing space"),
    pytest.param(lambda name: csr_with(common_names(f"{name}\x00.example.com")), _NAME, id="a NUL behind the name"),
    pytest.param(lambda _: csr_with(x509.Name([])), _NAME, id="no name"),
    pytest.param(lambda name: csr_with(common_names(name, name)), _NAME, id="the name twice"),
    pytest.param(lambda name: csr_with(common_names(name, "grants")), _NAME, id="two names"),
    pytest.param(
        lambda name: _subject((NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, "Mosaic")),
        _NAME,
        id="an organization beside it",
    ),
    pytest.param(lambda name: _subject((NameOID.ORGANIZATION_NAME, name)), _NAME, id="the name as organization"),
    pytest.param(with_long_name, _NAME, id="a name of 65 characters, at which the parser warns"),
]
"""(make, reason): each is what its id says, and holds otherwise."""
