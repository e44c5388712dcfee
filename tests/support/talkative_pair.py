"""Both gateways of `mosaic dev`, every service its own process, and each of them as talkative as it can be made.

Services log at debug, PostgreSQL logs every statement with every value that is bound to it, Valkey shows its MONITOR. work signs
with a real step-ca, whose provisioner key the broker gets encrypted; home has the embedded authority. What a test asks of them, and
every command it runs, is kept: `places` is all that they left anywhere.
"""

import asyncio
import contextlib
import json
import os
import pty
import secrets
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from unittest.mock import patch

import grpc
import valkey
from joserfc import jwe
from joserfc.jwk import OctKey
from mosaic_cli.contexts import write_private
from mosaic_cli.dev import plan
from mosaic_cli.dev.authority import Authority, AuthorityKind, EmbeddedAuthority, StepCaAuthority
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_cli.dev.gateway import DATABASE, DATABASE_ROLES, LISTENERS, POSTGRES, VALKEY, VALKEY_USERS, Kept
from mosaic_cli.dev.gateway import Gateway as DevGateway
from mosaic_cli.dev.plan import Plan, plan_gateway
from mosaic_cli.dev.processes import Command, Lifeline
from mosaic_cli.dev.services import service_command
from mosaic_cli.dev.supervisor import Supervisor
from mosaic_common.errors import Reason
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS

from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.peers import Refusal
from tests.support.places import (
    ArgumentWatch,
    Kind,
    Place,
    ValkeyMonitor,
    columns_of,
    environments_of,
    files_below,
    values_of,
)
from tests.support.postgres import Database

ROOT: Final = Path(__file__).parents[2]
COMMAND_SECONDS: Final = 60.0
COMMANDS_AT_ONCE: Final = 3
SITES: Final = ("home", "work")
VALKEY_ADMIN: Final = "admin"
PLANTED_VARIABLE: Final = "PLANTED"


def new_secret() -> str:
    """A secret as an operator might choose it: nothing in its shape tells it from other words."""
    return secrets.token_hex(20)


class TalkativePostgres(EmbeddedPostgres):
    """Logs every statement, with every value that is bound to it and whole."""

    def _server(self, postgres: Path) -> Command:
        command = super()._server(postgres)
        settings = {
            "log_statement": "all",
            "log_duration": "on",
            "log_connections": "all",
            "log_min_messages": "debug1",
            "log_error_verbosity": "verbose",
            "log_parameter_max_length": "-1",
            "log_parameter_max_length_on_error": "-1",
            "track_activity_query_size": "65536",
        }
        further = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return replace(command, argv=[*command.argv, *further])


class TalkativeValkey(EmbeddedValkey):
    """With a user more, who may do everything."""

    admin_password: Final = "admin-of-this-test-run-only"

    def _server(self, binary: Path) -> Command:
        command = super()._server(binary)
        password = sha256(self.admin_password.encode()).hexdigest()
        further = f"\nloglevel debug\nuser {VALKEY_ADMIN} on #{password} ~* &* +@all"
        return replace(command, stdin=command.stdin + further.encode())


class EncryptingStepCa(StepCaAuthority):
    """Gives the broker its provisioner key as a JWE, and the password in a file of its own."""

    def __init__(self, gateway: DevGateway, lifeline: Lifeline, password: str) -> None:
        super().__init__(gateway, lifeline)
        self._own, self._password = gateway, password

    def broker_environment(self) -> Mapping[str, str]:
        environment = dict(super().broker_environment())
        plain = Path(environment["STEP_CA_PROVISIONER_KEY_JSON_FILE"]).read_bytes()
        header = {"alg": "PBES2-HS256+A128KW", "enc": "A256GCM"}
        encrypted = jwe.encrypt_compact(header, plain, OctKey.import_key(self._password), algorithms=[*header.values()])
        return environment | {
            "STEP_CA_PROVISIONER_KEY_JSON_FILE": self._own.secret_file(CA_BROKER, "provisioner-key.jwe", encrypted),
            "STEP_CA_PROVISIONER_PASSWORD_FILE": self._own.secret_file(CA_BROKER, "provisioner-password", self._password),
        }


