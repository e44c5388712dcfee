"""Gateways as they run: every service a process of its own, the measured one on a core of its own."""

import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from mosaic.federation.v1 import federation_pb2
from mosaic.grants.v1 import grants_pb2
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, GRANTS, OPERATOR, dns_name

from tests.benchmarks.reads import callers as calling
from tests.benchmarks.reads.callers import Caller
from tests.benchmarks.reads.cores import Cores, pin
from tests.benchmarks.reads.dataset import id_of
from tests.benchmarks.reads.load import ROOT, Connection, Target
from tests.support.attacked import COMMANDS, START_SECONDS
from tests.support.authorities import LyingAuthority
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.peers import PeerClient

UNLIMITED: Final = "tests.benchmarks.reads.unlimited"
BARE: Final = "tests.benchmarks.reads.bare_server"
ASKING_USER: Final = id_of("user", 0)


@dataclass(frozen=True, slots=True)
class Site:
    """A serving gateway.

    Attributes:
        pids: process → pid.
    """

    gateway: Gateway
    callers: Sequence[Caller]
    pids: Mapping[str, int]

    @property
    def target(self) -> Target:
        return _target(self.gateway, EDGE_INBOUND, "public")

    def connections(self, requests: Sequence[Sequence[bytes]]) -> list[Connection]:
        """One for each caller, with their own requests."""
        pairs = zip(self.callers, requests, strict=True)
        return [Connection(asked, caller.chain_pem, caller.key_pem) for caller, asked in pairs]

    def client(self, caller: Caller) -> PeerClient:
        return self.gateway.peer_client_with(caller.key_pem, caller.chain_pem, str(calling.grant_id(caller.grant)))


@dataclass(frozen=True, slots=True)
class Home:
    """A querying gateway with a connection to each of its peers."""

    gateway: Gateway
    pids: Mapping[str, int]

    @property
    def target(self) -> Target:
        return _target(self.gateway, EDGE_OUTBOUND, "user")

    def connection(self, request: bytes) -> Connection:
        """A user's, with a token that is good for half an hour."""
        ((_, authorization),) = self.gateway.user_metadata(ASKING_USER)
        return Connection([request], authorization=authorization)


@asynccontextmanager
async def serving_site(gateway: Gateway, authority: LyingAuthority, callers: Sequence[Caller], cores: Cores) -> AsyncIterator[Site]:
    """Run grants and the inbound edge of a gateway; its database is a dataset."""
    gateway.prepare()
    root = gateway.folder / "federation-root.pem"
    root.write_bytes(authority.root_pem)
    for caller in callers:
        calling.pin(gateway.database, caller.grant, ssl.PEM_cert_to_DER_cert(_leaf(caller.chain_pem)))
    with contextlib.ExitStack() as stack:
        further = {"MOSAIC_FEDERATION_ROOT_FILE": str(root)}
        grants = stack.enter_context(_started(gateway, GRANTS, COMMANDS[GRANTS], further))
        edge = stack.enter_context(_started(gateway, EDGE_INBOUND, (UNLIMITED, "inbound"), further))
        try:
            await _serves(gateway, GRANTS, "postgres")
            await _serves(gateway, EDGE_INBOUND, "postgres", GRANTS)
            pin(edge.pid, cores.server)
            yield Site(gateway, callers, {GRANTS: grants.pid, EDGE_INBOUND: edge.pid})
        finally:
            await gateway.close()


@asynccontextmanager
async def querying_home(gateway: Gateway, authority: LyingAuthority, peers: Sequence[Site], cores: Cores) -> AsyncIterator[Home]:
    """Run grants and the outbound edge of a gateway whose user has a connection to each of the peers."""
    gateway.prepare()
    root = gateway.folder / "federation-root.pem"
    root.write_bytes(authority.root_pem)
    with contextlib.ExitStack() as stack:
        grants = stack.enter_context(_started(gateway, GRANTS, COMMANDS[GRANTS], {"MOSAIC_FEDERATION_ROOT_FILE": str(root)}))
        edge = stack.enter_context(_started(gateway, EDGE_OUTBOUND, (UNLIMITED, "outbound"), {}))
        try:
            await _serves(gateway, GRANTS, "postgres")
            for site in peers:
                await _connect(gateway, authority, site)
            await _serves(gateway, EDGE_OUTBOUND, "postgres", GRANTS)
            pin(edge.pid, cores.server)
            yield Home(gateway, {GRANTS: grants.pid, EDGE_OUTBOUND: edge.pid})
        finally:
            await gateway.close()


@contextlib.contextmanager
def bare_server(site: Site, answer: federation_pb2.ListResourcesResponse, address: str, cores: Cores) -> Iterator[int]:
    """Run the server that builds this answer, with the certificates of the site's edge. Yield its pid."""
    folder, pki = site.gateway.folder, site.gateway.pki / EDGE_INBOUND
    (folder / "answer.bin").write_bytes(answer.SerializeToString())
    files = (pki / "public.pem", pki / "public.key", folder / "federation-root.pem", folder / "answer.bin")
    server = subprocess.Popen([sys.executable, "-m", BARE, address, *map(str, files)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n", "the bare server did not start"
        pin(server.pid, cores.server)
        yield server.pid
    finally:
        server.kill()
        server.communicate()


async def _connect(home: Gateway, authority: LyingAuthority, site: Site) -> None:
    """What `peer add` does, but for the enrollment in the middle: the certificate is signed and pinned here."""
    work, grant = site.gateway, calling.CALLERS
    metadata = home.operator_metadata()
    prepared = await home.peers.PrepareConnection(
        grants_pb2.PrepareConnectionRequest(
            user=str(ASKING_USER),
            remote_gateway=work.name,
            common_name=calling.common_name(grant),
            enrollment_address=f"https://{work.addresses[EDGE_INBOUND, 'public']}",
        ),
        metadata=metadata,
    )
    certificate, *chain = calling.sign_for(authority, grant, prepared.csr_der)
    calling.pin(work.database, grant, certificate)
    await home.peers.ActivateConnection(
        grants_pb2.ActivateConnectionRequest(
            peer_id=prepared.peer.id,
            certificate_der=certificate,
            chain_der=chain,
            grant_id=str(calling.grant_id(grant)),
            subject_user_id=str(calling.subject_id(grant)),
            gateway=work.name,
            federation_endpoint=work.addresses[EDGE_INBOUND, "public"],
            pinned_root_der=ssl.PEM_cert_to_DER_cert(work.service_root.decode()),
            endpoint_host_confirmed=True,
        ),
        metadata=metadata,
    )


@contextlib.contextmanager
def _started(
    gateway: Gateway, identity: str, command: Sequence[str], further: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **gateway.environment(identity), **further}
    with (gateway.folder / f"{identity}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


async def _serves(gateway: Gateway, identity: str, *dependencies: str) -> None:
    channel: Any = gateway.internal_channel(identity, caller=OPERATOR)
    async with asyncio.timeout(START_SECONDS):
        await channel.channel_ready()
        await serving(channel, *dependencies)


def _target(gateway: Gateway, identity: str, listener: str) -> Target:
    return Target(gateway.addresses[identity, listener], dns_name(identity, gateway.name), gateway.service_root)


def _leaf(chain_pem: bytes) -> str:
    end = b"-----END CERTIFICATE-----\n"
    return (chain_pem.partition(end)[0] + end).decode()
