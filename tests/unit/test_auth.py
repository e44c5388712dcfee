"""mosaic_common.auth: bearer tokens of operators and users."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm
from mosaic_common.auth import (
    DenyList,
    Principal,
    Role,
    TokenIssuer,
    TokenVerifier,
    jwk_set,
    key_id,
    operate_audience,
    own_issuer,
    query_audience,
)
from mosaic_common.errors import AuthRefused, ConfigurationError, Layer, Reason
from mosaic_common.keys import private_pem, public_pem

from tests.support.authorities import new_key
from tests.support.clock import FakeClock
from tests.support.jwts import Forgery, altered_claims, misshapen_claims, refused_forms, refused_headers

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
KEY = new_key()
ED_KEY = ed25519.Ed25519PrivateKey.generate()
HEADERS = {"typ": "at+jwt", "kid": key_id(KEY.public_key())}
APP = "https://app.example.com"


def issued(
    *roles: Role, subject: str = "ada", audience: str = operate_audience("work"), ttl: timedelta = timedelta(minutes=15)
) -> str:
    return TokenIssuer(private_pem(KEY), "work", FakeClock(NOW)).issue(subject, roles, audience, ttl)


def verifier(at: datetime = NOW, **changes: Any) -> TokenVerifier:
    arguments: dict[str, Any] = {
        "jwks": jwk_set([KEY.public_key(), ED_KEY.public_key()]),
        "issuer": own_issuer("work"),
        "audience": operate_audience("work"),
        "gateway": "work",
        "clock": FakeClock(at),
    }
    return TokenVerifier(**{**arguments, **changes})


def forged(key: Any = KEY, algorithm: str | None = "ES256", headers: dict[str, Any] = HEADERS, **changes: Any) -> str:
    good: dict[str, Any] = jwt.decode(issued(Role.READ), options={"verify_signature": False})
    claims = {name: value for name, value in {**good, **changes}.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def test_says_who_is_asking() -> None:
    """A token of this gateway's own issuer gives subject, roles and id."""
    token = issued(Role.READ, Role.ADMIN)
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    assert verifier().verify(token) == Principal("ada", frozenset({Role.READ, Role.ADMIN}), jti, "mosaic:work")


def test_the_wire_form_is_the_documented_one() -> None:
    """typ is RFC 9068's, the key is named, roles are full names."""
    token = issued(Role.QUERY, audience=query_audience("work"))
    assert jwt.get_unverified_header(token) == {"alg": "ES256", **HEADERS}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert {**claims, "jti": ""} == {
        "iss": "mosaic:work",
        "aud": "mosaic:work:query",
        "sub": "ada",
        "jti": "",
        "iat": 1772443800,
        "exp": 1772444700,
        "roles": ["federation:query"],
    }


def test_accepts_eddsa() -> None:
    """An Ed25519 key of the set signs as well."""
    token = forged(ED_KEY, "EdDSA", HEADERS | {"kid": key_id(ED_KEY.public_key())})
    assert verifier().verify(token).roles == {Role.READ}


def test_the_two_audiences_refuse_each_other() -> None:
    """A broken edge cannot replay an administrator's token, nor a user's at the operator listener."""
    operate, query = verifier(), verifier(audience=query_audience("work"))
    for_operate, for_query = issued(Role.READ), issued(Role.QUERY, audience=query_audience("work"))
    operate.verify(for_operate)
    query.verify(for_query)
    for mismatched, token in ((operate, for_query), (query, for_operate)):
        with pytest.raises(AuthRefused) as refused:
            mismatched.verify(token)
        assert refused.value.reason is Reason.AUTH_TOKEN_INVALID


