"""Which authority a configuration names."""

from pathlib import Path

import pytest
from mosaic_ca_broker.config import StepCaSettings, parse_config
from mosaic_common.errors import ConfigurationError

BASE = {"MOSAIC_GATEWAY": "work", "MOSAIC_PKI_DIR": "/pki", "MOSAIC_INTERNAL_LISTEN": "127.0.0.1:7101"}
EMBEDDED = {"MOSAIC_ENV": "dev", "MOSAIC_EMBEDDED_CA_DIR": "/ca"}
STEP_CA = {
    "STEP_CA_URL": "https://ca.internal:9000",
    "STEP_CA_PROVISIONER_KEY_JSON": '{"kty":"EC","crv":"P-256","kid":"k","d":"…"}',
    "STEP_CA_ROOT_CERT_PATH": "/root.pem",
    "STEP_CA_ROOT_FINGERPRINT": "00" * 32,
}


def test_names_the_embedded_authority() -> None:
    """Development needs a folder and nothing else."""
    assert parse_config(BASE | EMBEDDED).authority == Path("/ca")


def test_names_step_ca() -> None:
    """Production needs address, key and pinned root; a password only where the key is encrypted."""
    authority = parse_config(BASE | STEP_CA).authority
    assert isinstance(authority, StepCaSettings)
    assert (authority.url, authority.provisioner_password) == ("https://ca.internal:9000", None)


def test_prints_no_secret() -> None:
    """The provisioner's key stays out of every representation."""
    assert '"d"' not in repr(parse_config(BASE | STEP_CA))


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="none at all"),
        pytest.param({"MOSAIC_EMBEDDED_CA_DIR": "/ca"}, id="the embedded one in production, which is what unset means"),
        pytest.param(STEP_CA | {"STEP_CA_URL": "http://ca.internal:9000"}, id="step-ca without TLS"),
        pytest.param({"MOSAIC_ENV": "dev"}, id="none in development"),
        pytest.param(EMBEDDED | STEP_CA, id="two"),
        *(pytest.param({name: STEP_CA[name] for name in STEP_CA if name != left_out}, id=f"no {left_out}") for left_out in STEP_CA),
    ],
)
def test_refuses_anything_but_one_authority(environ: dict[str, str]) -> None:
    """One sentence that names the variables stops the start."""
    with pytest.raises(ConfigurationError, match=r"STEP_CA_URL|MOSAIC_EMBEDDED_CA_DIR"):
        parse_config(BASE | environ)
