"""Two gateways as far as an enrollment needs them, every service and server a process that is killed, and comes back on its data.

    async with running_bed(folder) as bed:
        await bed.kill(Victim.GRANTS)
        await bed.restore(Victim.GRANTS)
        await bed.be_healthy()

work serves, under a real step-ca; of home there is what `peer add` needs. Services stop where tests/support/pausing.py says.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from mosaic.ca.v1 import certificate_authority_pb2, certificate_authority_pb2_grpc
from mosaic_cli.contexts import Context, Contexts, save
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_cli.dev.processes import Command, Lifeline, Process, ProcessFailed
from mosaic_cli.dev.services import DEPENDENCIES
from mosaic_common.crl import RevocationList, verify_revocation_list
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR
from mosaic_grants.adapters.schema.names import OWNER
from mosaic_grants.adapters.upgrade import bootstrap, upgrade

from tests.support.gateway import VALKEY_PASSWORDS, Gateway
from tests.support.health import serving
from tests.support.pausing import Asking, Steps
from tests.support.postgres import PASSWORDS, Database
from tests.support.processes_pausing import COMMAND, HOME_GRANTS
from tests.support.rows import Rows
from tests.support.stepca import StepCaServer, running_step_ca

ROOT: Final = Path(__file__).parents[2]
HEALTHY_SECONDS: Final = 60.0
COMMAND_SECONDS: Final = 60.0
DATABASE: Final = "mosaic"


class Victim(StrEnum):
    """Whoever takes part in an enrollment, by the name of its process."""

    COMMAND = "command"
    ENROLLMENT = ENROLLMENT
    GRANTS = GRANTS
    CA_BROKER = CA_BROKER
    EDGE_INBOUND = EDGE_INBOUND
    POSTGRES = "postgres"
    VALKEY = "valkey"
    STEP_CA = "step-ca"
    HOME_GRANTS = "home's grants"
    HOME_POSTGRES = "home's postgres"


SERVICES_OF_WORK: Final = (Victim.CA_BROKER, Victim.GRANTS, Victim.ENROLLMENT, Victim.EDGE_INBOUND)


class Unit(Protocol):
    """A process that can be killed and started again."""

    def start(self) -> None: ...
    def kill(self) -> None: ...


class Server:
    """PostgreSQL or Valkey; PostgreSQL's backends die with it, as they do where a machine loses its power."""

    def __init__(self, embedded: EmbeddedPostgres | EmbeddedValkey) -> None:
        self._embedded = embedded

    def start(self) -> None:
        self._embedded.start()

    def kill(self) -> None:
        pid = self._embedded.pid
        assert pid is not None, "it has died before"
        tasks = Path("/proc", str(pid), "task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        for each in (pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        while self._embedded.pid is not None:  # reaped: PostgreSQL takes its own zombie for a server that runs
            time.sleep(0.01)


class Service:
    """A service of a gateway; says nothing of when it is ready."""

    def __init__(self, command: Callable[[], Command], lifeline: Lifeline) -> None:
        self._command = command
        self._lifeline = lifeline
        self._process: Process | None = None

    def start(self) -> None:
        self._process = Process(self._command(), self._lifeline)

    def kill(self) -> None:
        assert self._process is not None
        assert self._process.running, f"it has died before:{self._process.log_tail()}"
        self._process.kill()


class CommandRun:
    """One run of the command.

    Attributes:
        killed: it was not given the time to say anything.
    """

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.killed = False

    async def kill(self) -> None:
        self.killed = True
        await asyncio.to_thread(self._process.kill)

    async def succeeded(self) -> bool:
        """Wait for its end."""
        try:
            await asyncio.to_thread(self._process.wait, timeout_seconds=COMMAND_SECONDS)
        except ProcessFailed:
            return False
        return True

    @property
    def said(self) -> str:
        """What it printed."""
        return self._log.read_text()


@dataclass(frozen=True, slots=True)
class Bed:
    """Attributes:
    work, home: clients, whose services are elsewhere.
    home_user: who connects.
    """

    work: Gateway
    home: Gateway
    home_user: UUID
    steps: Steps
    _step_ca: StepCaServer
    _units: Mapping[Victim, Unit]
    _lifeline: Lifeline

    async def kill(self, *victims: Victim) -> None:
        for victim in victims:
            await asyncio.to_thread(self._units[victim].kill)

    async def restore(self, *victims: Victim) -> None:
        """Start them again; servers answer when it returns, services soon (`be_healthy`)."""
        await asyncio.gather(*(asyncio.to_thread(self._units[victim].start) for victim in victims))

    async def be_healthy(self) -> None:
        """Return once every service of both gateways serves, and what it depends on answers it."""
        asked = [(self.work, service, DEPENDENCIES[service]) for service in SERVICES_OF_WORK] + [(self.home, GRANTS, ("postgres",))]
        async with asyncio.timeout(HEALTHY_SECONDS):
            await asyncio.gather(*(serves(gateway, service, dependencies) for gateway, service, dependencies in asked))

    def run(self, name: str, arguments: Sequence[str], *, typed: str) -> CommandRun:
        """Start the command on home's context.

        Args:
            name: of this run, for its log.
            typed: what it reads.
        """
        log = self.home.folder / "runs" / f"{name}.log"
        environment = {"MOSAIC_CONTEXTS": str(self.home.folder / "contexts.json")}
        command = _pausing(self.home.folder, COMMAND, self.steps.asking, arguments, environment, log)
        return CommandRun(Process(replace(command, stdin=f"{typed}\n".encode()), self._lifeline), log)

    def new_client(self) -> Gateway:
        """A client of work with connections of its own."""
        return replace(self.work, _channels=[])

    async def revocation_list(self) -> RevocationList:
        """What step-ca publishes now, verified as grants verifies it."""
        client = self.new_client()
        try:
            stub = certificate_authority_pb2_grpc.CertificateAuthorityServiceStub(client.internal_channel(CA_BROKER, caller=GRANTS))
            answer = await stub.GetRevocationList(certificate_authority_pb2.GetRevocationListRequest())
        finally:
            await client.close()
        return verify_revocation_list(answer.crl_der, answer.chain_der, root_pem=self._step_ca.root.pem, now=self.work.clock.now())


async def serves(gateway: Gateway, service: str, dependencies: Sequence[str]) -> None:
    client = replace(gateway, apps={}, _channels=[])
    try:
        channel = client.internal_channel(service, caller=OPERATOR)
        await channel.channel_ready()
        await serving(channel, *dependencies)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def running_bed(folder: Path) -> AsyncIterator[Bed]:
    """Everything runs and is sure of each other; nothing is left of it afterwards."""
    with contextlib.ExitStack() as stack:
        lifeline = stack.enter_context(Lifeline())
        for name in ("work", "home"):
            (folder / name).mkdir()
        step_ca = stack.enter_context(running_step_ca(folder / "work" / "step-ca"))
        servers = {
            Victim.POSTGRES: EmbeddedPostgres(folder / "work" / "postgres", lifeline=lifeline),
            Victim.HOME_POSTGRES: EmbeddedPostgres(folder / "home" / "postgres", lifeline=lifeline),
        }
        valkey = EmbeddedValkey(folder / "work" / "valkey", passwords=VALKEY_PASSWORDS, lifeline=lifeline)
        for server in servers.values():
            stack.enter_context(server)
        stack.enter_context(valkey)
        work, home = (
            Gateway(name, folder / name, migrated(servers[victim]), valkey)
            for name, victim in (("work", Victim.POSTGRES), ("home", Victim.HOME_POSTGRES))
        )
        for gateway in (work, home):
            gateway.prepare()
        write_contexts(home)
        async with Steps() as steps:
            units: dict[Victim, Unit] = {victim: Server(server) for victim, server in servers.items()}
            units |= {Victim.VALKEY: Server(valkey), Victim.STEP_CA: step_ca}
            units |= {victim: Service(_service(work, victim, steps.asking, step_ca), lifeline) for victim in SERVICES_OF_WORK}
            units[Victim.HOME_GRANTS] = Service(_service(home, Victim.HOME_GRANTS, steps.asking, None), lifeline)
            with home.database.connect() as owner:
                bed = Bed(work, home, Rows(owner).user(), steps, step_ca, units, lifeline)
            await bed.restore(*SERVICES_OF_WORK, Victim.HOME_GRANTS)
            await bed.be_healthy()
            yield bed


def migrated(server: EmbeddedPostgres) -> Database:
    database = Database(DATABASE, server.superuser_url_of(DATABASE))
    bootstrap(database.superuser_url, PASSWORDS)
    upgrade(database.url(OWNER))
    return database


def write_contexts(home: Gateway) -> None:
    context = Context(
        gateway=home.name,
        operator_address=home.addresses[GRANTS, "operator"],
        user_address="",
        root=home.pki / OPERATOR / "service-root.pem",
        jwt_key=home.pki / OPERATOR / "jwt.key",
    )
    save(home.folder / "contexts.json", Contexts(current=home.name, contexts={home.name: context}))


def _service(gateway: Gateway, victim: Victim, asking: Asking, step_ca: StepCaServer | None) -> Callable[[], Command]:
    identity = GRANTS if victim is Victim.HOME_GRANTS else str(victim)

    def command() -> Command:
        environment = gateway.environment(identity)
        if step_ca is not None:
            environment = _under_step_ca(environment, step_ca)
        log = gateway.folder / "logs" / f"{identity}.log"
        if victim is Victim.EDGE_INBOUND:
            argv = [sys.executable, "-P", "-m", "mosaic_federation_edge", "serve", "--role", "inbound"]
            return Command(victim, argv, log, gateway.folder, environment)
        program = HOME_GRANTS if victim is Victim.HOME_GRANTS else identity
        return _pausing(gateway.folder, program, asking, [], environment, log)

    return command


def _pausing(
    folder: Path, program: str, asking: Asking, arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> Command:
    argv = [sys.executable, "-P", "-m", "tests.support.processes_pausing", str(asking.port), program, *arguments]
    return Command(program, argv, log, folder, {**environment, "PYTHONPATH": str(ROOT)})


def _under_step_ca(environment: Mapping[str, str], step_ca: StepCaServer) -> dict[str, str]:
    """The same environment, with step-ca where the embedded authority was."""
    changed = dict(environment)
    if "MOSAIC_FEDERATION_ROOT_FILE" in changed:
        changed["MOSAIC_FEDERATION_ROOT_FILE"] = str(step_ca.root_path)
    if changed.pop("MOSAIC_EMBEDDED_CA_DIR", None):
        changed |= {
            "STEP_CA_URL": step_ca.url,
            "STEP_CA_PROVISIONER_KEY_JSON_FILE": str(step_ca.directory / "secrets" / "mosaic-fed.json"),
            "STEP_CA_ROOT_CERT_PATH": str(step_ca.root_path),
            "STEP_CA_ROOT_FINGERPRINT": (step_ca.directory / "certs" / "root_ca.sha256").read_text().strip(),
        }
    return changed
