"""The step-ca adapter against every kind of answer, without a step-ca."""

import base64
import hashlib
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.step_ca import StepCa
from mosaic_common.errors import CA_MAY_HAVE_SIGNED, CaError, CaLied, CaRefused, CaUnreachable, ConfigurationError
from mosaic_common.x509 import verify_csr

from tests.support.clock import FakeClock
from tests.support.orders import SigningOrder

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
URL = "https://ca.example.com:9000"
Answering = Callable[[httpx.Request], httpx.Response]


class Wire:
    """step-ca's side: answers as told and keeps what it was asked."""

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)

    @property
    def sent(self) -> dict[str, Any]:
        """The document of the only request."""
        (request,) = self.requests
        document: dict[str, Any] = json.loads(request.content)
        return document


Dial = Callable[[Answering], tuple[StepCa, Wire]]


@pytest.fixture(scope="module")
def jwk() -> ECKey:
    return ECKey.generate_key("P-256", parameters={"kid": "kid-of-this-test"})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> FederationRoot:
    folder = tmp_path_factory.mktemp("root") / "ca"
    embedded_ca_folder.init(folder, now=NOW)
    return FederationRoot.load(folder / "root.pem", environment="dev")


@pytest.fixture
def order() -> SigningOrder:
    return SigningOrder.make(now=NOW)


@pytest.fixture
def dial(jwk: ECKey, root: FederationRoot) -> Dial:
    key = ProvisionerKey.parse(json.dumps(jwk.as_dict(private=True)), password=None)

    def connect(answer: Answering) -> tuple[StepCa, Wire]:
        wire = Wire(answer)
        return StepCa(URL, root, key, FakeClock(NOW), transport=httpx.MockTransport(wire)), wire

    return connect


def answering(status: int, document: object = None, *, content: bytes | None = None) -> Answering:
    body = content if content is not None else json.dumps(document).encode()
    return lambda _request: httpx.Response(status, stream=httpx.ByteStream(body))


def signed(root: FederationRoot, length: int = 2) -> Answering:
    return answering(201, {"certChain": [root.pem.decode()] * length})


async def test_mints_a_token_that_orders_exactly_this_certificate(
    dial: Dial, jwk: ECKey, root: FederationRoot, order: SigningOrder
) -> None:
    """The token carries the warrant's own jti, the CSR's hash, both ids and the serial; it lives a minute."""
    step_ca, wire = dial(signed(root))
    await step_ca.sign(order.csr, order.warrant)
    token = jwt.decode(wire.sent["ott"], jwk, algorithms=["ES256"])
    issued_at = int(NOW.timestamp())
    assert token.header == {"typ": "JWT", "alg": "ES256", "kid": "kid-of-this-test"}
    assert token.claims == {
        "iss": "mosaic-fed",
        "aud": f"{URL}/1.0/sign",
        "sub": "home",
        "sans": [],
        "jti": str(order.warrant.jti),
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + 60,
        "cnf": {"x5rt#S256": base64.urlsafe_b64encode(hashlib.sha256(order.csr.der).digest()).decode().rstrip("=")},
        "mosaic_grant_id": str(order.warrant.grant_id),
        "mosaic_subject_user_id": str(order.warrant.subject_user_id),
        "mosaic_serial": str(order.warrant.serial),
    }


async def test_sends_the_csr_and_the_expiry_and_nothing_else(dial: Dial, root: FederationRoot, order: SigningOrder) -> None:
    """No templateData travels: whatever decides about the certificate is in the signed token. One request, no retry."""
    step_ca, wire = dial(signed(root))
    await step_ca.sign(order.csr, order.warrant)
    assert wire.sent.keys() == {"csr", "ott", "notAfter"}
    assert wire.sent["notAfter"] == "2026-03-08T12:00:00Z"
    pem = wire.sent["csr"].replace(" REQUEST", "")
    assert verify_csr(ssl.PEM_cert_to_DER_cert(pem), common_name="home", sha256=order.csr.sha256) is not None


async def test_returns_the_chain_as_der(dial: Dial, root: FederationRoot, order: SigningOrder) -> None:
    """What comes back is bytes, not yet believed."""
    step_ca, _ = dial(signed(root))
    chain = await step_ca.sign(order.csr, order.warrant)
    assert [hashlib.sha256(each).digest() for each in chain] == [root.fingerprint] * 2


