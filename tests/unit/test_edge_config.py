"""What the edge is told."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_common.config import effective, load
from mosaic_common.errors import ConfigurationError
from mosaic_federation_edge.config import InboundConfig, OutboundConfig

COMMON = {
    "MOSAIC_ENV": "dev",
    "MOSAIC_GATEWAY": "work",
    "MOSAIC_PKI_DIR": "/pki",
    "MOSAIC_INTERNAL_LISTEN": "127.0.0.1:7105",
    "MOSAIC_GRANTS_ADDRESS": "127.0.0.1:7102",
    "DATABASE_URL": "postgresql://mosaic_edge_inbound:a-password-of-this-test@127.0.0.1/mosaic",
    "REDIS_URL": "redis://edge-inbound:a-password-of-this-test@127.0.0.1:6379",
}
INBOUND = COMMON | {"MOSAIC_PUBLIC_LISTEN": "127.0.0.1:7443"}
OUTBOUND = COMMON | {"MOSAIC_USER_LISTEN": "127.0.0.1:7104"}
PRODUCTION = {
    "MOSAIC_ENV": "production",
    "DATABASE_URL": f"{COMMON['DATABASE_URL']}?sslmode=verify-full",
    "REDIS_URL": COMMON["REDIS_URL"].replace("redis://", "rediss://"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of an embedded CA, which says DEV ONLY."""
    folder = tmp_path_factory.mktemp("ca") / "embedded"
    embedded_ca_folder.init(folder, now=datetime.now(UTC))
    return folder / "root.pem"


def test_the_root_is_a_file(root: Path) -> None:
    """Inbound keeps the path, so that the listener can read the file again when it changes."""
    config = load(InboundConfig, INBOUND | {"MOSAIC_FEDERATION_ROOT_FILE": str(root)})
    assert config.mosaic_federation_root_file == root


def test_outbound_needs_no_root() -> None:
    """Whom outbound trusts comes with each connection."""
    assert str(load(OutboundConfig, OUTBOUND).mosaic_user_listen) == "127.0.0.1:7104"


def test_shows_no_password(root: Path) -> None:
    """The configuration that is logged names the database and not its password."""
    config = load(InboundConfig, INBOUND | {"MOSAIC_FEDERATION_ROOT_FILE": str(root)})
    assert "a-password-of-this-test" not in str(effective(config)) + repr(config)


def test_production_refuses_a_development_root(root: Path) -> None:
    """Whoever can write an embedded CA's folder must not be a peer of a production gateway."""
    with pytest.raises(ConfigurationError, match="DEV ONLY"):
        load(InboundConfig, INBOUND | PRODUCTION | {"MOSAIC_FEDERATION_ROOT_FILE": str(root)})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="no file"),
        pytest.param("", id="empty"),
        pytest.param("no certificate", id="not PEM"),
        pytest.param("twice", id="two certificates: which one is trusted would be left open"),
    ],
)
def test_refuses_what_is_no_root(tmp_path: Path, root: Path, content: str | None) -> None:
    """One sentence that names the variable stops the start."""
    path = tmp_path / "root.pem"
    if content is not None:
        path.write_text(root.read_text() * 2 if content == "twice" else content)
    with pytest.raises(ConfigurationError, match="MOSAIC_FEDERATION_ROOT_FILE"):
        load(InboundConfig, INBOUND | {"MOSAIC_FEDERATION_ROOT_FILE": str(path)})


def test_names_the_root_that_is_missing() -> None:
    """Given as text it is as good as not given, and the sentence says in which variable it belongs."""
    with pytest.raises(ConfigurationError, match="MOSAIC_FEDERATION_ROOT_FILE is not set"):
        load(InboundConfig, INBOUND | {"MOSAIC_FEDERATION_ROOT": "-----BEGIN CERTIFICATE-----"})
