"""Every verifier of untrusted bytes, fed with spoiled valid input: it raises its own refusal and nothing else.

What it takes in spite of an edit has to mean what the valid input meant, or to be a complete other one.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from jwt.utils import base64url_decode, base64url_encode
from mosaic_common.auth import Role, TokenIssuer, TokenVerifier, jwk_set, operate_audience, own_issuer
from mosaic_common.errors import (
    AccessDenied,
    AuthRefused,
    CaLied,
    CertificateRefused,
    CsrRefused,
    InvalidInput,
    TokenRefused,
    WarrantRefused,
)
from mosaic_common.identity import parse_peer_certificate, parse_service_identity, service_uri
from mosaic_common.keys import private_pem, public_pem
from mosaic_common.oids import encode_uuid, parse_uuid
from mosaic_common.tokens import EnrollmentOffer, EnrollmentToken, EnrollmentUrl, verify_enroll_proof
from mosaic_common.warrants import WarrantSigner, WarrantVerifier
from mosaic_common.x509 import make_csr, verify_csr, verify_issued

from tests.support import authorities
from tests.support.authorities import LyingAuthority, new_key
from tests.support.clock import FakeClock
from tests.support.mutations import FUZZ, mutated, mutated_text
from tests.support.orders import SigningOrder

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
KEY = new_key()
AN_ID = UUID("0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69")
ORDER = SigningOrder.make(now=NOW)
AUTHORITY = LyingAuthority.make(NOW)
LEAF, INTERMEDIATE = AUTHORITY.sign(ORDER.csr.public_key, ORDER.warrant)


@FUZZ
@given(mutated(encode_uuid(AN_ID)) | st.binary(max_size=64))
def test_an_identifier(der: bytes) -> None:
    """What is read as a UUID is exactly what `encode_uuid` writes for it."""
    try:
        read = parse_uuid(der)
    except CertificateRefused:
        return
    assert encode_uuid(read) == der


CSR = make_csr(KEY, "home")


@FUZZ
@given(mutated(CSR) | st.binary(max_size=64))
def test_a_signing_request(der: bytes) -> None:
    """No edit survives the signature: whatever is taken is the request as its holder signed it."""
    try:
        csr = verify_csr(der, common_name="home")
    except CsrRefused:
        return
    assert der == CSR
    assert csr.public_key == KEY.public_key()


TOKEN, REDEMPTION, PIN = EnrollmentToken(bytes(range(32))), UUID(int=7), bytes(range(32))
PROOF = TOKEN.prove(CSR, REDEMPTION, PIN)


@FUZZ
@given(st.data())
def test_a_proof(data: st.DataObject) -> None:
    """With any one of its five parts spoiled, the proof does not hold; a pin of another length cannot shift the parts."""
    parts = {"key": TOKEN.public_key, "csr": CSR, "redemption": REDEMPTION.bytes, "pin": PIN, "proof": PROOF}
    which = data.draw(st.sampled_from(sorted(parts)))
    spoiled = parts | {which: data.draw(mutated(parts[which]))}
    if which == "redemption":
        spoiled["redemption"] = spoiled["redemption"][:16].ljust(16, b"\x00")
    if spoiled == parts:
        return
    try:
        verify_enroll_proof(spoiled["key"], spoiled["csr"], UUID(bytes=spoiled["redemption"]), spoiled["pin"], spoiled["proof"])
    except TokenRefused:
        return
    raise AssertionError(f"{which} may be {spoiled[which]!r}")


URL = f"https://work.example.com:7444/api/federation/enrollment#gateway=work&cn=home&sha256={PIN.hex()}&token={TOKEN.encode()}"


@FUZZ
@given(mutated_text(URL) | st.text())
def test_an_enrollment_url(url: str) -> None:
    """What is taken has one canonical spelling that says the same, and nobody prints the token."""
    try:
        read = EnrollmentUrl.parse(url)
    except InvalidInput as refusal:
        said = f"{refusal} {refusal.violations}"
    else:
        said = repr(read)
        assert EnrollmentUrl.parse(read.format()) == read
        assert EnrollmentOffer.parse(EnrollmentOffer.format(read)).with_token(read.token) == read
    assert TOKEN.encode()[:20] not in said


@st.composite
def resealed(draw: st.DrawFn, token: str) -> str:
    """A compact JWS of which one part was opened, edited and closed again."""
    parts = [base64url_decode(part) for part in token.split(".")]
    place = draw(st.integers(0, 2))
    parts[place] = draw(mutated(parts[place]))
    return b".".join(map(base64url_encode, parts)).decode()


WARRANT = WarrantSigner(private_pem(KEY)).sign(ORDER.warrant)
WARRANTS = WarrantVerifier(public_pem(KEY.public_key()), FakeClock(NOW))


@FUZZ
@given(resealed(WARRANT) | mutated_text(WARRANT) | st.text())
def test_a_warrant(text: str) -> None:
    """Whatever is taken orders what grants ordered."""
    with suppress(WarrantRefused):
        assert WARRANTS.verify(text) == ORDER.warrant


BEARER = TokenIssuer(private_pem(KEY), "work", FakeClock(NOW)).issue(
    "ada", [Role.READ], operate_audience("work"), timedelta(minutes=15)
)
BEARERS = TokenVerifier(
    jwk_set([KEY.public_key()]),
    issuer=own_issuer("work"),
    audience=operate_audience("work"),
    gateway="work",
    clock=FakeClock(NOW),
)
ADA = BEARERS.verify(BEARER)


@FUZZ
@given(resealed(BEARER) | mutated_text(BEARER) | st.text())
def test_a_bearer_token(text: str) -> None:
    """Whatever is taken is who it was issued to."""
    with suppress(AuthRefused):
        assert BEARERS.verify(text) == ADA


@FUZZ
@given(mutated(LEAF), st.sampled_from([[INTERMEDIATE], [], [INTERMEDIATE, LEAF]]))
def test_an_issued_certificate(der: bytes, rest: list[bytes]) -> None:
    """No edit survives the authority's signature."""
    try:
        issued = verify_issued([der, *rest], ORDER.ordered, root_pem=AUTHORITY.root_pem, now=NOW)
    except CaLied:
        return
    assert issued.der == der == LEAF


