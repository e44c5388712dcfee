"""What may be logged under which name."""

import base64
import json
import secrets
from dataclasses import dataclass

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from mosaic_common import log
from mosaic_common.keys import private_pem
from mosaic_common.log import REDACTED, redact
from mosaic_common.tokens import EnrollmentToken


@dataclass
class Holder:
    """Something with a secret in its repr."""

    token: str


TOKEN = EnrollmentToken(secrets.token_bytes(32)).encode()
PEM = private_pem(ec.generate_private_key(ec.SECP256R1())).decode()
JWS = ".".join(
    base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"ES256"}', b'{"sub":"maya"}', secrets.token_bytes(64))
)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        pytest.param("token", "anything", "anything", id="a secret's name"),
        pytest.param("sealing_key", "anything", "anything", id="a key's name"),
        pytest.param("csr", "anything", "anything", id="a CSR"),
        pytest.param("cause", f"bad key {PEM}", PEM.splitlines()[1], id="PEM in a sentence"),
        pytest.param("cause", f"refused {JWS}", JWS, id="a bearer token in a sentence"),
        pytest.param("cause", f"'{TOKEN}' is no user", TOKEN, id="a bare enrollment token in a sentence"),
        pytest.param("cause", f"There is no peer {TOKEN * 2!r}.", TOKEN, id="an enrollment token that was pasted twice"),
        pytest.param("cause", repr(f"\0{TOKEN}"), TOKEN, id="an enrollment token behind a NUL"),
        pytest.param("cause", f"https://work#cn=home&token={TOKEN}", TOKEN, id="an enrollment URL"),
        pytest.param("cause", "postgresql://role:hunter/2@db/mosaic", "hunter", id="a password in a URL"),
        pytest.param("cause", '{"crv":"P-256","d":"' + TOKEN + '"}', TOKEN, id="the secret part of a JWK"),
        pytest.param("detail", {"outer": {"password": "hunter2"}}, "hunter2", id="a nested name"),
        pytest.param("detail", {TOKEN: 1}, TOKEN, id="a key of a mapping"),
        pytest.param("detail", ["x", TOKEN], TOKEN, id="in a list"),
        pytest.param("detail", ValueError(f"no {TOKEN}"), TOKEN, id="an exception"),
        pytest.param("detail", Holder(TOKEN), TOKEN, id="an object's repr"),
        pytest.param("detail", TOKEN.encode(), TOKEN, id="bytes"),
    ],
)
def test_no_secret_is_logged(name: str, value: object, secret: str) -> None:
    """Whatever it is called and wherever it stands, a secret does not come out."""
    assert secret not in json.dumps(redact(value, name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "/mosaic.federation.v1.FederationService/ListResources"),
        ("request_id", "96776582-b2a3-471e-8689-0d6185057fbe"),
        ("hash", "bce439ce443b98d9decb5611c07917054b12fc779fe994adcbc613ed45bf6fd5"),
        ("token_id", "bce439ce443b98d9decb5611c07917054b12fc779fe994adcbc613ed45bf6fd5"),
        ("signature", "bce439ce443b98d9decb5611c07917054b12fc779fe994adcbc613ed45bf6fd5" * 2),
        ("source", "127.0.0.1"),
        ("rows", 50),
        ("up", True),
        ("cause", None),
    ],
)
def test_what_is_no_secret_is_readable(name: str, value: object) -> None:
    """A log that hides what is needed to find a fault is no log."""
    assert redact(value, name) == value


def test_a_line_is_one_json_object_that_says_who(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """One line an event, with service and gateway, parseable, secrets out."""
    try:
        log.configure("grants", "work")
        log.logger("test").info("happened", token=TOKEN, rows=3)
    finally:
        structlog.reset_defaults()
    [line] = capfdbinary.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["service"], told["gateway"], told["event"], told["rows"], told["token"]) == (
        "grants",
        "work",
        "happened",
        3,
        REDACTED,
    )
