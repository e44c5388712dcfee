"""`mosaic dev` as a user types it: the real services, detached, and gone again."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mosaic_cli.contexts import load
from mosaic_cli.dev.ports import is_taken
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS, IDENTITIES

UP_SECONDS = 90.0
SERVICES = {"postgres", "valkey", CA_BROKER, GRANTS, ENROLLMENT, EDGE_INBOUND, EDGE_OUTBOUND}
RUN = "from mosaic_cli.__main__ import main; main()"


def mosaic(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", RUN, *arguments], capture_output=True, text=True, timeout=UP_SECONDS, cwd="/", check=False
    )


def status_of(folder: Path) -> dict[str, Any]:
    answer = mosaic("dev", "status", "--dir", str(folder), "--output", "json")
    assert answer.returncode == 0, answer.stderr
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("dev") / "mosaic"
    up = mosaic("dev", "up", "--dir", str(folder), "--output", "json")
    assert up.returncode == 0, up.stderr
    assert up.stderr.splitlines()[-1].startswith(f"Next: export MOSAIC_CONTEXTS={folder}/contexts.json && mosaic ")
    yield folder
    ports = [listener["address"].rpartition(":")[2] for listener in all_listeners(status_of(folder))]
    down = mosaic("dev", "down", "--dir", str(folder), "--output", "json")
    assert json.loads(down.stdout) == {"ended": True}
    assert not any(is_taken(int(port)) for port in ports)


def test_every_service_of_both_gateways_is_its_own_process(folder: Path) -> None:
    """No in-process shortcut: seven processes a gateway, each with its own listeners."""
    gateways = status_of(folder)["gateways"]
    assert set(gateways) == {"home", "work"}
    pids = [service["pid"] for gateway in gateways.values() for service in gateway["services"].values()]
    assert len(set(pids)) == len(pids) == 2 * len(SERVICES)
    for gateway in gateways.values():
        assert set(gateway["services"]) == SERVICES


def test_status_gives_a_stranger_everything(folder: Path) -> None:
    """The files are there, the database URLs let each role in and no other database user is needed."""
    for gateway in status_of(folder)["gateways"].values():
        assert Path(gateway["pki"]["root"]).exists()
        for identity in IDENTITIES:
            for leaf in gateway["pki"][identity].values():
                assert Path(leaf["certificate"]).exists()
                assert Path(leaf["key"]).stat().st_mode & 0o777 == 0o600
        for role, url in gateway["database_url"].items():
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT current_user").fetchone() == (role,)
        assert set(gateway["redis_url"]) == {ENROLLMENT, EDGE_INBOUND, EDGE_OUTBOUND}


def test_contexts_home_and_work_are_written(folder: Path) -> None:
    """One variable, and every other command knows both gateways."""
    contexts = load(folder / "contexts.json")
    assert contexts.current == "home"
    assert set(contexts.contexts) == {"home", "work"}
    for context in contexts.contexts.values():
        assert context.root.exists()
        assert context.jwt_key is not None
        assert context.jwt_key.exists()


def test_an_outage_is_played_from_the_command_line(folder: Path) -> None:
    """`dev stop work edge-inbound` and back, at the same address."""
    before = status_of(folder)["gateways"]["work"]["services"][EDGE_INBOUND]
    stopped = mosaic("dev", "stop", "work", EDGE_INBOUND, "--dir", str(folder), "--output", "json")
    assert json.loads(stopped.stdout)["state"] == "stopped"
    started = mosaic("dev", "start", "work", EDGE_INBOUND, "--dir", str(folder), "--output", "json")
    after = json.loads(started.stdout)
    assert after["state"] == "running"
    assert after["pid"] != before["pid"]
    assert [each["address"] for each in after["listeners"].values()] == [each["address"] for each in before["listeners"].values()]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(("stop", "elsewhere", "grants"), "home, work", id="unknown gateway"),
        pytest.param(("start", "work", "mail"), "edge-inbound", id="unknown service"),
    ],
)
def test_a_service_that_does_not_exist_is_a_usage_error(folder: Path, arguments: tuple[str, ...], told: str) -> None:
    """Exit code 2, with the names that there are."""
    refused = mosaic("dev", *arguments, "--dir", str(folder))
    assert refused.returncode == 2
    assert told in refused.stderr


def test_a_second_up_is_refused(folder: Path) -> None:
    """It says what runs already and how to end it, and disturbs nothing."""
    before = status_of(folder)
    second = mosaic("dev", "up", "--dir", str(folder))
    assert second.returncode == 1
    assert "ALREADY_RUNNING" in second.stderr
    assert "mosaic dev down" in second.stderr
    assert status_of(folder) == before


def test_no_process_has_a_secret_in_its_environment_or_arguments(folder: Path) -> None:
    """Passwords and keys go in as files: `ps e` shows none."""
    for gateway in ("home", "work"):
        kept = json.loads((folder / gateway / "gateway.json").read_text())
        secrets = [*kept["database_passwords"].values(), *kept["valkey_passwords"].values(), kept["sealing_key"]]
        for service in status_of(folder)["gateways"][gateway]["services"].values():
            shown = Path(f"/proc/{service['pid']}/environ").read_bytes() + Path(f"/proc/{service['pid']}/cmdline").read_bytes()
            assert not any(secret.encode() in shown for secret in secrets)


def test_nothing_is_open_to_other_users(folder: Path) -> None:
    """Keys and databases of both gateways lie behind a folder that only its owner enters."""
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.geteuid()


def all_listeners(status: dict[str, Any]) -> list[dict[str, Any]]:
    services = [service for gateway in status["gateways"].values() for service in gateway["services"].values()]
    return [listener for service in services for listener in service["listeners"].values()]
