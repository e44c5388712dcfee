"""The step-ca adapter against every kind of answer, without a step-ca."""

import base64
import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import Enum
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
from mosaic_common.crl import MAX_REVOCATION_LIST_BYTES
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
    """Whatever goes wrong below is tried once; nobody knows whether it signed, unless no connection came to be."""

    def fail(_request: httpx.Request) -> httpx.Response:
        raise error("") if issubclass(error, httpx.HTTPError) else error()

    step_ca, wire = dial(fail)
    with pytest.raises(CaUnreachable) as raised:
        await step_ca.sign(order.csr, order.warrant)
    unsent = {httpx.ConnectError, httpx.ConnectTimeout}
    assert raised.value.metadata[CA_MAY_HAVE_SIGNED] == ("false" if error in unsent else "true")
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
    await step_ca.revoke(2**127 + 1, reason="peer revoked")
    claims = jwt.decode(wire.sent["ott"], jwk, algorithms=["ES256"]).claims
    assert (claims["sub"], claims["aud"]) == (str(2**127 + 1), f"{URL}/1.0/revoke")
    assert {name: value for name, value in wire.sent.items() if name != "ott"} == {
        "serial": str(2**127 + 1),
        "passive": True,
        "reasonCode": 9,  # privilegeWithdrawn
        "reason": "peer revoked",
    }


async def test_makes_the_reason_safe(dial: Dial) -> None:
    """step-ca writes it into its log: no line break, escape or length of an operator's reaches it."""
    step_ca, wire = dial(answering(200, {"status": "ok"}))
    await step_ca.revoke(7, reason='lost\n{"level":"fake"}\x1b[31m\u202e' + "x" * 500)
    reason = wire.sent["reason"]
    assert reason.startswith('lost?{"level":"fake"}?[31m?x')
    assert (len(reason), reason.isprintable()) == (200, True)


async def test_takes_already_revoked_as_done(dial: Dial) -> None:
    """The outbox repeats what it is not sure of; the second time is no failure."""
    step_ca, _ = dial(answering(400, {"status": 400, "message": "certificate with serial number '7' is already revoked"}))
    await step_ca.revoke(7, reason="")


@pytest.mark.parametrize(
    "answer",
    [
        *(
            pytest.param(answering(status, {"message": "no"}), id=str(status))
            for status in (201, 204, 302, 400, 401, 403, 500, 501)
        ),
        pytest.param(answering(200, content=b"<html>welcome</html>"), id="200 of something else"),
        pytest.param(answering(200, {"status": "queued"}), id="200 without ok"),
        pytest.param(answering(403, {"message": "certificate with serial number '7' is already revoked"}), id="already, but 403"),
    ],
)
async def test_owes_a_revocation_that_was_not_confirmed(dial: Dial, answer: Answering) -> None:
    """Any answer but step-ca's own two leaves the revocation in the outbox."""
    step_ca, _ = dial(answer)
    with pytest.raises(CaError):
        await step_ca.revoke(7, reason="")


def publishing(crl_der: bytes, intermediates: bytes) -> Answering:
    return lambda request: (
        httpx.Response(200, stream=httpx.ByteStream(crl_der))
        if request.url.path == "/1.0/crl"
        else httpx.Response(201, stream=httpx.ByteStream(intermediates))
    )


def shown(root: FederationRoot) -> bytes:
    return json.dumps({"crts": [root.pem.decode()]}).encode()


async def test_brings_list_and_intermediates(dial: Dial, root: FederationRoot) -> None:
    """Both as bytes, not yet believed; 0.29 answers for its intermediates with 201."""
    step_ca, wire = dial(publishing(b"a list", shown(root)))
    published = await step_ca.revocation_list()
    assert published.crl_der == b"a list"
    assert [hashlib.sha256(each).digest() for each in published.chain_der] == [root.fingerprint]
    assert [(each.method, each.url.path) for each in wire.requests] == [("GET", "/1.0/crl"), ("GET", "/1.0/intermediates")]


async def test_takes_a_list_that_is_larger_than_other_answers(dial: Dial, root: FederationRoot) -> None:
    """2 MiB of revocations arrive; one byte more is where it stops reading."""
    step_ca, _ = dial(publishing(b"x" * MAX_REVOCATION_LIST_BYTES, shown(root)))
    assert len((await step_ca.revocation_list()).crl_der) == MAX_REVOCATION_LIST_BYTES
    step_ca, _ = dial(publishing(b"x" * (MAX_REVOCATION_LIST_BYTES + 1), shown(root)))
    with pytest.raises(CaUnreachable):
        await step_ca.revocation_list()


@pytest.mark.parametrize(
    "intermediates", [b"", b"{}", b'{"crts": []}', b'{"crts": ["x"]}', b'{"crts": [null]}', b'{"crts": "x"}'], ids=repr
)
async def test_has_no_list_without_intermediates(dial: Dial, intermediates: bytes) -> None:
    """A list that nobody can verify is none."""
    step_ca, _ = dial(publishing(b"a list", intermediates))
    with pytest.raises(CaUnreachable) as raised:
        await step_ca.revocation_list()
    assert raised.value.remedy