@pytest.mark.parametrize(
    ("status", "error", "may_have_signed"),
    [
        pytest.param(400, CaRefused, "false", id="400: the template's own refusal"),
        pytest.param(403, CaRefused, "false", id="403: the provisioner's refusal"),
        pytest.param(401, CaRefused, "true", id="401: a replay answers so, and the first use may have signed"),
        pytest.param(404, CaRefused, "true", id="404: something else listens there"),
        pytest.param(405, CaRefused, "true", id="405"),
        pytest.param(413, CaRefused, "true", id="413: a proxy"),
        pytest.param(429, CaRefused, "true", id="429: a proxy"),
        pytest.param(418, CaRefused, "true", id="a status that nobody expects"),
        pytest.param(499, CaRefused, "true", id="a status that nobody has registered"),
        pytest.param(500, CaUnreachable, "true", id="500: also when the certificate was signed and could not be stored"),
        pytest.param(501, CaUnreachable, "true", id="501"),
        pytest.param(503, CaUnreachable, "true", id="503"),
        pytest.param(200, CaUnreachable, "true", id="200: step-ca signs with 201"),
        pytest.param(204, CaUnreachable, "true", id="204"),
        pytest.param(302, CaUnreachable, "true", id="302: never followed, the token would travel"),
    ],
)
async def test_maps_every_status(dial: Dial, order: SigningOrder, status: int, error: type[CaError], may_have_signed: str) -> None:
    """Each kind of answer is a typed error with a remedy; only 400 and 403 say that nothing can have been signed."""
    step_ca, wire = dial(answering(status, {"status": status, "message": "the authority's sentence"}))
    with pytest.raises(CaError) as raised:
        await step_ca.sign(order.csr, order.warrant)
    assert type(raised.value) is error
    assert raised.value.metadata[CA_MAY_HAVE_SIGNED] == may_have_signed
    assert raised.value.remedy
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="not JSON"),
        pytest.param(b"[" * 50_000, id="JSON too deep to parse"),
        pytest.param(b"[]", id="not an object"),
        pytest.param(b"{}", id="no chain"),
        pytest.param(b'{"certChain": []}', id="empty chain"),
        pytest.param(b'{"certChain": "x"}', id="chain is text"),
        pytest.param(b'{"certChain": [1]}', id="chain of numbers"),
        pytest.param(b'{"certChain": ["x"]}', id="no PEM"),
        pytest.param(b'{"certChain": ["a","b","c","d","e"]}', id="a chain of five"),
    ],
)
async def test_calls_a_signature_that_it_cannot_show_a_lie(dial: Dial, order: SigningOrder, content: bytes) -> None:
    """201 without a readable chain: it may have signed anything."""
    step_ca, _ = dial(answering(201, content=content))
    with pytest.raises(CaLied) as raised:
        await step_ca.sign(order.csr, order.warrant)
    assert raised.value.remedy


def concrete_httpx_errors() -> list[type[Exception]]:
    """Every exception that httpx can raise for a request, without those that it only groups under."""
    found: list[type[Exception]] = []
    waiting: list[type[Exception]] = [httpx.HTTPError, httpx.StreamError]
    while waiting:
        each = waiting.pop()
        below = each.__subclasses__()
        waiting.extend(below)
        if not below and each is not httpx.HTTPStatusError:  # which only raise_for_status raises
            found.append(each)
    return found


@pytest.mark.parametrize("error", [*concrete_httpx_errors(), TimeoutError], ids=lambda error: error.__name__)
async def test_maps_every_error_of_the_http_library(dial: Dial, order: SigningOrder, error: type[Exception]) -> None:
    """Whatever goes wrong below, nobody knows whether it signed, and it is tried once."""

    def fail(_request: httpx.Request) -> httpx.Response:
        raise error("") if issubclass(error, httpx.HTTPError) else error()

    step_ca, wire = dial(fail)
    with pytest.raises(CaUnreachable) as raised:
        await step_ca.sign(order.csr, order.warrant)
    assert raised.value.metadata[CA_MAY_HAVE_SIGNED] == "true"
    assert raised.value.remedy
    assert len(wire.requests) == 1


async def test_stops_reading_an_endless_answer(dial: Dial, order: SigningOrder) -> None:
    """An authority that floods costs 64 KiB."""
    step_ca, _ = dial(answering(201, content=b" " * 65_537))
    with pytest.raises(CaUnreachable):
        await step_ca.sign(order.csr, order.warrant)


async def test_makes_the_authoritys_words_safe(dial: Dial, order: SigningOrder) -> None:
    """step-ca repeats names that a stranger chose: no line break, escape or length of theirs reaches a log."""
    step_ca, _ = dial(answering(403, {"message": "got \x1b[31m\n\u202e" + "x" * 500}))
    with pytest.raises(CaRefused) as raised:
        await step_ca.sign(order.csr, order.warrant)
    assert raised.value.message.isascii()
    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 300


async def test_no_error_repeats_token_or_csr(dial: Dial, order: SigningOrder) -> None:
    """Even when the authority echoes nothing but noise, our sentence holds neither the one-time token nor the CSR."""
    step_ca, wire = dial(answering(500, {"message": "broken"}))
    with pytest.raises(CaUnreachable) as raised:
        await step_ca.sign(order.csr, order.warrant)
    told = f"{raised.value.message} {raised.value.remedy} {raised.value.metadata}"
    assert wire.sent["ott"] not in told
    assert "BEGIN" not in told


async def test_revokes_with_a_token_of_its_own(dial: Dial, jwk: ECKey) -> None:
    """The token names the decimal serial and the revoke endpoint; passive, so that the CRL tells it."""
    step_ca, wire = dial(answering(200, {"status": "ok"}))
    await step_ca.revoke(2**127 + 1)
    claims = jwt.decode(wire.sent["ott"], jwk, algorithms=["ES256"]).claims
    assert (claims["sub"], claims["aud"]) == (str(2**127 + 1), f"{URL}/1.0/revoke")
    assert (wire.sent["serial"], wire.sent["passive"]) == (str(2**127 + 1), True)


