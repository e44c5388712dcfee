"""The root that federation certificates lead to, as every service reads it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_common.errors import ConfigurationError
from mosaic_common.federation_root import parse_federation_root

from tests.support.authorities import LyingAuthority

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def root() -> bytes:
    return LyingAuthority.make(NOW).root_pem


@pytest.fixture(scope="module")
def embedded_root(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder: Path = tmp_path_factory.mktemp("ca") / "embedded"
    embedded_ca_folder.init(folder, now=NOW)
    return (folder / "root.pem").read_bytes()


def test_production_refuses_the_root_of_an_embedded_authority(embedded_root: bytes) -> None:
    """Whoever has the demo's key must not be able to make peers of a real gateway."""
    with pytest.raises(ConfigurationError, match="MOSAIC_FEDERATION_ROOT says DEV ONLY"):
        parse_federation_root(embedded_root, name="MOSAIC_FEDERATION_ROOT", environment="production")
    assert parse_federation_root(embedded_root, name="MOSAIC_FEDERATION_ROOT", environment="dev") == embedded_root


@pytest.mark.parametrize(
    "spoil", [lambda _pem: b"", lambda pem: pem + pem, lambda pem: b"x" + pem[30:]], ids=["none", "two", "no PEM"]
)
def test_refuses_what_is_not_exactly_one_certificate(root: bytes, spoil: Callable[[bytes], bytes]) -> None:
    """A bad root stops the start, and not the first enrollment."""
    with pytest.raises(ConfigurationError, match="exactly one certificate"):
        parse_federation_root(spoil(root), name="MOSAIC_FEDERATION_ROOT", environment="production")


def test_what_stands_around_the_certificate_is_left_out(root: bytes) -> None:
    """What was checked is what is used."""
    assert parse_federation_root(b"a comment\n" + root, name="root", environment="production") == root
