"""Replicas of one gateway's grants, each with sealing secrets of its own, in this event loop or as processes."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import mosaic_grants.app
import mosaic_grants.config
from mosaic.grants.v1 import grants_pb2, grants_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.config import load
from mosaic_common.identity import EDGE_OUTBOUND, GRANTS
from mosaic_common.rpc.application import Application
from mosaic_common.sealing import SealingKeys

from tests.support.connections import connect_to_stranger
from tests.support.gateway import Gateway

_VARIABLE = "MOSAIC_SEALING_KEY"
# Nothing answers there; a connection need not be used to have a key.
_NOWHERE = "127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a replica is told of the sealing secret."""

    current: str
    next: str | None = None
    previous: str | None = None

    @property
    def keys(self) -> SealingKeys:
        return SealingKeys(self.current, self.next, self.previous)

    @property
    def key_id(self) -> str:
        return self.keys.current_id

    def environment(self, gateway: Gateway) -> dict[str, str]:
        """What grants is started with."""
        named = {_VARIABLE: self.current, f"{_VARIABLE}_NEXT": self.next, f"{_VARIABLE}_PREVIOUS": self.previous}
        return gateway.environment(GRANTS) | {name: secret for name, secret in named.items() if secret is not None}


def composed_with(secrets: Secrets) -> Callable[[Gateway], Application]:
    """For ``Gateway.instead``: grants with these secrets."""
    return lambda gateway: mosaic_grants.app.build(load(mosaic_grants.config.Config, secrets.environment(gateway)), gateway.clock)


def another(gateway: Gateway) -> Gateway:
    """The same gateway, asked at another replica of grants: the same PKI and database, other listeners."""
    listeners = ((GRANTS, "internal"), (GRANTS, "operator"))
    addresses = dict(zip(listeners, (f"127.0.0.1:{port}" for port in choose_free_ports(2)), strict=True))
    return Gateway(
        gateway.name, gateway.folder, gateway.database, gateway.valkey, gateway.clock, addresses=gateway.addresses | addresses
    )


@dataclass(slots=True)
class GrantsProcess:
    """A replica that is a process of its own.

    Attributes:
        at: the gateway, asked at this replica.
        log: what the process writes, over all its lives.
    """

    at: Gateway
    log: Path
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    async def start(self, secrets: Secrets) -> None:
        """Return once it listens."""
        process = await self._spawn(secrets)
        host, _, port = self.at.addresses[GRANTS, "internal"].rpartition(":")
        async with asyncio.timeout(30):
            # A gRPC channel would wait longer each time. The internal listener is the last one to open.
            while not await _listens(host, int(port)):
                assert process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)

    async def fail(self, secrets: Secrets) -> tuple[int, str]:
        """Start it with secrets that it cannot run with; return its exit code and what it wrote."""
        before = self.log.stat().st_size if self.log.exists() else 0
        process = await self._spawn(secrets)
        code = await process.wait()
        return code, self.log.read_bytes()[before:].decode()

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()

    async def _spawn(self, secrets: Secrets) -> asyncio.subprocess.Process:
        environment = {"PATH": os.environ["PATH"], **secrets.environment(self.at)}
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "mosaic_grants", "serve", env=environment, stdout=log, stderr=log
            )
        return self.process


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


# --- what is asked of a replica


async def make_connections(at: Gateway, user_id: UUID, names: list[str]) -> None:
    """As `peer add` makes them, up to the certificate of a stranger's authority: the key is made and sealed by grants."""
    for name in names:
        await connect_to_stranger(at, user_id, name=name, endpoint=_NOWHERE, root_pem=at.service_root)


class Credentials:
    """GetPeerCredential as the outbound edge calls it, over one connection."""

    def __init__(self, at: Gateway, user_id: UUID) -> None:
        channel = at.internal_channel(GRANTS, caller=EDGE_OUTBOUND)
        self._stub: Any = ledger_pb2_grpc.PeerCredentialServiceStub(channel)
        self._token = dict(at.user_metadata(user_id))["authorization"].removeprefix("Bearer ")

    async def read(self, name: str = "") -> dict[str, bytes]:
        """Connection → private key, PEM; of all when none is named."""
        request = ledger_pb2.GetPeerCredentialRequest(user_token=self._token, connection=name)
        answer = await self._stub.GetPeerCredential(request)
        return {each.connection: each.client_key_pem for each in answer.credentials}


class Seals:
    """SealService as an admin calls it, over one connection."""

    def __init__(self, at: Gateway) -> None:
        self._stub: Any = grants_pb2_grpc.SealServiceStub(at.channel(GRANTS, "operator"))
        self._metadata = at.operator_metadata()

    async def status(self) -> grants_pb2.GetSealStatusResponse:
        answer: grants_pb2.GetSealStatusResponse = await self._stub.GetSealStatus(
            grants_pb2.GetSealStatusRequest(), metadata=self._metadata
        )
        return answer

    def reseal(self, key_id: str, batch_size: int = 0) -> "grpc.aio.UnaryUnaryCall[Any, grants_pb2.ResealResponse]":
        call: grpc.aio.UnaryUnaryCall[Any, grants_pb2.ResealResponse] = self._stub.Reseal(
            grants_pb2.ResealRequest(key_id=key_id, batch_size=batch_size), metadata=self._metadata
        )
        return call

    async def until_seen(self, replicas: int) -> None:
        """Return once that many have announced themselves."""
        async with asyncio.timeout(10):
            while len((await self.status()).replicas) != replicas:
                await asyncio.sleep(0.05)


async def until_waiting(at: Gateway, statement: str = "") -> None:
    """Return once somebody waits for a lock in this database, in a statement that holds this text."""
    waiting = b"""SELECT FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND strpos(query, %s) > 0"""
    with at.database.connect_superuser() as connection:
        async with asyncio.timeout(30):
            while not connection.execute(waiting, (statement,)).fetchall():
                await asyncio.sleep(0.01)
