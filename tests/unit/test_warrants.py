"""mosaic_common.warrants: the broker signs only what grants ordered."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from mosaic_common.errors import ConfigurationError, Reason, WarrantRefused
from mosaic_common.keys import private_pem, public_pem
from mosaic_common.warrants import Purpose, Warrant, WarrantSigner, WarrantVerifier

from tests.support.authorities import new_key
from tests.support.clock import FakeClock
from tests.support.jwts import Forgery, altered_claims, misshapen_claims, refused_forms, refused_headers

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
KEY = new_key()
WARRANT = Warrant(
    jti=UUID("c0ffee00-1234-4abc-8def-0123456789ab"),
    common_name="home",
    grant_id=UUID("0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69"),
    subject_user_id=UUID("7d3a1f60-2b8c-4e95-a0d4-5c6b7a8e9f01"),
    csr_sha256=bytes(range(32)),
    serial=2**128 - 1,
    purpose=Purpose.ENROLL,
    not_after=NOW + timedelta(days=30),
    issued_at=NOW,
    expires_at=NOW + timedelta(seconds=60),
)
HEADER = {"typ": "mosaic-warrant+jwt"}


def signed(warrant: Warrant = WARRANT) -> str:
    return WarrantSigner(private_pem(KEY)).sign(warrant)


def verifier(at: datetime = NOW) -> WarrantVerifier:
    return WarrantVerifier(public_pem(KEY.public_key()), FakeClock(at))


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good warrant; a change to None removes one."""
    good: dict[str, Any] = jwt.decode(signed(), options={"verify_signature": False})
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def forged(key: Any = KEY, algorithm: str | None = "ES256", headers: dict[str, Any] = HEADER, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_carries_an_order_unchanged(purpose: Purpose) -> None:
    """What grants orders is what the broker reads, all 128 bits of the serial included."""
    warrant = replace(WARRANT, purpose=purpose)
    assert verifier().verify(signed(warrant)) == warrant


def test_the_wire_form_is_the_documented_one() -> None:
    """Header and claims are those of the module's table; the serial is text, because JSON numbers lose bits."""
    assert jwt.get_unverified_header(signed()) == {"alg": "ES256", "typ": "mosaic-warrant+jwt"}
    assert claims() == {
        "iss": "grants",
        "aud": "ca-broker",
        "jti": "c0ffee00-1234-4abc-8def-0123456789ab",
        "sub": "home",
        "iat": 1772443800,
        "exp": 1772443860,
        "grant_id": "0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69",
        "subject_user_id": "7d3a1f60-2b8c-4e95-a0d4-5c6b7a8e9f01",
        "csr_sha256": bytes(range(32)).hex(),
        "serial": "340282366920938463463374607431768211455",
        "purpose": "enroll",
        "not_after": 1775035800,
    }


def forged_hs256() -> str:
    """PyJWT refuses to sign with a PEM as secret, so the attacker's part is written out."""
    body = jwt.encode(claims(), "x" * 32, algorithm="HS256", headers=HEADER).rsplit(".", 1)[0]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(body.encode(), public_pem(KEY.public_key()))
    return f"{body}.{jwt.utils.base64url_encode(signature).decode()}"


REFUSED = [
    pytest.param(lambda: "", id="nothing"),
    pytest.param(lambda: "a.b", id="two segments"),
    pytest.param(lambda: "é" * 20, id="not ASCII"),
    pytest.param(lambda: "a" * 10_000, id="10 kB"),
    pytest.param(lambda: signed()[:-8] + "AAAAAAAA", id="signature altered"),
    pytest.param(lambda: signed().rsplit(".", 1)[0] + ".", id="signature removed"),
    pytest.param(lambda: forged(new_key()), id="another key"),
    pytest.param(lambda: forged(None, None), id="alg none"),
    pytest.param(forged_hs256, id="HS256 with the public key as secret"),
    pytest.param(lambda: forged(ec.generate_private_key(ec.SECP384R1()), "ES384"), id="ES384"),
    pytest.param(lambda: forged(ed25519.Ed25519PrivateKey.generate(), "EdDSA"), id="EdDSA"),
    pytest.param(lambda: forged(headers={"typ": "JWT"}), id="typ JWT"),
    pytest.param(lambda: forged(headers={"typ": "at+jwt"}), id="typ of a bearer token"),
    pytest.param(lambda: forged(headers={"typ": ""}), id="no typ"),
    pytest.param(lambda: forged(headers=HEADER | {"crit": ["x"], "x": 1}), id="unknown critical header"),
    pytest.param(lambda: forged(iss="enrollment"), id="another issuer"),
    pytest.param(lambda: forged(iss=None), id="no issuer"),
    pytest.param(lambda: forged(aud="grants"), id="another audience"),
    pytest.param(lambda: forged(aud=["ca-broker"]), id="a list of audiences"),
    pytest.param(lambda: forged(aud=None), id="no audience"),
    pytest.param(lambda: forged(jti="1"), id="jti no UUID"),
    pytest.param(lambda: forged(jti=str(WARRANT.jti).upper()), id="jti in upper case: a second use"),
    pytest.param(lambda: forged(jti=None), id="no jti"),
    pytest.param(lambda: forged(sub="Home"), id="common name in upper case"),
    pytest.param(lambda: forged(sub="home\n"), id="common name with a line feed"),
    pytest.param(lambda: forged(sub=""), id="empty common name"),
    pytest.param(lambda: forged(sub=None), id="no common name"),
    pytest.param(lambda: forged(grant_id="x"), id="grant id no UUID"),
    pytest.param(lambda: forged(grant_id=WARRANT.grant_id.hex), id="grant id without hyphens"),
    pytest.param(lambda: forged(grant_id=None), id="no grant id"),
    pytest.param(lambda: forged(subject_user_id=7), id="subject user id a number"),
    pytest.param(lambda: forged(subject_user_id=None), id="no subject user id"),
    pytest.param(lambda: forged(csr_sha256="00" * 31), id="short hash"),
    pytest.param(lambda: forged(csr_sha256="AA" * 32), id="hash in upper case"),
    pytest.param(lambda: forged(csr_sha256=None), id="no hash"),
    pytest.param(lambda: forged(serial=7), id="serial a number"),
    pytest.param(lambda: forged(serial="0"), id="serial zero"),
    pytest.param(lambda: forged(serial="-7"), id="serial negative"),
    pytest.param(lambda: forged(serial="007"), id="serial with leading zeros"),
    pytest.param(lambda: forged(serial="0x7"), id="serial in hexadecimal"),
    pytest.param(lambda: forged(serial="٧"), id="serial in other digits"),
    pytest.param(lambda: forged(serial=str(2**128)), id="serial of 129 bits"),
    pytest.param(lambda: forged(serial=None), id="no serial"),
    pytest.param(lambda: forged(purpose="revoke"), id="another purpose"),
    pytest.param(lambda: forged(purpose=None), id="no purpose"),
    pytest.param(lambda: forged(not_after="1775035800"), id="not_after as text"),
    pytest.param(lambda: forged(not_after=1775035800.5), id="not_after with a fraction"),
    pytest.param(lambda: forged(not_after=True), id="not_after a bool"),
    pytest.param(lambda: forged(not_after=10**18), id="not_after beyond the calendar"),
    pytest.param(lambda: forged(not_after=-1), id="not_after negative"),
    pytest.param(lambda: forged(not_after=None), id="no not_after"),
    pytest.param(lambda: forged(iat=None), id="no iat"),
    pytest.param(lambda: forged(exp=None), id="no exp"),
    pytest.param(lambda: forged(exp="1772443860"), id="exp as text"),
    pytest.param(lambda: forged(exp=1772443861), id="lives 61 seconds"),
    pytest.param(lambda: forged(exp=1772443800), id="lives no second"),
    pytest.param(lambda: forged(iat=1772443831, exp=1772443850), id="from the future, beyond the leeway"),
    pytest.param(lambda: forged(nbf=1772443800), id="a claim that no warrant has"),
]


@pytest.mark.parametrize("make", REFUSED)
def test_refuses_whatever_grants_did_not_order(make: Callable[[], str]) -> None:
    """Whatever is not exactly a warrant of grants is refused before the authority hears of it, even if grants' key signed it."""
    with pytest.raises(WarrantRefused) as refused:
        verifier().verify(make())
    assert refused.value.reason is Reason.WARRANT_INVALID
    assert refused.value.remedy


FORGERY = Forgery.of(signed(), KEY)


@pytest.mark.parametrize(
    "token",
    [*altered_claims(FORGERY), *misshapen_claims(FORGERY), *refused_headers(FORGERY), *refused_forms(FORGERY)],
)
def test_refuses_every_alteration(token: str) -> None:
    """Each claim altered, missing, doubled or of another shape; each header but ours; each other way to write the same."""
    with pytest.raises(WarrantRefused) as refused:
        verifier().verify(token)
    assert refused.value.reason is Reason.WARRANT_INVALID


def test_what_is_altered_was_good() -> None:
    """Signed again from its own parts, the token above is accepted: each alteration is refused for itself."""
    assert verifier().verify(FORGERY.signed()) == WARRANT


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        pytest.param(timedelta(seconds=89), None, id="within the leeway"),
        pytest.param(timedelta(seconds=90), Reason.WARRANT_EXPIRED, id="leeway over"),
        pytest.param(timedelta(days=1), Reason.WARRANT_EXPIRED, id="yesterday's"),
        pytest.param(timedelta(seconds=-30), None, id="grants' clock 30 s ahead"),
        pytest.param(timedelta(seconds=-31), Reason.WARRANT_INVALID, id="grants' clock 31 s ahead"),
    ],
)
def test_lives_a_minute_and_the_leeway(age: timedelta, reason: Reason | None) -> None:
    """60 s, and 30 s for two clocks; an expired warrant says so, because a new one helps."""
    if reason is None:
        assert verifier(NOW + age).verify(signed()) == WARRANT
        return
    with pytest.raises(WarrantRefused) as refused:
        verifier(NOW + age).verify(signed())
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    "warrant",
    [
        pytest.param(replace(WARRANT, expires_at=NOW + timedelta(seconds=61)), id="61 s"),
        pytest.param(replace(WARRANT, expires_at=NOW), id="0 s"),
        pytest.param(replace(WARRANT, not_after=NOW + timedelta(microseconds=1)), id="fraction of a second"),
    ],
)
def test_signs_no_warrant_that_nobody_would_accept(warrant: Warrant) -> None:
    """A mistake on grants' side is found where it is made."""
    with pytest.raises(ValueError, match="warrant"):
        signed(warrant)


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(public_pem(ec.generate_private_key(ec.SECP384R1()).public_key()), id="P-384"),
        pytest.param(public_pem(ed25519.Ed25519PrivateKey.generate().public_key()), id="Ed25519"),
        pytest.param(private_pem(KEY), id="the private key"),
    ],
)
def test_takes_only_p256_keys(pem: bytes) -> None:
    """A wrong key file stops the start, naming the file."""
    with pytest.raises(ConfigurationError, match=r"warrant\.pub"):
        WarrantVerifier(pem, FakeClock())
    with pytest.raises(ConfigurationError, match=r"warrant\.key"):
        WarrantSigner(pem.replace(private_pem(KEY), b""))
