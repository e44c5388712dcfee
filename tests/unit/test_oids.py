"""mosaic_common.oids: one value, one spelling."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from cryptography import x509
from mosaic_common.errors import CertificateRefused, Layer, Reason
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, encode_uuid, parse_extensions, parse_federation_ids, parse_uuid
from mosaic_common.x509 import Ordered

from tests.support import authorities
from tests.support.authorities import Lie, LyingAuthority, double, new_key, omit

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
AN_ID = UUID("0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69")
TEXT = str(AN_ID).encode("ascii")


def test_writes_what_printf_writes() -> None:
    """The encoding is tag 0x0c, length 0x24, 36 characters: what step-ca's template and `printf` produce."""
    assert encode_uuid(AN_ID) == b"\x0c\x24" + b"0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69"


def test_reads_what_it_writes() -> None:
    """Every UUID survives the round trip."""
    assert all(parse_uuid(encode_uuid(each)) == each for each in (AN_ID, UUID(int=0), UUID(int=2**128 - 1), uuid4()))


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x0c", id="tag alone"),
        pytest.param(b"\x0c\x00", id="empty text"),
        pytest.param(TEXT, id="no DER at all"),
        pytest.param(b"\x13\x24" + TEXT, id="PrintableString"),
        pytest.param(b"\x16\x24" + TEXT, id="IA5String"),
        pytest.param(b"\x04\x24" + TEXT, id="OCTET STRING"),
        pytest.param(b"\x04\x26\x0c\x24" + TEXT, id="wrapped once more"),
        pytest.param(b"\x2c\x26\x0c\x24" + TEXT, id="constructed string (BER)"),
        pytest.param(b"\x1e\x48" + str(AN_ID).encode("utf-16-be"), id="BMPString"),
        pytest.param(b"\x1f\x0c\x24" + TEXT, id="the tag in its long form"),
        pytest.param(b"\x8c\x24" + TEXT, id="context-specific tag"),
        pytest.param(b"\x30\x26\x0c\x24" + TEXT, id="in a SEQUENCE"),
        pytest.param(b"\x0c\x24" + TEXT + b"\x0c\x24" + TEXT, id="two of them"),
        pytest.param(b"\x0c\x10" + AN_ID.bytes, id="16 raw bytes"),
        pytest.param(b"\x0c\x27\xef\xbb\xbf" + TEXT, id="byte order mark"),
        pytest.param(b"\x0c\x24" + b" " + TEXT[1:], id="leading space"),
        pytest.param(b"\x0c\x24" + TEXT[:-1] + b"\x00", id="a NUL for the last character"),
        pytest.param(b"\x0c\x82\x00\x24" + TEXT, id="length in two more bytes"),
        pytest.param(b"\x0c\xa4" + TEXT, id="length of 36 more bytes"),
        pytest.param(b"\x0c\x81\x24" + TEXT, id="long form of a short length"),
        pytest.param(b"\x0c\x80" + TEXT + b"\x00\x00", id="indefinite length"),
        pytest.param(b"\x0c\x23" + TEXT, id="length one short"),
        pytest.param(b"\x0c\x25" + TEXT, id="length one long"),
        pytest.param(b"\x0c\x24" + TEXT[:-1], id="text one short"),
        pytest.param(b"\x0c\x24" + TEXT + b"\x00", id="trailing byte"),
        pytest.param(b"\x0c\x24" + TEXT + b"\n", id="trailing line feed"),
        pytest.param(b"\x0c\x24" + TEXT.upper(), id="upper case"),
        pytest.param(b"\x0c\x20" + AN_ID.hex.encode(), id="no hyphens"),
        pytest.param(b"\x0c\x26{" + TEXT + b"}", id="braces"),
        pytest.param(b"\x0c\x2durn:uuid:" + TEXT, id="URN"),
        pytest.param(b"\x0c\x24" + TEXT.replace(b"-", b"_"), id="other separators"),
        pytest.param(b"\x0c\x24" + TEXT[:-1] + b"g", id="not hexadecimal"),
        pytest.param(b"\x0c\x24" + TEXT[:-2] + "é".encode(), id="not ASCII"),
        pytest.param(b"\x0c\x08notauuid", id="any text"),
        pytest.param(b"\x0c\x09%!s(<nil>", id="what an unguarded template renders"),
    ],
)
def test_refuses_every_other_encoding(der: bytes) -> None:
    """Anything but the canonical spelling in DER is malformed, and the refusal does not repeat it."""
    with pytest.raises(CertificateRefused) as refused:
        parse_uuid(der)
    assert refused.value.reason is Reason.CERTIFICATE_OID_MALFORMED
    assert refused.value.layer is Layer.CERTIFICATE


def certificate(*lies: Lie) -> x509.Certificate:
    authority, order = LyingAuthority.make(NOW), Ordered("home", AN_ID, uuid4(), 7, b"", NOW + timedelta(days=1), NOW)
    return x509.load_der_x509_certificate(authority.sign(new_key().public_key(), order, *lies)[0])


@pytest.mark.parametrize("oid", [GRANT_ID_OID, SUBJECT_USER_ID_OID])
@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        pytest.param(omit, Reason.CERTIFICATE_OID_MISSING, id="missing"),
        pytest.param(double, Reason.CERTIFICATE_OID_MALFORMED, id="twice, the same"),
        pytest.param(
            lambda oid: double(oid, encode_uuid(UUID(int=1))),
            Reason.CERTIFICATE_OID_MALFORMED,
            id="twice, two values: whose choice?",
        ),
        pytest.param(authorities.as_printable_string, Reason.CERTIFICATE_OID_MALFORMED, id="PrintableString"),
        pytest.param(authorities.in_upper_case, Reason.CERTIFICATE_OID_MALFORMED, id="upper case"),
        pytest.param(lambda oid: authorities.with_value(oid, b""), Reason.CERTIFICATE_OID_MALFORMED, id="empty"),
    ],
)
def test_refuses_certificates_that_do_not_say_exactly_who(oid: str, lie: object, reason: Reason) -> None:
    """Each identifier has to be there, once, in its one spelling."""
    assert callable(lie)
    with pytest.raises(CertificateRefused) as refused:
        parse_federation_ids(parse_extensions(certificate(lie(oid))))
    assert refused.value.reason is reason


def test_reads_both_identifiers() -> None:
    """The grant id is under .1, the subject user under .2, whether marked critical or not."""
    ids = parse_federation_ids(parse_extensions(certificate()))
    swapped = parse_federation_ids(parse_extensions(certificate(authorities.swap_identifiers)))
    assert ids.grant_id == swapped.subject_user_id == AN_ID


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(double(authorities.KEY_USAGE), id="another extension twice"),
        pytest.param(authorities.with_value(authorities.KEY_USAGE, b"\x05"), id="another extension is no DER"),
    ],
)
def test_does_not_accept_extensions_that_cannot_be_read(lie: Lie) -> None:
    """What the parser cannot read is refused with our reason, not with the parser's exception."""
    with pytest.raises(CertificateRefused) as refused:
        parse_extensions(certificate(lie))
    assert refused.value.reason is Reason.CERTIFICATE_NOT_ACCEPTED
