"""Composition roots of the two edges: they read top to bottom and decide nothing."""

import base64
import binascii
import json
import time
from pathlib import Path

import grpc
from mosaic_common.auth import TokenVerifier, own_issuer, query_audience
from mosaic_common.clock import Clock
from mosaic_common.errors import ConfigurationError, Layer
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, GRANTS, PeerCertificates
from mosaic_common.page_tokens import PageTokens, QueryHasher
from mosaic_common.rpc.application import Application
from mosaic_common.rpc.authenticate import services_of
from mosaic_common.rpc.client import ClientTls, service_channel
from mosaic_common.rpc.health import Health, ping_of
from mosaic_common.rpc.methods import Listener, MethodTable
from mosaic_common.rpc.server import GrpcListener, ServerTls

from mosaic_federation_edge.adapters.audit_chains import GrantsChains
from mosaic_federation_edge.adapters.audit_store import PostgresAuditStore
from mosaic_federation_edge.adapters.audit_writer import AuditWriter
from mosaic_federation_edge.adapters.connection_reports import ConnectionReports
from mosaic_federation_edge.adapters.database import Database
from mosaic_federation_edge.adapters.failover import FailoverCounters
from mosaic_federation_edge.adapters.grant_resolver import GrantsResolver
from mosaic_federation_edge.adapters.grants_connections import GrantsConnections
from mosaic_federation_edge.adapters.housekeeping import forget_keys
from mosaic_federation_edge.adapters.peer_channels import PeerChannels
from mosaic_federation_edge.adapters.peers import Peers
from mosaic_federation_edge.adapters.read_functions import GrantReadFunctions, LocalReadFunctions
from mosaic_federation_edge.adapters.recorder import AuditRecorder
from mosaic_federation_edge.adapters.schema_watch import watch_schema
from mosaic_federation_edge.adapters.valkey import Valkey, ValkeyCounters
from mosaic_federation_edge.api.admission import Admission
from mosaic_federation_edge.api.federation import FederationServicer
from mosaic_federation_edge.api.handshakes import Handshakes
from mosaic_federation_edge.api.own_rows import OwnRows
from mosaic_federation_edge.api.query import QueryServicer
from mosaic_federation_edge.api.users import users
from mosaic_federation_edge.config import InboundConfig, OutboundConfig
from mosaic_federation_edge.domain.grant_limits import GrantLimits
from mosaic_federation_edge.domain.grant_views import GrantViews
from mosaic_federation_edge.domain.leases import LeasedCounters
from mosaic_federation_edge.domain.limits import DEFAULT_LIMITS, Limits
from mosaic_federation_edge.domain.local_counters import LocalCounters
from mosaic_federation_edge.domain.peer_source import PeerSource
from mosaic_federation_edge.domain.query_tokens import QueryTokens
from mosaic_federation_edge.domain.rate_limit import TokenBuckets
from mosaic_federation_edge.methods import INBOUND, OUTBOUND

READ_CONNECTIONS = 8
SEARCH_CONNECTIONS = 4
SEARCH_SECONDS = 1.0
AUDIT_CONNECTIONS = 1


def build_inbound(
    config: InboundConfig, clock: Clock, *, limits: Limits = DEFAULT_LIMITS, handshakes: Handshakes | None = None
) -> Application:
    """Return the edge that answers peers.

    Args:
        handshakes: a test's own, to read the counts from.

    Raises:
        ConfigurationError: a file or a value that cannot be used.
    """
    pki, gateway = config.mosaic_pki_dir, config.mosaic_gateway
    handshakes = handshakes or Handshakes()
    url = config.database_url.get_secret_value()
    reads, searches, audits = _databases(url, EDGE_INBOUND)
    valkey = ValkeyCounters(config.redis_url.get_secret_value())
    grants = _grants_channel(config)
    writer = AuditWriter(PostgresAuditStore(audits), GrantsChains(grants))
    recorder = AuditRecorder(writer, clock)
    health = Health({GRANTS: ping_of(grants), "postgres": reads.verify_schema, "valkey": valkey.ping})

    admission = Admission(
        PeerCertificates(),
        handshakes,
        clock,
        sources=TokenBuckets(limits.source, Layer.SOURCE, time.monotonic),
        fingerprints=TokenBuckets(limits.certificate, Layer.SOURCE, time.monotonic),
    )
    counters = FailoverCounters(valkey, LocalCounters(time.monotonic), time.monotonic)
    federation = FederationServicer(
        admission,
        GrantViews(GrantsResolver(grants), time.monotonic),
        GrantReadFunctions(reads, searches),
        PageTokens(_read_key(pki / "page-token.key"), clock),
        QueryHasher(_read_key(pki / "query-hmac.key")),
        clock,
        gateway=gateway,
        limits=GrantLimits(LeasedCounters(counters, time.monotonic), grant=limits.grant, peer=limits.peer),
    )
    peers = GrpcListener(
        Listener.PEER,
        str(config.mosaic_public_listen),
        ServerTls(pki / "public.pem", pki / "public.key", client_roots=config.mosaic_federation_root_file),
        INBOUND,
        admission.authenticate,
        recorder,
        reflected=config.mosaic_env == "dev",
    ).serve(federation)
    return Application(
        [peers, _internal(config, INBOUND, health)],
        health,
        background=[writer.run, recorder.run, lambda: watch_schema(reads), lambda: handshakes.watch(peers)],
        opening=[reads.open, searches.open, audits.open],
        closing=[recorder.post_counted, writer.drain, grants.close, reads.close, searches.close, audits.close, valkey.close],
    )


