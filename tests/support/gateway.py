"""The test bed: real services on real databases, composed by their own composition roots in the test's event loop.

    async def test_reads(pair):
        peer = await pair.work.enroll(scope=SCOPE)
        answer = await peer.list("tasks")

Nothing between a client and a row is replaced: TLS, gRPC, PostgreSQL and the CA's certificates are the real ones. What a
test may inject is the clock, and through ``instead`` a service composed around adapters of its own.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol
from uuid import UUID

import grpc
import mosaic_ca_broker.app
import mosaic_ca_broker.config
import mosaic_enrollment.app
import mosaic_enrollment.config
import mosaic_federation_edge.app
import mosaic_federation_edge.config
import mosaic_grants.app
import mosaic_grants.config
from mosaic.enrollment.v1 import enrollment_pb2_grpc
from mosaic.federation.v1 import federation_pb2_grpc, query_pb2_grpc
from mosaic.grants.v1 import grants_pb2, grants_pb2_grpc
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common import pki
from mosaic_common.auth import Role, TokenIssuer, operate_audience, query_audience
from mosaic_common.clock import Clock, SystemClock
from mosaic_common.config import load
from mosaic_common.identity import (
    CA_BROKER,
    EDGE_INBOUND,
    EDGE_OUTBOUND,
    ENROLLMENT,
    GRANTS,
    OPERATOR,
    SERVICES,
    dns_name,
)
from mosaic_common.keys import private_pem
from mosaic_common.rpc.application import Application
from mosaic_common.tokens import EnrollmentToken, EnrollmentUrl

from tests.support.peers import PeerClient, Redeemed, Redemption, to_pem
from tests.support.postgres import Database

VALKEY_PASSWORDS = {user: f"{user}-of-this-test-run-only" for user in (ENROLLMENT, EDGE_INBOUND, EDGE_OUTBOUND)}
TASKS_NOTES_MEMORY: Mapping[str, object] = {"resources": ["tasks", "notes", "memory"], "max_rows_per_query": 500}


class Valkey(Protocol):
    """What a gateway has to know of its Valkey."""

    def url(self, user: str) -> str: ...


@dataclass(slots=True)
class Gateway:
    """One gateway, its services in this event loop.

    Attributes:
        addresses: (identity, listener) → host:port.
        apps: running services by identity.
        instead: identity → what to run in its place, around adapters of the test's own (a lying authority, a paused store).
    """

    name: str
    folder: Path
    database: Database
    valkey: Valkey
    clock: Clock = field(default_factory=SystemClock)
    addresses: dict[tuple[str, str], str] = field(default_factory=dict)
    apps: dict[str, Application] = field(default_factory=dict)
    instead: dict[str, Callable[["Gateway"], Application]] = field(default_factory=dict)
    _channels: list[grpc.aio.Channel] = field(default_factory=list)

    def prepare(self) -> None:
        """Make the PKI, the embedded CA and the addresses."""
        pki.init(self.pki, self.name, "localhost", clock=self.clock)
        embedded_ca_folder.init(self.folder / "ca", now=self.clock.now())
        listeners = [(identity, "internal") for identity in SERVICES]
        listeners += [(GRANTS, "operator"), (ENROLLMENT, "public"), (EDGE_INBOUND, "public"), (EDGE_OUTBOUND, "user")]
        for listener, port in zip(listeners, choose_free_ports(len(listeners)), strict=True):
            self.addresses[listener] = f"127.0.0.1:{port}"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def service_root(self) -> bytes:
        return (self.pki / OPERATOR / "service-root.pem").read_bytes()

    async def start(self, *identities: str) -> None:
        """Start services; all of them when none is named."""
        for identity in identities or (CA_BROKER, GRANTS, ENROLLMENT, EDGE_INBOUND, EDGE_OUTBOUND):
            build = self.instead.get(identity)
            self.apps[identity] = build(self) if build else self._build(identity)
            await self.apps[identity].start()

    async def stop(self, *identities: str) -> None:
        for identity in identities or tuple(reversed(self.apps)):
            await self.apps.pop(identity).stop()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        await self.stop()

    def environment(self, identity: str) -> dict[str, str]:
        """The environment of one service, as an operator would give it."""
        common = {
            "MOSAIC_ENV": "dev",
            "MOSAIC_GATEWAY": self.name,
            "MOSAIC_PKI_DIR": str(self.pki / identity),
            "MOSAIC_INTERNAL_LISTEN": self.addresses[identity, "internal"],
        }
        grants = {"MOSAIC_GRANTS_ADDRESS": self.addresses[GRANTS, "internal"]}
        broker = {"MOSAIC_CA_BROKER_ADDRESS": self.addresses[CA_BROKER, "internal"]}
        root = {"MOSAIC_FEDERATION_ROOT_FILE": str(self.folder / "ca" / "root.pem")}
        own: dict[str, dict[str, str]] = {
            CA_BROKER: {"MOSAIC_EMBEDDED_CA_DIR": str(self.folder / "ca")},
            GRANTS: {
                "DATABASE_URL": self.database.url("mosaic_grants"),
                "MOSAIC_OPERATOR_LISTEN": self.addresses[GRANTS, "operator"],
                "MOSAIC_SEALING_KEY": f"{self.name}: a sealing key for tests, of more than 32 bytes",
                "MOSAIC_ENROLLMENT_URL": f"https://{self.addresses[ENROLLMENT, 'public']}",
                "MOSAIC_FEDERATION_ENDPOINT": self.addresses[EDGE_INBOUND, "public"],
                **broker,
                **root,
            },
            ENROLLMENT: {
                "MOSAIC_PUBLIC_LISTEN": self.addresses[ENROLLMENT, "public"],
                "REDIS_URL": self.valkey.url(ENROLLMENT),
                # Every test comes from one address, and some enroll hundreds.
                "MOSAIC_ENROLLMENT_SOURCE_PER_MINUTE": "1000000",
                "MOSAIC_ENROLLMENT_TOKEN_PER_MINUTE": "1000000",
                "MOSAIC_ENROLLMENT_UNKNOWN_PER_MINUTE": "1000000",
                **grants,
                **broker,
            },
            EDGE_INBOUND: {
                "DATABASE_URL": self.database.url("mosaic_edge_inbound"),
                "REDIS_URL": self.valkey.url(EDGE_INBOUND),
                "MOSAIC_PUBLIC_LISTEN": self.addresses[EDGE_INBOUND, "public"],
                **grants,
                **root,
            },
            EDGE_OUTBOUND: {
                "DATABASE_URL": self.database.url("mosaic_edge_outbound"),
                "REDIS_URL": self.valkey.url(EDGE_OUTBOUND),
                "MOSAIC_USER_LISTEN": self.addresses[EDGE_OUTBOUND, "user"],
                **grants,
            },
        }
        return common | own[identity]

    def _build(self, identity: str) -> Application:
        environment = self.environment(identity)
        modules: dict[str, tuple[ModuleType, ModuleType]] = {
            CA_BROKER: (mosaic_ca_broker.app, mosaic_ca_broker.config),
            GRANTS: (mosaic_grants.app, mosaic_grants.config),
            ENROLLMENT: (mosaic_enrollment.app, mosaic_enrollment.config),
        }
        if identity in modules:
            app, config = modules[identity]
            built: Application = app.build(load(config.Config, environment), self.clock)
            return built
        edge = mosaic_federation_edge
        if identity == EDGE_INBOUND:
            return edge.app.build_inbound(load(edge.config.InboundConfig, environment), self.clock)
        return edge.app.build_outbound(load(edge.config.OutboundConfig, environment), self.clock)

    # --- operators and users

    def token(self, subject: str, *roles: Role, audience: str) -> str:
        issuer = TokenIssuer((self.pki / OPERATOR / "jwt.key").read_bytes(), self.name, self.clock)
        return issuer.issue(subject, roles, audience, timedelta(minutes=30))

    def operator_metadata(self, *roles: Role) -> tuple[tuple[str, str], ...]:
        token = self.token("otto", *(roles or (Role.ADMIN,)), audience=operate_audience(self.name))
        return (("authorization", f"Bearer {token}"),)

    def user_metadata(self, user_id: UUID) -> tuple[tuple[str, str], ...]:
        token = self.token(str(user_id), Role.QUERY, audience=query_audience(self.name))
        return (("authorization", f"Bearer {token}"),)

    def channel(
        self, identity: str, listener: str, *, root: bytes | None = None, key: bytes | None = None, chain: bytes | None = None
    ) -> grpc.aio.Channel:
        """A fresh connection to one of this gateway's listeners."""
        channel = grpc.aio.secure_channel(
            self.addresses[identity, listener],
            grpc.ssl_channel_credentials(root or self.service_root, key, chain),
            options=(("grpc.ssl_target_name_override", dns_name(identity, self.name)), ("grpc.use_local_subchannel_pool", 1)),
        )
        self._channels.append(channel)
        return channel

    def internal_channel(self, identity: str, *, caller: str) -> grpc.aio.Channel:
        """A connection to an internal listener as one of the service identities."""
        leaf = self.pki / caller
        key, chain = (leaf / "internal.key").read_bytes(), (leaf / "internal.pem").read_bytes()
        return self.channel(identity, "internal", key=key, chain=chain)

    @property
    def grants(self) -> Any:
        return grants_pb2_grpc.GrantServiceStub(self.channel(GRANTS, "operator"))

    @property
    def peers(self) -> Any:
        return grants_pb2_grpc.PeerServiceStub(self.channel(GRANTS, "operator"))

    @property
    def queries(self) -> Any:
        return query_pb2_grpc.QueryServiceStub(self.channel(EDGE_OUTBOUND, "user"))

    @property
    def enrollment(self) -> Any:
        return enrollment_pb2_grpc.EnrollmentServiceStub(self.channel(ENROLLMENT, "public"))

    # --- the two sides of an enrollment

    async def create_grant(self, *, user: str, peer: str, scope: Mapping[str, object], **further: Any) -> str:
        """Create the peer if it is not there, and a pending grant; return the grant's id."""
        metadata = self.operator_metadata()
        try:
            await self.peers.CreatePeer(grants_pb2.CreatePeerRequest(name=peer), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        request = grants_pb2.CreateGrantRequest(user=user, peer=peer, scope_json=json.dumps(scope), **further)
        return str((await self.grants.CreateGrant(request, metadata=metadata)).grant.id)

    async def create_token(self, grant_id: str, ttl_seconds: int = 0, *, reenroll: bool = False) -> EnrollmentUrl:
        """Make a token as the CLI does: the seed stays here."""
        token = EnrollmentToken.generate()
        request = grants_pb2.CreateEnrollmentTokenRequest(
            grant_id=grant_id, token_public_key=token.public_key, ttl_seconds=ttl_seconds, reenroll=reenroll
        )
        answer = await self.grants.CreateEnrollmentToken(request, metadata=self.operator_metadata())
        return EnrollmentUrl.parse(f"{answer.url_without_token}&token={token.encode()}")

    async def redeem(self, url: EnrollmentUrl) -> Redeemed:
        """Redeem a token with an own key, as a stranger's client would."""
        redemption = Redemption.of(url)
        return Redeemed(redemption, await self.enrollment.Enroll(redemption.request))

    async def enroll(self, *, user: str, peer: str = "home", scope: Mapping[str, object] = TASKS_NOTES_MEMORY) -> PeerClient:
        """Give a grant and redeem it: the whole serving side, with a client that is nothing but a key and a certificate."""
        url = await self.create_token(await self.create_grant(user=user, peer=peer, scope=scope))
        return self.peer_client(await self.redeem(url))

    def peer_client(self, redeemed: Redeemed) -> PeerClient:
        return self.peer_client_with(
            private_pem(redeemed.redemption.key),
            to_pem([redeemed.answer.certificate_der, *redeemed.answer.chain_der]),
            redeemed.answer.grant_id,
        )

    def peer_client_with(self, key: bytes, chain: bytes, grant_id: str) -> PeerClient:
        channel = self.channel(EDGE_INBOUND, "public", key=key, chain=chain)
        return PeerClient(federation_pb2_grpc.FederationServiceStub(channel), grant_id, key, chain)

    # --- what the ledger holds

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read as the owner."""
        with self.database.connect() as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def execute(self, statement: str, *values: Any) -> None:
        with self.database.connect() as connection:
            connection.execute(statement.encode(), values)

    def audit(self, event: str | None = None) -> list[dict[str, Any]]:
        """The audit log, oldest first."""
        with self.database.connect() as connection:
            cursor = connection.execute(
                b"""SELECT * FROM federation.federation_audit_log WHERE %s::text IS NULL OR event = %s
                    ORDER BY time_us, chain_id, seq""",
                (event, event),
            )
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two gateways."""

    home: Gateway
    work: Gateway


@asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[Gateway]:
    gateway.prepare()
    try:
        await gateway.start()
        yield gateway
    finally:
        await gateway.close()