@dataclass(frozen=True, slots=True)
class OwnDatabase(Database):
    """With the passwords that its gateway has chosen."""

    passwords: Mapping[str, str]

    def url(self, role: str) -> str:
        return f"postgresql://{role}:{self.passwords[role]}@{self.superuser_url.rpartition('@')[2]}"


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Chosen:
    """What this bed chooses, beside what a gateway of `mosaic dev` chooses.

    Attributes:
        sealing: gateway → environment variable → secret; read at every start of grants.
        planted: no secret: it is put everywhere, to see that the search finds it.
        sealing_ever: gateway → name → secret; each that was ever given, the current one first.
        environments: (gateway, identity) → with what it was started last.
    """

    sealing: dict[str, dict[str, str]]
    sealing_ever: dict[str, dict[str, str]] = field(default_factory=dict)
    environments: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    provisioner_password: str = field(default_factory=new_secret)
    planted: str = field(default_factory=new_secret)


@dataclass(slots=True)
class TalkativePair:
    """Attributes:
    folder: everything that processes and commands write is below it.
    home, work: typed clients.
    owner: the folder of the person at the keyboard: home, temporary files, contexts.
    reasons: of all refusals so far.
    """

    folder: Path
    supervisor: Supervisor
    home: Gateway
    work: Gateway
    chosen: Chosen
    reasons: set[str] = field(default_factory=set)
    _heard: list[Place] = field(default_factory=list)
    _monitors: list[tuple[str, ValkeyMonitor]] = field(default_factory=list)
    _arguments: ArgumentWatch = field(default_factory=ArgumentWatch)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(COMMANDS_AT_ONCE))

    @property
    def owner(self) -> Path:
        return self.folder / "owner"

    # --- what is done

    async def ask(self, call: Awaitable[Any], *, secret: bool = False) -> Any:
        """Await an answer. Where it is a secret by design it is not kept."""
        answer = await call
        if not secret:
            self._hear(Kind.ANSWER, type(answer).__name__, answer.SerializeToString())
        return answer

    async def refused(self, call: Awaitable[Any], *reasons: Reason | None) -> Refusal:
        """Await a refusal for one of these reasons (None: the library's own), or for any when none is given."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            refusal = Refusal.of(error)
            metadata = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
            seen = [repr((error.code(), error.details(), error.debug_error_string())).encode()]
            seen += [value if isinstance(value, bytes) else value.encode() for _, value in metadata]
            self._hear(Kind.REFUSAL, f"refused: {refusal.reason}", b"\n".join(seen))
            self.reasons.add(refusal.reason)
            assert not reasons or refusal.reason in {reason or "" for reason in reasons}, refusal
            return refusal
        raise AssertionError(f"not refused: {answer}")

    async def mosaic(
        self,
        *arguments: str,
        typed: str = "",
        prompted: str | None = None,
        code: int | None = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Ran:
        """Run a command as a process.

        Args:
            typed: what it reads from a pipe.
            prompted: what a person types at its terminal instead.
            code: what it has to end with; None for anything.
            variables: of its environment, further ones.
        """
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.owner),
            "TMPDIR": str(self.owner),
            "MOSAIC_CONTEXTS": str(self.supervisor.contexts_file),
            **variables,
        }
        argv = [sys.executable, "-P", "-m", "mosaic_cli", *arguments]
        async with self._turns:
            async with _terminal(prompted) as (terminal, echoed):
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    env=environment,
                    cwd=self.owner,
                    stdin=asyncio.subprocess.PIPE if terminal is None else terminal,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
                told = process.communicate(None if terminal is not None else f"{typed}\n".encode())
                out, err = await asyncio.wait_for(told, COMMAND_SECONDS)
            err += bytes(echoed)
        ran = Ran(process.returncode or 0, out.decode(), err.decode())
        name = " ".join(arguments[:4])
        self._hear(Kind.COMMAND, f"stdout of mosaic {name}", out)
        self._hear(Kind.COMMAND, f"stderr of mosaic {name}", err)
        assert code is None or ran.code == code, (arguments[:3], ran)
        return ran

    async def fail_starts(self, starts: Sequence["Start"]) -> None:
        """Start services with a configuration that stops each of them, one after the other in a process of their own."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tests.support.failing_starts"),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(self.owner)},
            cwd=self.owner,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate(json.dumps([asdict(start) for start in starts]).encode())
        self._hear(Kind.COMMAND, "starts that fail", out)
        assert process.returncode == 0, out.decode()

    async def stop(self, gateway: Gateway, service: str) -> None:
        await asyncio.to_thread(self.supervisor.stop_service, gateway.name, service)

    async def start(self, gateway: Gateway, service: str) -> None:
        await asyncio.to_thread(self.supervisor.start_service, gateway.name, service)

    async def settled(self, gateway: Gateway, identity: str, *dependencies: str) -> None:
        """Return once the service is reached, and reaches these."""
        channel = gateway.internal_channel(identity, caller="operator")
        async with asyncio.timeout(30):
            await channel.channel_ready()
            await serving(channel, *dependencies)

    def valkey(self, gateway: Gateway) -> Any:
        port = self.supervisor.gateways[gateway.name].port(VALKEY, "resp")
        return valkey.Valkey(host="127.0.0.1", port=port, username=VALKEY_ADMIN, password=TalkativeValkey.admin_password)

    def watch_valkey(self, gateway: Gateway) -> None:
        """Begin to listen; again after the server was started again."""
        port = self.supervisor.gateways[gateway.name].port(VALKEY, "resp")
        self._monitors.append((gateway.name, ValkeyMonitor(port, VALKEY_ADMIN, TalkativeValkey.admin_password)))

    def note_values(self, gateway: Gateway) -> None:
        """Keep what Valkey holds now: counters live for a minute, and none of it survives the server."""
        with contextlib.closing(self.valkey(gateway)) as server:
            server.save()
            self._heard += values_of(gateway.name, server)

    # --- what there is to see

    def places(self) -> Iterator[Place]:
        yield from self._arguments.places()
        for gateway in (self.home, self.work):
            with gateway.database.connect_superuser() as database:
                database.execute("CHECKPOINT")
                yield from columns_of(gateway.name, database)
            self.note_values(gateway)
        yield from self._heard
        for name, monitor in self._monitors:
            yield Place(Kind.MONITOR, name, bytes(monitor.told))
        yield from environments_of(pid for gateway in (self.home, self.work) for pid in self.pids(gateway).values())
        yield from files_below(self.folder)

    def pids(self, gateway: Gateway) -> Mapping[str, int]:
        """Of the services that run, by name."""
        services = self.supervisor.status()["gateways"][gateway.name]["services"]
        return {name: service["pid"] for name, service in services.items() if service["pid"]}

    def _hear(self, kind: Kind, name: str, content: bytes) -> None:
        self._heard.append(Place(kind, name, content))