def build_outbound(config: OutboundConfig, clock: Clock, *, limits: Limits = DEFAULT_LIMITS) -> Application:
    """Return the edge that asks for local users.

    Raises:
        ConfigurationError: a file or a value that cannot be used.
    """
    pki, gateway = config.mosaic_pki_dir, config.mosaic_gateway
    url = config.database_url.get_secret_value()
    reads, searches, audits = _databases(url, EDGE_OUTBOUND)
    valkey = Valkey(config.redis_url.get_secret_value())
    grants = _grants_channel(config)
    writer = AuditWriter(PostgresAuditStore(audits), GrantsChains(grants))
    recorder = AuditRecorder(writer, clock)
    health = Health({GRANTS: ping_of(grants), "postgres": reads.verify_schema, "valkey": valkey.ping})

    verifier = TokenVerifier(
        _read_jwks(pki / "jwks.json"),
        issuer=own_issuer(gateway),
        audience=query_audience(gateway),
        gateway=gateway,
        clock=clock,
    )
    connections = GrantsConnections(grants)
    reports = ConnectionReports(grants)
    channels = PeerChannels()
    query = QueryServicer(
        OwnRows(LocalReadFunctions(reads, searches)),
        PeerSource(connections, reports, Peers(channels, clock)),
        connections,
        QueryTokens(clock),
        TokenBuckets(limits.user, Layer.RATE, time.monotonic),
    )
    user = GrpcListener(
        Listener.USER,
        str(config.mosaic_user_listen),
        ServerTls(pki / "public.pem", pki / "public.key"),
        OUTBOUND,
        users(verifier),
        recorder,
        reflected=config.mosaic_env == "dev",
    ).serve(query)
    return Application(
        [user, _internal(config, OUTBOUND, health)],
        health,
        background=[writer.run, recorder.run, reports.run, lambda: watch_schema(reads), lambda: forget_keys(connections, channels)],
        opening=[reads.open, searches.open, audits.open],
        closing=[
            recorder.post_counted,
            writer.drain,
            channels.close,
            grants.close,
            reads.close,
            searches.close,
            audits.close,
            valkey.close,
        ],
    )


def _databases(url: str, identity: str) -> tuple[Database, Database, Database]:
    """Connections for reads, for searches and for the audit log: none of them waits for another's."""
    return (
        Database(url, application=identity, connections=READ_CONNECTIONS),
        Database(url, application=f"{identity} search", connections=SEARCH_CONNECTIONS, statement_seconds=SEARCH_SECONDS),
        Database(url, application=f"{identity} audit", connections=AUDIT_CONNECTIONS),
    )


def _grants_channel(config: InboundConfig | OutboundConfig) -> grpc.aio.Channel:
    tls = ClientTls.of_service(config.mosaic_pki_dir)
    return service_channel(str(config.mosaic_grants_address), identity=GRANTS, gateway=config.mosaic_gateway, tls=tls)


def _internal(config: InboundConfig | OutboundConfig, methods: MethodTable, health: Health) -> GrpcListener:
    """Health and reflection for the services of this gateway; no method of either edge lives here."""
    pki = config.mosaic_pki_dir
    return GrpcListener(
        Listener.INTERNAL,
        str(config.mosaic_internal_listen),
        ServerTls(pki / "internal.pem", pki / "internal.key", client_roots=pki / "service-root.pem"),
        methods,
        services_of(config.mosaic_gateway),
        health=health,
        reflected=True,
    ).serve()


def _read_key(path: Path) -> bytes:
    try:
        return base64.b64decode(path.read_bytes().strip(), validate=True)
    except (OSError, binascii.Error) as error:
        raise ConfigurationError(f"{path} cannot be read as a key in base64; `mosaic pki init` makes it.") from error


def _read_jwks(path: Path) -> dict[str, object]:
    try:
        jwks = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read as a JWK set; `mosaic pki init` makes it.") from error
    if not isinstance(jwks, dict):
        raise ConfigurationError(f"{path} is not a JWK set; `mosaic pki init` makes one.")
    return jwks