def forged_hs256() -> str:
    """PyJWT refuses to sign with a PEM as secret, so the attacker's part is written out."""
    body = forged("x" * 32, "HS256").rsplit(".", 1)[0]
    signature = HMACAlgorithm(HMACAlgorithm.SHA256).sign(body.encode(), public_pem(KEY.public_key()))
    return f"{body}.{jwt.utils.base64url_encode(signature).decode()}"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: "a", id="no JWS"),
        pytest.param(lambda: "é" * 9, id="not ASCII"),
        pytest.param(lambda: "a." * 10_000, id="20 kB"),
        pytest.param(lambda: issued(Role.READ)[:-8] + "AAAAAAAA", id="signature altered"),
        pytest.param(lambda: issued(Role.READ).rsplit(".", 1)[0] + ".", id="signature removed"),
        pytest.param(lambda: forged(None, None), id="alg none"),
        pytest.param(forged_hs256, id="HS256 with the public key as secret"),
        pytest.param(lambda: forged(new_key()), id="another key under the same kid"),
        pytest.param(lambda: forged(ED_KEY, "EdDSA"), id="EdDSA under the P-256 key's kid: the key chooses"),
        pytest.param(lambda: forged(headers={"typ": "at+jwt"}), id="no kid"),
        pytest.param(lambda: forged(headers=HEADERS | {"kid": "x"}), id="unknown kid"),
        pytest.param(lambda: forged(headers=HEADERS | {"kid": "../../etc/passwd"}), id="a path as kid"),
        pytest.param(
            lambda: forged(headers=HEADERS | {"jwk": ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "x"}), id="own jwk"
        ),
        pytest.param(lambda: forged(headers=HEADERS | {"typ": "JWT"}), id="typ JWT"),
        pytest.param(lambda: forged(headers=HEADERS | {"typ": "mosaic-warrant+jwt"}), id="a warrant"),
        pytest.param(lambda: forged(headers=HEADERS | {"typ": ""}), id="no typ"),
        pytest.param(lambda: forged(iss="mosaic:home"), id="another gateway's issuer"),
        pytest.param(lambda: forged(iss=None), id="no issuer"),
        pytest.param(lambda: forged(aud=operate_audience("home")), id="another gateway's audience"),
        pytest.param(lambda: forged(aud=[operate_audience("work"), query_audience("work")]), id="both audiences"),
        pytest.param(lambda: forged(aud=[operate_audience("work")]), id="a list of one audience"),
        pytest.param(lambda: forged(aud=None), id="no audience"),
        pytest.param(lambda: forged(sub=None), id="no subject"),
        pytest.param(lambda: forged(sub=""), id="empty subject"),
        pytest.param(lambda: forged(sub="ada\nadmin"), id="subject with a line feed"),
        pytest.param(lambda: forged(sub="x" * 256), id="subject too long"),
        pytest.param(lambda: forged(sub=7), id="subject a number"),
        pytest.param(lambda: forged(jti=None), id="no jti: could not be denied"),
        pytest.param(lambda: forged(exp=None), id="no expiry"),
        pytest.param(lambda: forged(iat=None), id="no iat"),
        pytest.param(lambda: forged(iat=1772443831), id="from the future"),
        pytest.param(lambda: forged(nbf=1772443831), id="not valid yet"),
        pytest.param(lambda: forged(exp=1772444700.5), id="expiry with a fraction"),
        pytest.param(lambda: forged(exp=1772443800), id="expires when issued"),
        pytest.param(lambda: forged(roles=None), id="no roles"),
        pytest.param(lambda: forged(roles="federation:admin"), id="roles as text"),
        pytest.param(lambda: forged(roles=["federation:root"]), id="unknown role"),
        pytest.param(lambda: forged(roles=[["federation:admin"]]), id="roles nested"),
        pytest.param(lambda: forged(roles=["federation:admin"], exp=1772443800 + 3601), id="admin for more than an hour"),
    ],
)
def test_refuses_tokens(make: Callable[[], str]) -> None:
    """Whatever is not exactly a token of the issuer for this listener is refused, without repeating it."""
    token = make()
    with pytest.raises(AuthRefused) as refused:
        verifier().verify(token)
    assert refused.value.reason is Reason.AUTH_TOKEN_INVALID
    assert refused.value.layer is Layer.CALLER
    assert token not in refused.value.message or len(token) < 4


FORGERY = Forgery.of(issued(Role.READ), KEY)


@pytest.mark.parametrize(
    "token",
    [*altered_claims(FORGERY), *misshapen_claims(FORGERY), *refused_headers(FORGERY), *refused_forms(FORGERY)],
)
def test_refuses_every_alteration(token: str) -> None:
    """Each claim altered, missing, doubled or of another shape; each header but ours; each other way to write the same."""
    with pytest.raises(AuthRefused) as refused:
        verifier().verify(token)
    assert refused.value.reason is Reason.AUTH_TOKEN_INVALID


def test_what_is_altered_was_good() -> None:
    """Signed again from its own parts, the token above is accepted: each alteration is refused for itself."""
    assert verifier().verify(FORGERY.signed()).subject == "ada"


def test_tells_a_missing_token_from_a_bad_one() -> None:
    """Nothing sent is its own reason."""
    with pytest.raises(AuthRefused) as refused:
        verifier().verify("")
    assert refused.value.reason is Reason.AUTH_TOKEN_MISSING


def test_tells_an_expired_token() -> None:
    """After its end and 30 s for the clocks, a token is expired and says so."""
    token = issued(Role.READ)
    verifier(NOW + timedelta(minutes=15, seconds=29)).verify(token)
    with pytest.raises(AuthRefused) as refused:
        verifier(NOW + timedelta(minutes=15, seconds=30)).verify(token)
    assert refused.value.reason is Reason.AUTH_TOKEN_EXPIRED