@FUZZ
@given(mutated(INTERMEDIATE))
def test_an_intermediate(der: bytes) -> None:
    """Nor does one on the chain between leaf and root."""
    try:
        issued = verify_issued([LEAF, der], ORDER.ordered, root_pem=AUTHORITY.root_pem, now=NOW)
    except CaLied:
        return
    assert issued.chain_der == (der,) == (INTERMEDIATE,)


SERVICE = AUTHORITY.sign(
    KEY.public_key(), ORDER.warrant, authorities.without_identifiers, authorities.with_service_uri(service_uri("grants", "work"))
)[0]


@FUZZ
@given(mutated(LEAF) | mutated(SERVICE))
def test_a_client_certificate(der: bytes) -> None:
    """TLS has verified the signature; what reads the rest raises nothing but its refusal, and takes no one for both."""
    pem = authorities.to_pem(der)
    taken_for: list[object] = []
    with suppress(CertificateRefused):
        taken_for.append(parse_peer_certificate(pem))
    with suppress(AccessDenied):
        taken_for.append(parse_service_identity(pem, gateway="work"))
    assert len(taken_for) < 2


@FUZZ
@given(mutated(AUTHORITY.root.public_bytes(Encoding.PEM)) | st.binary(max_size=64))
def test_a_client_certificate_in_spoiled_pem(pem: bytes) -> None:
    """The same for what is no PEM."""
    try:
        parse_peer_certificate(pem)
    except CertificateRefused:
        return
    raise AssertionError("an authority is no client")
