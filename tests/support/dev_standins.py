"""A supervised gateway in which every service is a socket that listens; PostgreSQL is real.

Run as a program it is a supervisor to be killed: `python dev_standins.py FOLDER` prints its status once all is up, then waits.
"""

import json
import signal
import sys
from pathlib import Path

from mosaic_cli.dev.ancestry import end_with_ancestors
from mosaic_cli.dev.authority import AuthorityKind
from mosaic_cli.dev.embedded import EmbeddedPostgres
from mosaic_cli.dev.gateway import POSTGRES, Gateway
from mosaic_cli.dev.interrupts import exit_once_on_signals
from mosaic_cli.dev.plan import Plan
from mosaic_cli.dev.processes import Command, Lifeline
from mosaic_cli.dev.steps import Step
from mosaic_cli.dev.supervisor import Supervisor
from mosaic_cli.dev.units import Service, Unit
from mosaic_common.identity import CA_BROKER, GRANTS

# A grandchild tells nobody when its parent dies: only the lifeline reaches it. It ignores the polite signals, like a hung worker.
LISTEN = """
import signal, socket, subprocess, sys
sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-I", "-S", "-c", sleeper])
sockets = []
for port in sys.argv[1:]:
    sockets.append(socket.create_server(("127.0.0.1", int(port))))
signal.pause()
"""


def stand_in(gateway: Gateway, name: str, lifeline: Lifeline, script: str = LISTEN) -> Service:
    """A process that listens where the service of this name would."""
    ports = gateway.kept.ports[name]

    def command() -> Command:
        return Command(
            name=f"{gateway.name}/{name}",
            argv=[sys.executable, "-I", "-S", "-c", script, *map(str, ports.values())],
            log=gateway.log(name),
            cwd=gateway.service_folder(name),
            environment={},
        )

    return Service(command, ports, lambda: True, lifeline)


def plan_stand_ins(gateway: Gateway, _kind: AuthorityKind, lifeline: Lifeline) -> Plan:
    units: dict[str, Unit] = {
        POSTGRES: EmbeddedPostgres(gateway.folder / POSTGRES, port=gateway.port(POSTGRES, "sql"), lifeline=lifeline, durable=False),
        CA_BROKER: stand_in(gateway, CA_BROKER, lifeline),
        GRANTS: stand_in(gateway, GRANTS, lifeline),
    }
    steps = [
        Step(f"{gateway.name}/{POSTGRES}", units[POSTGRES].start),
        Step(f"{gateway.name}/{CA_BROKER}", units[CA_BROKER].start),
        Step(f"{gateway.name}/{GRANTS}", units[GRANTS].start, after=[f"{gateway.name}/{POSTGRES}"]),
    ]
    return Plan(units, steps)


def main(folder: str) -> None:
    exit_once_on_signals()
    end_with_ancestors()
    with Supervisor(Path(folder), planner=plan_stand_ins, names=["work"]) as supervisor:
        sys.stdout.write(json.dumps(supervisor.status()) + "\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