def test_an_admin_token_lives_an_hour_at_most() -> None:
    """An hour is issued and accepted, a second more is not even issued; other roles may live longer."""
    verifier().verify(issued(Role.ADMIN, ttl=timedelta(hours=1)))
    verifier().verify(issued(Role.READ, ttl=timedelta(hours=8)))
    for roles, ttl in (([Role.ADMIN], timedelta(hours=1, seconds=1)), ([Role.READ], timedelta())):
        with pytest.raises(ValueError, match="hour"):
            issued(*roles, ttl=ttl)


@pytest.mark.parametrize(
    ("deny", "revoked"),
    [
        pytest.param(DenyList(), False, id="empty"),
        pytest.param(DenyList(jtis=frozenset({"another"})), False, id="another token"),
        pytest.param(DenyList(jtis=frozenset({"this-one"})), True, id="this token"),
        pytest.param(DenyList(subjects={"ada": NOW}), True, id="the subject, up to the second of issue"),
        pytest.param(DenyList(subjects={"ada": NOW - timedelta(seconds=1)}), False, id="the subject, before"),
        pytest.param(DenyList(subjects={"bob": NOW + timedelta(days=1)}), False, id="another subject"),
    ],
)
def test_a_deny_list_takes_effect_at_once(deny: DenyList, revoked: bool) -> None:
    """The list is asked at every verification: a token or a subject with a time."""
    current = DenyList()
    live = verifier(deny=lambda: current)
    token = forged(jti="this-one")
    live.verify(token)
    current = deny
    if not revoked:
        live.verify(token)
        return
    with pytest.raises(AuthRefused) as refused:
        live.verify(token)
    assert refused.value.reason is Reason.AUTH_TOKEN_REVOKED


def test_an_apps_claims_give_no_role() -> None:
    """An app's issuer says who; the configured map says what. Whatever the app writes into roles is ignored."""
    app = verifier(issuer=APP, role_map={"ada": frozenset({Role.READ})})
    assert app.verify(forged(iss=APP, roles=["federation:admin"])).roles == {Role.READ}
    assert app.verify(forged(iss=APP, sub="mallory", roles=["federation:admin"])).roles == frozenset()
    assert app.verify(forged(iss=APP, roles=None)).roles == {Role.READ}


def test_an_apps_admin_token_lives_an_hour_too() -> None:
    """The limit follows the role, wherever it comes from."""
    app = verifier(issuer=APP, role_map={"ada": frozenset({Role.ADMIN})})
    with pytest.raises(AuthRefused):
        app.verify(forged(iss=APP, exp=1772443800 + 3601))


def jwk(key: ec.EllipticCurvePublicKey, **changes: Any) -> dict[str, Any]:
    return {**jwk_set([key])["keys"][0], **changes}


RSA_JWK = {**RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 2048).public_key(), as_dict=True), "kid": "rsa"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"jwks": {}}, id="no set"),
        pytest.param({"jwks": {"keys": []}}, id="no key"),
        pytest.param({"jwks": {"keys": ["x"]}}, id="not an object"),
        pytest.param({"jwks": {"keys": [RSA_JWK]}}, id="RSA alone"),
        pytest.param({"jwks": {"keys": [{"kty": "oct", "k": "AAAA", "kid": "x"}]}}, id="a symmetric key"),
        pytest.param({"jwks": {"keys": [jwk(KEY.public_key(), d="AAAA")]}}, id="a private key"),
        pytest.param({"jwks": {"keys": [jwk(KEY.public_key(), alg="HS256")]}}, id="bound to another algorithm"),
        pytest.param({"jwks": {"keys": [jwk(KEY.public_key(), use="enc")]}}, id="for encryption"),
        pytest.param({"jwks": {"keys": [jwk(KEY.public_key(), x="AAAA")]}}, id="not on the curve"),
        pytest.param({"jwks": {"keys": [jwk(KEY.public_key(), kid=None)]}}, id="no kid"),
        pytest.param({"jwks": {"keys": [jwk(KEY.public_key()), jwk(KEY.public_key())]}}, id="a kid twice"),
        pytest.param({"issuer": APP}, id="an app's issuer without a role map"),
        pytest.param({"role_map": {}}, id="a role map for the own issuer"),
    ],
)
def test_stops_the_start_on_an_unusable_configuration(changes: dict[str, Any]) -> None:
    """What could only refuse everybody, or trust too much, is found before anybody asks."""
    with pytest.raises(ConfigurationError, match=r"JWK set|role map"):
        verifier(**changes)


def test_passes_over_keys_of_other_kinds() -> None:
    """An app's set may hold keys that we do not use."""
    verifier(jwks={"keys": [RSA_JWK, jwk(KEY.public_key())]}).verify(issued(Role.READ))