async def test_takes_already_revoked_as_done(dial: Dial) -> None:
    """The outbox repeats what it is not sure of; the second time is no failure."""
    step_ca, _ = dial(answering(400, {"status": 400, "message": "certificate with serial number '7' is already revoked"}))
    await step_ca.revoke(7)


@pytest.mark.parametrize("status", [400, 401, 403, 500, 501])
async def test_owes_a_revocation_that_was_not_confirmed(dial: Dial, status: int) -> None:
    """Any other answer leaves the revocation in the outbox."""
    step_ca, _ = dial(answering(status, {"message": "no"}))
    with pytest.raises(CaError):
        await step_ca.revoke(7)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(answering(500, {}), id="failing"),
        pytest.param(answering(200, {"status": "starting"}), id="not well"),
        pytest.param(answering(200, content=b"hello"), id="something else"),
    ],
)
async def test_is_not_well_when_the_authority_is_not(dial: Dial, answer: Answering) -> None:
    """Only step-ca's own ok counts."""
    step_ca, _ = dial(answer)
    with pytest.raises(CaUnreachable):
        await step_ca.ping()


class TestFederationRoot:
    """The pinned root."""

    def test_compares_the_fingerprint(self, root: FederationRoot) -> None:
        """Digits count, spelling does not: colons and upper case are how other tools print the same bytes."""
        root.verify_fingerprint(root.fingerprint.hex())
        root.verify_fingerprint(root.fingerprint.hex(":").upper() + "\n")

    @pytest.mark.parametrize(
        "expected", [pytest.param("", id="empty"), pytest.param("00" * 32, id="another"), pytest.param("x", id="no digits")]
    )
    def test_refuses_another_root(self, root: FederationRoot, expected: str) -> None:
        """A root file that was exchanged stops the start."""
        with pytest.raises(ConfigurationError, match="STEP_CA_ROOT_FINGERPRINT"):
            root.verify_fingerprint(expected)

    def test_production_refuses_a_development_root(self, root: FederationRoot, tmp_path: Path) -> None:
        """An embedded authority's root, whose key lay about, is believed by no production service."""
        (tmp_path / "root.pem").write_bytes(root.pem)
        with pytest.raises(ConfigurationError, match="DEV ONLY"):
            FederationRoot.load(tmp_path / "root.pem", environment="production")

    @pytest.mark.parametrize("copies", [0, 2])
    def test_takes_exactly_one_certificate(self, root: FederationRoot, tmp_path: Path, copies: int) -> None:
        """A second certificate in the file would be trusted without having been compared."""
        (tmp_path / "root.pem").write_bytes(root.pem * copies)
        with pytest.raises(ConfigurationError):
            FederationRoot.load(tmp_path / "root.pem", environment="dev")

    def test_trusts_nothing_else(self, root: FederationRoot) -> None:
        """One root, TLS 1.3, names checked; nothing of the system's store."""
        context = root.tls_context()
        assert len(context.get_ca_certs()) == 1
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


class TestProvisionerKey:
    """What is accepted as the provisioner's key."""

    @pytest.mark.parametrize(
        "document",
        [
            pytest.param("", id="empty"),
            pytest.param("{", id="half a JSON"),
            pytest.param("[]", id="a list"),
            pytest.param('{"kty":"oct","k":"AAAA"}', id="symmetric"),
            pytest.param('{"kty":"EC","crv":"P-256"}', id="no coordinates"),
            pytest.param("a.b.c.d.e", id="no JWE"),
        ],
    )
    def test_refuses_what_is_no_key(self, document: str) -> None:
        """One sentence that names the variable and nothing of its value."""
        with pytest.raises(ConfigurationError, match="STEP_CA_PROVISIONER_KEY_JSON"):
            ProvisionerKey.parse(document, password="a-long-enough-password")

    @pytest.mark.parametrize(
        "key",
        [
            pytest.param(ECKey.generate_key("P-384", parameters={"kid": "k"}).as_dict(private=True), id="P-384"),
            pytest.param(ECKey.generate_key("P-256", parameters={"kid": "k"}).as_dict(private=False), id="public half"),
            pytest.param(ECKey.generate_key("P-256", auto_kid=False).as_dict(private=True), id="no kid"),
        ],
    )
    def test_refuses_another_kind_of_key(self, key: dict[str, Any]) -> None:
        """step-ca finds the key by its kid and verifies ES256."""
        with pytest.raises(ConfigurationError, match="P-256"):
            ProvisionerKey.parse(json.dumps(key), password=None)

    def test_is_not_printed(self, jwk: ECKey) -> None:
        """A key in a traceback or a log shows its id only."""
        document = jwk.as_dict(private=True)
        assert str(document["d"]) not in repr(ProvisionerKey.parse(json.dumps(document), password=None))