@dataclass(frozen=True, slots=True)
class Start:
    """A service that is not to start.

    Attributes:
        module: mosaic_…, of the service.
        environment: all of it.
        remark: what its sentence has to name.
    """

    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    remark: str


@asynccontextmanager
async def _terminal(typed: str | None) -> AsyncIterator[tuple[int | None, bytearray]]:
    """A terminal at which somebody has typed a line, and what it shows in the end; none for None."""
    shown = bytearray()
    if typed is None:
        yield None, shown
        return
    ours, theirs = pty.openpty()
    try:
        typing = asyncio.create_task(_type_when_hidden(ours, theirs, typed))
        yield theirs, shown
        await typing
        os.set_blocking(ours, False)
        with contextlib.suppress(BlockingIOError, OSError):
            shown += os.read(ours, 65_536)
    finally:
        os.close(ours)
        os.close(theirs)


async def _type_when_hidden(ours: int, theirs: int, typed: str) -> None:
    # What is typed before somebody asks without echo would be shown by any terminal.
    while termios.tcgetattr(theirs)[3] & termios.ECHO:
        await asyncio.sleep(0.02)
    os.write(ours, f"{typed}\n".encode())


@asynccontextmanager
async def talkative_pair(folder: Path) -> AsyncIterator[TalkativePair]:
    """Both gateways run, and are watched from before their first start on."""
    kept = {name: _choose(folder / name) for name in SITES}
    chosen = Chosen({name: {"MOSAIC_SEALING_KEY": kept[name].sealing_key} for name in SITES})
    chosen.sealing_ever = {name: {"sealing secret": kept[name].sealing_key} for name in SITES}
    supervisor = Supervisor(folder, planner=_plan)
    (folder / "owner").mkdir(mode=0o700)

    def talkative_command(gateway: DevGateway, identity: str, authority: Authority) -> Command:
        command = service_command(gateway, identity, authority)
        environment = dict(command.environment) | {"MOSAIC_LOG_LEVEL": "debug", PLANTED_VARIABLE: chosen.planted}
        if identity == ENROLLMENT:
            # All of it comes from one address.
            environment["MOSAIC_ENROLLMENT_SOURCE_PER_MINUTE"] = "1000000"
        if identity == GRANTS:
            for variable, secret in chosen.sealing[gateway.name].items():
                environment[f"{variable}_FILE"] = gateway.secret_file(GRANTS, variable.lower().replace("_", "-"), secret)
        chosen.environments[gateway.name, identity] = environment
        return replace(command, environment=environment)

    with (
        patch.object(plan, "service_command", talkative_command),
        patch.object(plan, "EmbeddedPostgres", TalkativePostgres),
        patch.object(plan, "EmbeddedValkey", TalkativeValkey),
        patch.object(plan, "authority_of", lambda gateway, _kind, lifeline: _authority(chosen, gateway, lifeline)),
        ArgumentWatch() as arguments,
    ):
        await asyncio.to_thread(supervisor.start)
        home, work = (_client_of(supervisor.gateways[name]) for name in SITES)
        pair = TalkativePair(folder, supervisor, home, work, chosen, _arguments=arguments)
        try:
            for gateway in (home, work):
                pair.watch_valkey(gateway)
            yield pair
        finally:
            for gateway in (home, work):
                await gateway.close()
            for _, monitor in pair._monitors:
                monitor.close()
            await asyncio.to_thread(supervisor.stop)


