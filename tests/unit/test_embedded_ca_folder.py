"""The folder of the embedded authority, and where the authority may run."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_ca_broker.adapters.embedded_ca import EmbeddedCa
from mosaic_ca_broker.adapters.embedded_ca_folder import EmbeddedCaFolder
from mosaic_common.errors import ConfigurationError

from tests.support.clock import FakeClock

CLOCK = FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    embedded_ca_folder.init(tmp_path / "ca", now=CLOCK.now())
    return tmp_path / "ca"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_says_what_it_is(folder: Path) -> None:
    """DEV ONLY stands in both subjects, where every tool and every production service sees it."""
    for name in ("root.pem", "intermediate.pem"):
        certificate = x509.load_pem_x509_certificate((folder / name).read_bytes())
        assert "DEV ONLY" in certificate.subject.rfc4514_string()


def test_keeps_the_key_to_its_owner(folder: Path) -> None:
    """0700 and 0600, and the root's key is nowhere."""
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "intermediate.key").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in folder.iterdir()} == {"root.pem", "intermediate.pem", "intermediate.key", "used", "revoked"}


def test_is_made_once(folder: Path) -> None:
    """A second init changes not a byte, what was spent included."""
    (folder / "used" / "spent").touch()
    before = contents(folder)
    embedded_ca_folder.init(folder, now=CLOCK.now() + timedelta(days=1))
    assert contents(folder) == before


def test_accepts_an_empty_folder(tmp_path: Path) -> None:
    """What a volume or mkdir has made is as good as nothing."""
    (tmp_path / "ca").mkdir()
    embedded_ca_folder.init(tmp_path / "ca", now=CLOCK.now())
    EmbeddedCaFolder.load(tmp_path / "ca")


def test_leaves_other_folders_alone(tmp_path: Path) -> None:
    """A folder with something else in it is not taken over, and nothing stays behind."""
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "root.pem").write_text("another's")
    with pytest.raises(ConfigurationError, match="absent or empty"):
        embedded_ca_folder.init(tmp_path / "ca", now=CLOCK.now())
    assert contents(tmp_path) == {"ca/root.pem": b"another's"}


def test_does_not_run_in_production(folder: Path) -> None:
    """However it is configured, the embedded authority itself refuses to open."""
    with pytest.raises(ConfigurationError, match="MOSAIC_ENV=dev"):
        EmbeddedCa.open(folder, environment="production", clock=CLOCK)


def test_says_how_to_make_one(tmp_path: Path) -> None:
    """A folder that is none is answered with the command that makes one."""
    with pytest.raises(ConfigurationError, match="embedded-ca init --dir"):
        EmbeddedCaFolder.load(tmp_path)


def test_refuses_a_key_of_another_certificate(folder: Path, tmp_path: Path) -> None:
    """Two folders mixed up would sign what no root leads to."""
    embedded_ca_folder.init(tmp_path / "other", now=CLOCK.now())
    (folder / "intermediate.key").write_bytes((tmp_path / "other" / "intermediate.key").read_bytes())
    with pytest.raises(ConfigurationError, match="belong together"):
        EmbeddedCaFolder.load(folder)


def test_is_made_from_the_command_line(tmp_path: Path) -> None:
    """The command that the development gateway runs, twice."""
    command = [sys.executable, "-m", "mosaic_ca_broker", "embedded-ca", "init", "--dir", str(tmp_path / "ca")]
    for _ in range(2):
        subprocess.run(command, check=True)
    EmbeddedCaFolder.load(tmp_path / "ca")
