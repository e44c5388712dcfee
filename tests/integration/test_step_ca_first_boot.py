"""infra/step-ca/init.sh, killed at each of its steps: the next boot completes what the last one began."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from mosaic_common.crl import verify_revocation_list

from tests.support.orders import SigningOrder
from tests.support.stepca import INIT, StepCaServer, free_port

pytestmark = pytest.mark.stepca

COMMANDS = ("cat", "chmod", "mkdir", "mv", "rm", "sed", "step", "sync")
"""Every program by which the script changes something or makes what it writes; builtins lie between two of them."""

# Counts itself, and at its turn kills the whole script instead: what the one before it made is there, and its own output is empty.
SHIM = """#!/bin/sh
echo {name} >>"$SHIM_COUNT"
[ "$(wc -l <"$SHIM_COUNT")" -ne "$SHIM_KILLS" ] || kill -9 0
exec {program} "$@"
"""


class Boot:
    """One run of the script with the shims in front of the real programs."""

    def __init__(self, folder: Path, server: StepCaServer) -> None:
        self._bin = folder / "bin"
        self._count = folder / "count"
        self._server = server
        self._bin.mkdir()
        for name in COMMANDS:
            program = shutil.which(name)
            assert program is not None
            shim = self._bin / name
            shim.write_text(SHIM.format(name=name, program=program))
            shim.chmod(0o755)

    def run(self, *, until: int = 0) -> "subprocess.CompletedProcess[str]":
        self._count.write_text("")
        return self._server.init(
            PATH=f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            SHIM_COUNT=str(self._count),
            SHIM_KILLS=str(until),
        )

    @property
    def ran(self) -> list[str]:
        return self._count.read_text().split()


def boot(folder: Path) -> tuple[StepCaServer, Boot]:
    server = StepCaServer(folder / "step-ca", free_port())
    return server, Boot(folder, server)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in files}


COMPLETE = {
    "certs/intermediate_ca.crt": 0o644,
    "certs/root_ca.crt": 0o644,
    "certs/root_ca.sha256": 0o644,
    "config/ca.json": 0o644,
    "secrets/intermediate_ca.crt": 0o600,
    "secrets/intermediate_ca_key": 0o600,
    "secrets/mosaic-fed.json": 0o600,
    "secrets/mosaic-fed.pub.json": 0o600,
    "secrets/root_ca.crt": 0o600,
    "secrets/root_ca_key": 0o600,
    "templates/federation-leaf.tpl": 0o644,
}
"""Every file of an authority that has never run, and its mode: keys are their owner's alone."""


async def assert_signs_and_revokes(server: StepCaServer) -> None:
    order = SigningOrder.make()
    server.start()
    client = server.client()
    try:
        order.verify(list(await client.sign(order.csr, order.warrant)), server.root.pem)
        await client.revoke(order.warrant.serial, reason="")
        shown = await client.revocation_list()
        now = order.warrant.issued_at
        verified = verify_revocation_list(shown.crl_der, shown.chain_der, root_pem=server.root.pem, now=now)
        assert verified.serials == {order.warrant.serial}
    finally:
        await client.aclose()
        server.stop()


STEPS = 27
"""Programs that a first boot runs; test_counts_its_steps says when this has changed."""


def test_counts_its_steps(tmp_path: Path) -> None:
    """The table below leaves out no step, and a first boot needs every program that is watched."""
    server, first = boot(tmp_path)
    assert first.run().returncode == 0
    assert len(first.ran) == STEPS
    assert set(first.ran) == set(COMMANDS)
    assert {name: mode for name, (mode, _) in contents(server.directory).items()} == COMPLETE


@pytest.mark.parametrize("step", range(1, STEPS + 1))
async def test_completes_a_boot_that_was_killed(tmp_path: Path, step: int) -> None:
    """Wherever kill −9 falls, the next boot leaves a whole authority, that signs, revokes, and is not made anew a third time."""
    server, interrupted = boot(tmp_path)
    killed = interrupted.run(until=step)
    assert killed.returncode == -9
    assert len(interrupted.ran) == step
    root = server.directory / "secrets" / "root_ca.crt"
    made = root.read_bytes() if root.exists() else None

    assert server.init().returncode == 0
    whole = contents(server.directory)
    assert {name: mode for name, (mode, _) in whole.items()} == COMPLETE
    assert made in (None, root.read_bytes())
    assert server.init().returncode == 0
    assert contents(server.directory) == whole
    await assert_signs_and_revokes(server)