SEE_LOGS = "Please see the certificate authority logs for more info."
UNAUTHORIZED = f"The request lacked necessary authorization to be completed. {SEE_LOGS}"
UNSUPPORTED = f"The requested method is not implemented by the certificate authority. {SEE_LOGS}"
INTERNAL = f"The certificate authority encountered an Internal Server Error. {SEE_LOGS}"
NOT_FOUND = f"The certificate authority received an unexpected HTTP status code - '404'. {SEE_LOGS}"
FORBIDDEN = "The request was forbidden by the certificate authority:"
INCOMPLETE = "The request could not be completed:"
TOO_LONG = f"{FORBIDDEN} requested duration of 27239h24m39s is more than the authorized maximum certificate duration of 720h1m0s."
OTHER_NAME = f"{FORBIDDEN} certificate request does not contain the valid common name - got home, want [other other]."


class Asked(Enum):
    """What the broker asks step-ca for."""

    SIGN = "/1.0/sign"
    REVOKE = "/1.0/revoke"
    PUBLISH = "/1.0/crl"


@pytest.mark.parametrize(
    ("asked", "status", "message", "error", "remedy"),
    [
        (Asked.SIGN, 400, f"{INCOMPLETE} the claim mosaic_grant_id is absent.", CaRefused, "federation-leaf.tpl"),
        (Asked.SIGN, 400, f"{INCOMPLETE} notAfter cannot be in the past; na=2020-01-01 00:00:00 +0000 UTC.", CaRefused, "clocks"),
        (Asked.SIGN, 401, UNAUTHORIZED, CaRefused, "A warrant is honoured once"),
        (Asked.SIGN, 403, f'{FORBIDDEN} certificate request fingerprint does not match "AAAA".', CaRefused, "defect of the broker"),
        (Asked.SIGN, 403, OTHER_NAME, CaRefused, "defect of the broker"),
        (Asked.SIGN, 403, TOO_LONG, CaRefused, "claims of provisioner mosaic-fed"),
        (Asked.SIGN, 404, "404 page not found", CaRefused, "STEP_CA_URL"),
        (Asked.SIGN, 429, "slow down", CaRefused, "in front of it"),
        (Asked.SIGN, 500, INTERNAL, CaUnreachable, "database"),
        (Asked.SIGN, 500, "error applying certificate template", CaUnreachable, "its template"),
        (Asked.SIGN, 502, "<html>Bad Gateway</html>", CaUnreachable, "in front of it"),
        (Asked.SIGN, 503, "<html>Service Unavailable</html>", CaUnreachable, "in front of it"),
        (Asked.SIGN, 504, "<html>Gateway Timeout</html>", CaUnreachable, "in front of it"),
        (Asked.SIGN, 307, "elsewhere", CaUnreachable, "STEP_CA_URL"),
        (Asked.REVOKE, 400, f"{INCOMPLETE} reasonCode out of bounds.", CaRefused, "defect"),
        (Asked.REVOKE, 401, UNAUTHORIZED, CaRefused, "token of its own"),
        (Asked.REVOKE, 403, f'{FORBIDDEN} request serial number "7" and token subject "8" do not match.', CaRefused, "defect"),
        (Asked.REVOKE, 500, INTERNAL, CaUnreachable, "database"),
        (Asked.REVOKE, 501, UNSUPPORTED, CaUnreachable, "--no-db"),
        (Asked.REVOKE, 502, "<html>Bad Gateway</html>", CaUnreachable, "in front of it"),
        (Asked.PUBLISH, 404, NOT_FOUND, CaRefused, "switches the list on"),
        (Asked.PUBLISH, 500, INTERNAL, CaUnreachable, "database"),
        (Asked.PUBLISH, 501, UNSUPPORTED, CaUnreachable, "--no-db"),
        (Asked.PUBLISH, 502, "<html>Bad Gateway</html>", CaUnreachable, "in front of it"),
        (Asked.PUBLISH, 301, "elsewhere", CaUnreachable, "STEP_CA_URL"),
    ],
    ids=lambda value: value.value if isinstance(value, Asked) else str(value)[:60] if isinstance(value, int | str) else "",
)
async def test_says_what_to_do_about_each_answer(
    dial: Dial, order: SigningOrder, asked: Asked, status: int, message: str, error: type[CaError], remedy: str
) -> None:
    """What step-ca 0.29.0 says, and a proxy in its place, is a typed error with one sentence of remedy; nothing is asked twice."""
    body = message.encode() if message.startswith("<") else json.dumps({"status": status, "message": message}).encode()
    step_ca, wire = dial(answering(status, content=body))
    calls: dict[Asked, Callable[[], Awaitable[object]]] = {
        Asked.SIGN: lambda: step_ca.sign(order.csr, order.warrant),
        Asked.REVOKE: lambda: step_ca.revoke(7, reason=""),
        Asked.PUBLISH: step_ca.revocation_list,
    }
    with pytest.raises(CaError) as raised:
        await calls[asked]()
    assert type(raised.value) is error
    assert raised.value.remedy is not None
    assert remedy in raised.value.remedy
    assert raised.value.remedy.endswith(".")
    assert ". " not in raised.value.remedy
    assert [request.url.path for request in wire.requests] == [asked.value]


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
