"""One gateway as a deployment runs it: the door, the ledger, the broker and the edge, each replica a process of its own.

    gateway.prepare()
    async with replicated(gateway, replicas=2, authority=EmbeddedAuthority(gateway.folder / "ca")) as running:
        addresses = doors(running)

Replicas share what they share in a deployment: PKI, database, Valkey, the one broker and its authority. Each has ports of its own;
the second enrollment asks the second grants, and so on.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR

from tests.support.attacked import COMMANDS, START_SECONDS
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.stepca import StepCaServer

DEPENDENCIES: Final = {
    CA_BROKER: ("step-ca",),
    GRANTS: ("postgres", CA_BROKER),
    ENROLLMENT: (GRANTS, CA_BROKER, "valkey"),
    EDGE_INBOUND: (GRANTS, "postgres", "valkey"),
}


class Authority(Protocol):
    """Who signs for the gateway, and how often it was asked to."""

    @property
    def root(self) -> Path: ...
    def broker_environment(self) -> Mapping[str, str]: ...
    def count_signing_orders(self) -> int: ...


@dataclass(frozen=True, slots=True)
class EmbeddedAuthority:
    """The one inside the broker; its folder keeps a file for every order, ever."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    def broker_environment(self) -> Mapping[str, str]:
        return {"MOSAIC_EMBEDDED_CA_DIR": str(self.folder)}

    def count_signing_orders(self) -> int:
        return len(list((self.folder / "used").iterdir()))


@dataclass(frozen=True, slots=True)
class StepCaAuthority:
    """A real step-ca; its log has a line for every request."""

    server: StepCaServer

    @property
    def root(self) -> Path:
        return self.server.root_path

    def broker_environment(self) -> Mapping[str, str]:
        return {
            "STEP_CA_URL": self.server.url,
            "STEP_CA_PROVISIONER_KEY_JSON_FILE": str(self.server.directory / "secrets" / "mosaic-fed.json"),
            "STEP_CA_ROOT_CERT_PATH": str(self.root),
            "STEP_CA_ROOT_FINGERPRINT": (self.server.directory / "certs" / "root_ca.sha256").read_text().strip(),
        }

    def count_signing_orders(self) -> int:
        lines = (self.server.directory / "log").read_text().splitlines()
        requests = [json.loads(line) for line in lines if line.startswith("{")]
        return len([each for each in requests if each.get("path") == "/1.0/sign"])


@dataclass(frozen=True, slots=True)
class Replica:
    """One process.

    Attributes:
        gateway: with the addresses of this replica and of what it speaks to.
    """

    identity: str
    gateway: Gateway
    popen: subprocess.Popen[bytes]


@contextlib.asynccontextmanager
async def replicated(
    gateway: Gateway, *, replicas: int, authority: Authority, identities: Sequence[str] = (GRANTS, ENROLLMENT)
) -> AsyncIterator[Sequence[Replica]]:
    """Start the broker of a prepared gateway, and each of the others so many times; return once each reaches what it needs."""
    numbered = [gateway, *(_another(gateway) for _ in range(1, replicas))]
    with contextlib.ExitStack() as stack:
        running = [_start(CA_BROKER, gateway, authority, stack)]
        running += [_start(identity, each, authority, stack) for each in numbered for identity in identities]
        try:
            await asyncio.gather(*(_serves(replica) for replica in running))
            yield running
        finally:
            for each in numbered:
                await each.close()


def doors(running: Sequence[Replica], identity: str = ENROLLMENT) -> list[str]:
    """host:port of the public listener of every replica of a service."""
    return [each.gateway.addresses[identity, "public"] for each in running if each.identity == identity]


def _another(gateway: Gateway) -> Gateway:
    own = [(identity, listener) for identity, listener in gateway.addresses if identity in {GRANTS, ENROLLMENT, EDGE_INBOUND}]
    addresses = {listener: f"127.0.0.1:{port}" for listener, port in zip(own, choose_free_ports(len(own)), strict=True)}
    return replace(gateway, addresses=gateway.addresses | addresses, apps={}, _channels=[])


def _start(identity: str, gateway: Gateway, authority: Authority, stack: contextlib.ExitStack) -> Replica:
    environment = gateway.environment(identity)
    if "MOSAIC_FEDERATION_ROOT_FILE" in environment:
        environment["MOSAIC_FEDERATION_ROOT_FILE"] = str(authority.root)
    if identity == CA_BROKER:
        del environment["MOSAIC_EMBEDDED_CA_DIR"]
        environment |= authority.broker_environment()
    port = gateway.addresses[identity, "internal"].rpartition(":")[2]
    log = stack.enter_context((gateway.folder / f"{identity}-{port}.log").open("wb"))
    popen = subprocess.Popen([sys.executable, "-m", *COMMANDS[identity]], env=os.environ | environment, stdout=log, stderr=log)
    stack.callback(popen.wait)
    stack.callback(popen.terminate)
    return Replica(identity, gateway, popen)


async def _serves(replica: Replica) -> None:
    channel = replica.gateway.internal_channel(replica.identity, caller=OPERATOR)
    async with asyncio.timeout(START_SECONDS):
        await channel.channel_ready()
        await serving(channel, *DEPENDENCIES[replica.identity])