@pytest.mark.parametrize("name", ["root_ca.crt", "intermediate_ca.crt", "intermediate_ca_key", "mosaic-fed.pub.json"])
@pytest.mark.parametrize("left", [None, b""], ids=["gone", "empty"])
def test_asks_for_what_a_volume_has_lost(tmp_path: Path, name: str, left: bytes | None) -> None:
    """Half an authority is restored, never completed with new keys, and never started."""
    server, _ = boot(tmp_path)
    assert server.init().returncode == 0
    lost = server.directory / "secrets" / name
    lost.unlink()
    if left is not None:
        lost.write_bytes(left)
    before = contents(server.directory)
    refusal = server.init()
    assert refusal.returncode == 1
    assert f"has no {name}: restore it" in refusal.stderr
    assert contents(server.directory) == before


@pytest.mark.parametrize("name", ["root_ca_key", "mosaic-fed.json"])
def test_goes_on_without_what_belongs_elsewhere(tmp_path: Path, name: str) -> None:
    """The root's key and the broker's may be taken off the volume after the first boot."""
    server, _ = boot(tmp_path)
    assert server.init().returncode == 0
    (server.directory / "secrets" / name).unlink()
    assert server.init().returncode == 0


def test_prints_the_fingerprint_to_pin(tmp_path: Path) -> None:
    """Each boot ends with the root's SHA-256 under the name of the broker's variable."""
    server, _ = boot(tmp_path)
    for _boot in range(2):
        last_line = server.init().stdout.splitlines()[-1]
        assert "STEP_CA_ROOT_FINGERPRINT" in last_line
        assert last_line.split()[-1] == server.root.fingerprint.hex()


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "  \n"], ids=repr)
@pytest.mark.parametrize("variable", ["STEP_CA_PASSWORD_FILE", "STEP_CA_PROVISIONER_PASSWORD_FILE"])
def test_refuses_the_shipped_password_in_any_spelling(tmp_path: Path, variable: str, ending: str) -> None:
    """step trims what it reads, so a copy with another line ending is the example all the same; nothing is made with it."""
    server, _ = boot(tmp_path)
    copy = tmp_path / "copy"
    copy.write_text((INIT.parent / "dev-password.example").read_text().strip() + ending, newline="")
    refusal = server.init(**{variable: str(copy)})
    assert refusal.returncode == 1
    assert f"{variable} holds the shipped example" in refusal.stderr
    assert not server.directory.exists()
    assert server.init(**{variable: str(copy)}, MOSAIC_ENV="dev").returncode == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STEP_CA_DNS_NAMES", 'ca", "evil.example.com'),
        ("STEP_CA_ADDRESS", "127.0.0.1:9000\\"),
        ("CRL_DISTRIBUTION_POINT", 'https://ca.example.com/crl"}'),
        ("CRL_DISTRIBUTION_POINT", "https://ca.example.com/\ncrl"),
        ("CRL_DISTRIBUTION_POINT", "ldap://ca.example.com/crl"),
        ("CRL_DISTRIBUTION_POINT", "https://"),
        ("STEP_CA_PASSWORD_FILE", "/nowhere"),
        ("STEP_CA_PROVISIONER_PASSWORD_FILE", "/dev/null"),
    ],
)
def test_refuses_a_variable_that_it_cannot_use(tmp_path: Path, variable: str, value: str) -> None:
    """One sentence that names the variable, before anything is made."""
    server, _ = boot(tmp_path)
    refusal = server.init(**{variable: value})
    assert refusal.returncode == 1
    assert variable in refusal.stderr
    assert refusal.stderr.count("\n") == 1
    assert not server.directory.exists()
