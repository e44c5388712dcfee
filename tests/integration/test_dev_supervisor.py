"""The supervisor: whatever ends it, however rudely, nothing of it stays."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mosaic_cli.contexts import load
from mosaic_cli.dev.authority import AuthorityKind
from mosaic_cli.dev.control import ControlServer, NotRunning, ask
from mosaic_cli.dev.folder_lock import FolderInUse, FolderLock, end_holder
from mosaic_cli.dev.gateway import POSTGRES, Gateway
from mosaic_cli.dev.plan import Plan
from mosaic_cli.dev.ports import is_taken
from mosaic_cli.dev.processes import Lifeline, ProcessFailed
from mosaic_cli.dev.steps import Step, run_steps
from mosaic_cli.dev.supervisor import Supervisor
from mosaic_cli.dev.units import Unit
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import CA_BROKER, GRANTS

from tests.support import dev_standins
from tests.support.dev_standins import plan_stand_ins, stand_in

pytestmark = pytest.mark.alone

GONE_SECONDS = 15.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, planner=plan_stand_ins, names=["work"]) as running:
        yield running


def processes_under(folder: Path) -> set[int]:
    """Every process whose working directory lies in this folder."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder):
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for task in Path("/proc", str(pid), "task").iterdir() for child in (task / "children").read_text().split()]


def runs(pid: int, name: str) -> bool:
    return name.encode() in Path("/proc", str(pid), "cmdline").read_bytes()


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def start_program(folder: Path, *wrapper: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """The supervisor as a process of its own, in a job of its own, and its status once all is up."""
    argv = [*wrapper, sys.executable, dev_standins.__file__, str(folder)]
    program = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd="/", start_new_session=True)
    assert program.stdout is not None
    status = json.loads(program.stdout.readline())
    assert processes_under(folder)
    return program, status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_nothing_outlives_the_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM, a closed terminal, kill -9: no server, service or grandchild of one stays, and every port is free again."""
    program, status = start_program(tmp_path)
    program.send_signal(number)
    program.communicate(timeout=GONE_SECONDS)
    assert eventually(lambda: not processes_under(tmp_path)), processes_under(tmp_path)
    ports = [int(listener["address"].rpartition(":")[2]) for listener in listeners(status)]
    assert len(ports) == 4
    assert not any(is_taken(port) for port in ports)


def test_servers_end_with_the_supervisor_even_without_the_lifeline(tmp_path: Path) -> None:
    """The kernel's parent-death signal is a lock of its own, also for a server that runs in a user namespace."""
    program, status = start_program(tmp_path)
    lifeline = next(child for child in children_of(program.pid) if runs(child, "lifeline.py"))
    services = status["gateways"]["work"]["services"].values()
    try:
        os.kill(lifeline, signal.SIGKILL)
        program.kill()
        program.communicate(timeout=GONE_SECONDS)
        assert eventually(lambda: not any(Path("/proc", str(service["pid"])).exists() for service in services))
    finally:
        os.killpg(lifeline, signal.SIGKILL)


def test_nothing_outlives_the_job_that_started_the_supervisor(tmp_path: Path) -> None:
    """kill -9 of `make demo`, two processes above: the shell in between lives on, and still everything ends."""
    make = 'import subprocess, sys; subprocess.run(["/bin/sh", "-c", \'"$@"; exit $?\', "sh", *sys.argv[1:]])'
    job, status = start_program(tmp_path, sys.executable, "-I", "-S", "-c", make)
    assert job.pid != status["pid"]
    job.kill()
    job.communicate(timeout=GONE_SECONDS)
    assert eventually(lambda: not processes_under(tmp_path)), processes_under(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(status["pid"], 0)


def test_postgres_comes_back_after_a_supervisor_was_killed(tmp_path: Path) -> None:
    """A stale postmaster.pid is no obstacle and no proof: the next start is a new process on the same port."""
    program, before = start_program(tmp_path)
    program.kill()
    program.communicate()
    assert eventually(lambda: not processes_under(tmp_path))
    with Supervisor(tmp_path, planner=plan_stand_ins, names=["work"]) as again:
        after = again.status()
    postgres = [document["gateways"]["work"]["services"][POSTGRES] for document in (before, after)]
    assert postgres[0]["listeners"]["sql"]["address"] == postgres[1]["listeners"]["sql"]["address"]
    assert postgres[0]["pid"] != postgres[1]["pid"]


def test_status_names_every_listener_with_its_own_process(supervisor: Supervisor) -> None:
    """What `dev status` calls a pid is the process that has the port, not a wrapper of it."""
    services = supervisor.status()["gateways"]["work"]["services"]
    assert set(services) == {POSTGRES, CA_BROKER, GRANTS}
    assert set(services[GRANTS]["listeners"]) == {"internal", "operator"}
    for service in services.values():
        assert Path("/proc", str(service["pid"]), "exe").exists()
        assert all(listener["pid"] == service["pid"] for listener in service["listeners"].values())


def test_an_outage_is_played_and_ended(supervisor: Supervisor) -> None:
    """`dev stop` ends one service and no other; `dev start` brings it back to the same address."""
    before = supervisor.status()["gateways"]["work"]["services"]
    supervisor.stop_service("work", GRANTS)
    during = supervisor.status()["gateways"]["work"]["services"]
    assert (during[GRANTS]["state"], during[GRANTS]["pid"]) == ("stopped", None)
    assert during[CA_BROKER] == before[CA_BROKER]
    supervisor.start_service("work", GRANTS)
    after = supervisor.status()["gateways"]["work"]["services"]
    assert after[GRANTS]["state"] == "running"
    assert after[GRANTS]["listeners"].keys() == before[GRANTS]["listeners"].keys()
    assert after[GRANTS]["pid"] not in (None, before[GRANTS]["pid"])


def test_a_killed_service_is_seen_and_started_again(supervisor: Supervisor) -> None:
    """kill -9 of a service by somebody else shows in the status, and `dev start` ends that too."""
    pid = supervisor.status()["gateways"]["work"]["services"][GRANTS]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: supervisor.status()["gateways"]["work"]["services"][GRANTS]["state"] == "stopped")
    supervisor.start_service("work", GRANTS)
    assert supervisor.status()["gateways"]["work"]["services"][GRANTS]["state"] == "running"