def _choose(folder: Path) -> Kept:
    """Secrets that no shape gives away; a gateway takes up what it finds."""
    kept = replace(
        Kept.choose(),
        database_passwords={role: new_secret() for role in DATABASE_ROLES},
        valkey_passwords={user: new_secret() for user in VALKEY_USERS},
        sealing_key=new_secret(),
        authority_password=new_secret(),
    )
    folder.mkdir(mode=0o700, parents=True)
    write_private(folder / "gateway.json", json.dumps(asdict(kept)))
    return kept


def _plan(gateway: DevGateway, _kind: AuthorityKind, lifeline: Lifeline) -> Plan:
    kind = AuthorityKind.STEP_CA if gateway.name == "work" else AuthorityKind.EMBEDDED
    return plan_gateway(gateway, kind, lifeline)


def _authority(chosen: Chosen, gateway: DevGateway, lifeline: Lifeline) -> Authority:
    if gateway.name == "work":
        return EncryptingStepCa(gateway, lifeline, chosen.provisioner_password)
    return EmbeddedAuthority(gateway, lifeline)


def _client_of(gateway: DevGateway) -> Gateway:
    password = (gateway.folder / POSTGRES / "superuser.password").read_text()
    superuser_url = f"postgresql://postgres:{password}@{gateway.address(POSTGRES, 'sql')}/{DATABASE}"
    database = OwnDatabase(DATABASE, superuser_url, gateway.kept.database_passwords)
    server = EmbeddedValkey(gateway.folder / VALKEY, passwords=gateway.kept.valkey_passwords, port=gateway.port(VALKEY, "resp"))
    addresses = {(service, kind): gateway.address(service, kind) for service, kinds in LISTENERS.items() for kind in kinds}
    return Gateway(gateway.name, gateway.folder, database, server, addresses=addresses)
