"""What a gateway is made of, and what has to wait for what. Everything else happens at once."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from mosaic_common import pki
from mosaic_common.clock import SystemClock
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS, OPERATOR, SERVICES

from mosaic_cli.dev.authority import Authority, AuthorityKind, authority_of
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_cli.dev.gateway import DATABASE, LISTENERS, POSTGRES, STEP_CA, VALKEY, Gateway
from mosaic_cli.dev.health import HealthClient
from mosaic_cli.dev.processes import Command, Lifeline, ProcessFailed, run
from mosaic_cli.dev.seed import SITES, seed
from mosaic_cli.dev.services import DEPENDENCIES, python_module, service_command
from mosaic_cli.dev.steps import Step
from mosaic_cli.dev.units import Service, Unit

PUBLIC_HOST: Final = "localhost"
DATABASE_SECONDS: Final = 60.0
DEPENDENCY_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes:
    units: name → process, in the order in which they may be started; stopped the other way round.
    steps: how to get them all to run, from an empty folder or from one that has been used before.
    """

    units: Mapping[str, Unit]
    steps: Sequence[Step]


Planner = Callable[[Gateway, AuthorityKind, Lifeline], Plan]


def plan_gateway(gateway: Gateway, kind: AuthorityKind, lifeline: Lifeline) -> Plan:
    """One gateway: its servers, its authority, its five services."""
    authority = authority_of(gateway, kind, lifeline)
    postgres = EmbeddedPostgres(
        gateway.folder / POSTGRES, port=gateway.port(POSTGRES, "sql"), lifeline=lifeline, log=gateway.log(POSTGRES)
    )
    valkey = EmbeddedValkey(
        gateway.folder / VALKEY,
        passwords=gateway.kept.valkey_passwords,
        port=gateway.port(VALKEY, "resp"),
        lifeline=lifeline,
        log=gateway.log(VALKEY),
    )
    servers: dict[str, Unit] = {POSTGRES: postgres, VALKEY: valkey}
    services: dict[str, Unit] = {identity: _service(gateway, identity, authority, lifeline) for identity in SERVICES}

    def step(name: str, work: Callable[[], object], *after: str) -> Step:
        return Step(f"{gateway.name}/{name}", work, tuple(f"{gateway.name}/{each}" for each in after))

    steps = [
        step(POSTGRES, postgres.start),
        step(VALKEY, valkey.start),
        step("pki", partial(pki.init, gateway.pki, gateway.name, PUBLIC_HOST, clock=SystemClock())),
        step("authority", authority.initialise),
        step("db bootstrap", lambda: _bootstrap(gateway, postgres, lifeline), POSTGRES),
        step("db upgrade", lambda: _upgrade(gateway, lifeline), "db bootstrap"),
        step("people and rows", lambda: _seed(gateway), "db upgrade"),
        step(CA_BROKER, services[CA_BROKER].start, "pki", "authority"),
        step(ENROLLMENT, services[ENROLLMENT].start, "pki", VALKEY),
        step(GRANTS, services[GRANTS].start, "pki", "authority", "db upgrade"),
        step(EDGE_INBOUND, services[EDGE_INBOUND].start, "pki", "authority", "db upgrade", VALKEY),
        step(EDGE_OUTBOUND, services[EDGE_OUTBOUND].start, "pki", "db upgrade", VALKEY),
    ]
    if authority.unit:
        servers[STEP_CA] = authority.unit
        steps.append(step(STEP_CA, authority.unit.start, "authority"))
    steps.append(step("dependencies", partial(_await_dependencies, gateway, services), *servers, *services))
    return Plan(servers | services, steps)


def _service(gateway: Gateway, identity: str, authority: Authority, lifeline: Lifeline) -> Service:
    return Service(
        command=lambda: service_command(gateway, identity, authority),
        ports={listener: gateway.port(identity, listener) for listener in LISTENERS[identity]},
        says_ready=_health(gateway, identity).serves,
        lifeline=lifeline,
    )


def _health(gateway: Gateway, identity: str) -> HealthClient:
    return HealthClient(
        gateway.address(identity, "internal"), identity=identity, gateway=gateway.name, operator_pki=gateway.pki / OPERATOR
    )


def _await_dependencies(gateway: Gateway, services: Mapping[str, Unit]) -> None:
    """A service serves before it reaches what it depends on; the first call of a story should not be the one to find that out."""
    deadline = time.monotonic() + DEPENDENCY_SECONDS
    for identity, dependency in [(name, each) for name in services for each in DEPENDENCIES[name]]:
        while not _health(gateway, identity).serves(dependency):
            if services[identity].pid is None or time.monotonic() > deadline:
                raise ProcessFailed(f"{gateway.name}/{identity} does not reach {dependency}: {gateway.log(identity)} says why.")
            time.sleep(POLL_SECONDS)


def _bootstrap(gateway: Gateway, postgres: EmbeddedPostgres, lifeline: Lifeline) -> None:
    environment = {
        "MOSAIC_BOOTSTRAP_URL_FILE": gateway.secret_file("owner", "bootstrap-url", postgres.superuser_url_of(DATABASE)),
        "MOSAIC_BOOTSTRAP_PASSWORDS_FILE": gateway.secret_file(
            "owner", "passwords.json", json.dumps(gateway.kept.database_passwords)
        ),
    }
    run(_grants_command(gateway, "bootstrap", environment), lifeline, timeout_seconds=DATABASE_SECONDS)


def _upgrade(gateway: Gateway, lifeline: Lifeline) -> None:
    environment = {"DATABASE_URL_FILE": gateway.secret_file("owner", "database-url", gateway.database_url("mosaic_owner"))}
    run(_grants_command(gateway, "upgrade", environment), lifeline, timeout_seconds=DATABASE_SECONDS)


def _seed(gateway: Gateway) -> None:
    """Somebody to act as and something to read; what is there already stays as it is."""
    if gateway.name in SITES:
        seed(gateway.database_url("mosaic_owner"), gateway.name, now=SystemClock().now())


def _grants_command(gateway: Gateway, verb: str, environment: Mapping[str, str]) -> Command:
    return Command(
        name=f"{gateway.name}: db {verb}",
        argv=python_module("mosaic_grants", "db", verb),
        log=gateway.log(f"db-{verb}"),
        cwd=gateway.service_folder("owner"),
        environment={"MOSAIC_ENV": "dev", **environment},
    )