@pytest.mark.parametrize(
    ("gateway", "service", "says"),
    [
        pytest.param("elsewhere", GRANTS, "no gateway 'elsewhere': work", id="gateway"),
        pytest.param("work", "grant", "no service 'grant': postgres, ca-broker, grants", id="service"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(supervisor: Supervisor, gateway: str, service: str, says: str) -> None:
    """A typing mistake costs one look at the answer."""
    with pytest.raises(ProcessFailed, match=says):
        supervisor.stop_service(gateway, service)


def test_a_port_that_another_process_took_stops_the_start(tmp_path: Path) -> None:
    """Ports are kept, because enrolled peers know them; one that somebody else answers is named, and nothing is left running."""
    gateway = Gateway.open("work", tmp_path / "work")
    port = gateway.port(GRANTS, "operator")
    says = f"Port {port}, which work/grants keeps for its listener 'operator'"
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ProcessFailed, match=says):
        Supervisor(tmp_path, planner=plan_stand_ins, names=["work"]).start()
    assert not processes_under(tmp_path)


def test_a_service_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """The sentence that stopped a service's start is what `dev up` shows."""

    def plan(gateway: Gateway, _kind: AuthorityKind, lifeline: Lifeline) -> Plan:
        failing: Unit = stand_in(gateway, CA_BROKER, lifeline, script="raise SystemExit('MOSAIC_GATEWAY is not a name.')")
        fine: Unit = stand_in(gateway, GRANTS, lifeline)
        return Plan({CA_BROKER: failing, GRANTS: fine}, [Step("failing", failing.start), Step("fine", fine.start)])

    with pytest.raises(ProcessFailed, match=r"work/ca-broker ended with status 1\.[^§]*MOSAIC_GATEWAY is not a name\."):
        Supervisor(tmp_path, planner=plan, names=["work"]).start()
    assert not processes_under(tmp_path)


def test_two_supervisors_never_share_a_folder(supervisor: Supervisor) -> None:
    """The second one is told what to do, and disturbs nothing."""
    with pytest.raises(FolderInUse, match="mosaic dev down"):
        Supervisor(supervisor.folder, planner=plan_stand_ins, names=["work"]).start()
    assert supervisor.status()["gateways"]["work"]["services"][GRANTS]["state"] == "running"


def test_down_ends_whoever_holds_the_folder_and_nobody_else(tmp_path: Path) -> None:
    """A pid in a file proves nothing; a held lock does. Where nothing runs, nothing is signalled."""
    program, _ = start_program(tmp_path)
    assert end_holder(tmp_path)
    program.communicate(timeout=GONE_SECONDS)
    assert eventually(lambda: not processes_under(tmp_path))
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    assert not end_holder(tmp_path)


def test_a_removed_folder_is_noticed(tmp_path: Path) -> None:
    """`rm -rf .mosaic` under running gateways does not leave them running for ever."""
    lock = FolderLock(tmp_path)
    assert not lock.lost
    (tmp_path / "lock").unlink()
    assert lock.lost
    (tmp_path / "lock").touch()
    assert lock.lost
    lock.release()


def test_control_works_in_a_folder_whose_path_is_longer_than_a_socket_address(tmp_path: Path) -> None:
    """A Unix socket's address holds 107 bytes; a checkout may lie deeper."""
    folder = tmp_path.joinpath(*["a-rather-long-name-of-a-folder"] * 6)
    folder.mkdir(parents=True)
    with pytest.raises(NotRunning, match="mosaic dev up"):
        ask(folder, {"do": "status"})
    server = ControlServer(folder)
    assert (folder / "control.sock").is_socket()
    server.close()


def test_contexts_are_written_for_the_owner_alone(supervisor: Supervisor) -> None:
    """The file names keys that make tokens: it is 0600, and one that is not is refused."""
    path = supervisor.contexts_file
    assert path.stat().st_mode & 0o777 == 0o600
    contexts = load(path)
    assert contexts.current == "work"
    assert contexts.get("work").operator_address == supervisor.gateways["work"].address(GRANTS, "operator")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load(path)


def test_steps_wait_for_those_before_them_and_for_nothing_else() -> None:
    """A step starts when what it needs is done; a failure ends the rest."""
    order: list[str] = []
    steps = [
        Step("upgrade", lambda: order.append("upgrade"), after=["server"]),
        Step("server", lambda: order.append("server")),
        Step("grants", lambda: order.append("grants"), after=["upgrade"]),
    ]
    run_steps(steps, on_done=lambda done: None, abort=lambda: order.append("aborted"))
    assert order == ["server", "upgrade", "grants"]

    def fail() -> None:
        raise ProcessFailed("no")

    with pytest.raises(ProcessFailed):
        run_steps([Step("server", fail), *steps[::2]], on_done=lambda done: None, abort=lambda: order.append("aborted"))
    assert order[-1] == "aborted"


def listeners(status: dict[str, Any]) -> list[dict[str, Any]]:
    services = [service for gateway in status["gateways"].values() for service in gateway["services"].values()]
    return [listener for service in services for listener in service["listeners"].values()]
