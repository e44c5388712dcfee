"""Composition root of grants: reads top to bottom, decides nothing."""

import hashlib
import json
import ssl
from pathlib import Path

from mosaic_common.audit import HeadSigner
from mosaic_common.auth import TokenVerifier, operate_audience, own_issuer, query_audience
from mosaic_common.clock import Clock
from mosaic_common.errors import ConfigurationError
from mosaic_common.federation_root import parse_federation_root
from mosaic_common.identity import CA_BROKER
from mosaic_common.rpc.application import Application
from mosaic_common.rpc.authenticate import bearers, services_of
from mosaic_common.rpc.client import ClientTls, service_channel
from mosaic_common.rpc.health import Health, ping_of
from mosaic_common.rpc.methods import Listener
from mosaic_common.rpc.server import GrpcListener, ServerTls
from mosaic_common.sealing import SealingKeys
from mosaic_common.warrants import WarrantSigner

from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ca_broker import Broker
from mosaic_grants.adapters.housekeeping import Housekeeping
from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.api.audit import AuditServicer
from mosaic_grants.api.audit_chains import AuditChainServicer
from mosaic_grants.api.credentials import PeerCredentialServicer
from mosaic_grants.api.enrollment_ledger import EnrollmentLedgerServicer
from mosaic_grants.api.explain import ExplainServicer
from mosaic_grants.api.grants import GrantServicer
from mosaic_grants.api.peers import PeerServicer
from mosaic_grants.api.recorder import RefusalRecorder
from mosaic_grants.api.resolver import GrantResolverServicer
from mosaic_grants.api.seals import SealServicer
from mosaic_grants.api.users import UserServicer
from mosaic_grants.config import Config
from mosaic_grants.domain.enrollment import Enrollments
from mosaic_grants.domain.openings import Openings
from mosaic_grants.domain.revocations import Revocations
from mosaic_grants.domain.sealing import Presence
from mosaic_grants.domain.sweeps import Sweeps
from mosaic_grants.methods import METHODS


def build(config: Config, clock: Clock) -> Application:
    """Return the service.

    Raises:
        ConfigurationError: a file or a value that cannot be used.
    """
    pki, gateway = config.mosaic_pki_dir, config.mosaic_gateway
    service_root = _read(pki / "service-root.pem")
    pin = None if config.mosaic_enrollment_publicly_trusted else _sha256_of_pem(service_root)
    federation_root = parse_federation_root(
        config.mosaic_federation_root.get_secret_value().encode(), name="MOSAIC_FEDERATION_ROOT", environment=config.mosaic_env
    )

    ledger = PostgresLedger(config.database_url.get_secret_value(), AuditLog(HeadSigner(_read(pki / "audit.key")), clock))
    keys = SealingKeys(*config.sealing_secrets)
    presence = Presence(ledger, keys)
    enrollments = Enrollments(WarrantSigner(_read(pki / "warrant.key")), federation_root=federation_root, pin=pin)
    operators, users = (
        _token_verifier(_read(pki / "jwks.json"), gateway, audience, clock)
        for audience in (operate_audience(gateway), query_audience(gateway))
    )
    recorder = RefusalRecorder(ledger, clock)
    broker = service_channel(
        str(config.mosaic_ca_broker_address), identity=CA_BROKER, gateway=gateway, tls=ClientTls.of_service(pki)
    )
    health = Health({"postgres": ledger.ping, CA_BROKER: ping_of(broker)})
    housekeeping = Housekeeping(
        ledger, presence, Sweeps(ledger, clock), Revocations(ledger, Broker(broker), clock, federation_root=federation_root)
    )
    enrollment_host, enrollment_port = config.enrollment_host_port

    operator = GrpcListener(
        Listener.OPERATOR,
        str(config.mosaic_operator_listen),
        ServerTls(pki / "public.pem", pki / "public.key"),
        METHODS,
        bearers(operators),
        recorder,
        reflected=config.mosaic_env == "dev",
    ).serve(
        GrantServicer(ledger, clock, gateway=gateway, enrollment_host=enrollment_host, enrollment_port=enrollment_port, pin=pin),
        ExplainServicer(ledger),
        PeerServicer(ledger, keys, clock),
        SealServicer(ledger, keys, clock),
        UserServicer(ledger),
        AuditServicer(ledger, clock),
    )
    internal = GrpcListener(
        Listener.INTERNAL,
        str(config.mosaic_internal_listen),
        ServerTls(pki / "internal.pem", pki / "internal.key", client_roots=pki / "service-root.pem"),
        METHODS,
        services_of(gateway),
        recorder,
        health,
        reflected=True,
    ).serve(
        EnrollmentLedgerServicer(
            ledger, enrollments, clock, gateway=gateway, federation_endpoint=str(config.mosaic_federation_endpoint)
        ),
        GrantResolverServicer(ledger),
        PeerCredentialServicer(ledger, keys, users, clock),
        AuditChainServicer(ledger, Openings()),
    )
    return Application(
        [operator, internal],
        health,
        background=[housekeeping.run, recorder.run],
        opening=[ledger.open],
        closing=[recorder.write_counted, presence.withdraw, broker.close, ledger.close],
    )


def _token_verifier(jwks: bytes, gateway: str, audience: str, clock: Clock) -> TokenVerifier:
    return TokenVerifier(json.loads(jwks), issuer=own_issuer(gateway), audience=audience, gateway=gateway, clock=clock)


def _sha256_of_pem(pem: bytes) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error.strerror}); `mosaic pki init` makes it.") from error
