"""Composition root of enrollment: reads top to bottom, decides nothing."""

import time

from mosaic_common.clock import Clock
from mosaic_common.identity import CA_BROKER, GRANTS
from mosaic_common.rpc.application import Application
from mosaic_common.rpc.authenticate import anyone, services_of
from mosaic_common.rpc.client import ClientTls, service_channel
from mosaic_common.rpc.health import Health, ping_of
from mosaic_common.rpc.methods import Listener
from mosaic_common.rpc.server import GrpcListener, ServerTls

from mosaic_enrollment.adapters.failover import FailoverCounters
from mosaic_enrollment.adapters.recorder import RefusalRecorder
from mosaic_enrollment.adapters.services import Broker, Grants
from mosaic_enrollment.adapters.valkey import ValkeyCounters
from mosaic_enrollment.api.enrollment import EnrollmentServicer
from mosaic_enrollment.config import Config
from mosaic_enrollment.domain.admission import Admission
from mosaic_enrollment.domain.known_tokens import KnownTokens
from mosaic_enrollment.domain.local_counters import LocalCounters
from mosaic_enrollment.domain.redeem import Redeemer
from mosaic_enrollment.methods import METHODS


def build(config: Config, clock: Clock) -> Application:
    """Return the service.

    Raises:
        ConfigurationError: a file or a value that cannot be used.
    """
    pki, gateway = config.mosaic_pki_dir, config.mosaic_gateway
    tls = ClientTls.of_service(pki)
    grants = service_channel(str(config.mosaic_grants_address), identity=GRANTS, gateway=gateway, tls=tls)
    broker = service_channel(str(config.mosaic_ca_broker_address), identity=CA_BROKER, gateway=gateway, tls=tls)
    valkey = ValkeyCounters(config.redis_url.get_secret_value())
    health = Health({GRANTS: ping_of(grants), CA_BROKER: ping_of(broker), "valkey": valkey.ping})

    ledger = Grants(grants)
    recorder = RefusalRecorder(ledger, clock)
    counters = FailoverCounters(valkey, LocalCounters(time.monotonic), time.monotonic)
    admission = Admission(config.limits, KnownTokens(ledger, time.monotonic), counters)
    redeemer = Redeemer(ledger, Broker(broker))
    public = GrpcListener(
        Listener.PUBLIC,
        str(config.mosaic_public_listen),
        ServerTls(pki / "public.pem", pki / "public.key"),
        METHODS,
        anyone(),
        recorder,
        reflected=config.mosaic_env == "dev",
    ).serve(EnrollmentServicer(admission, redeemer))
    internal = GrpcListener(
        Listener.INTERNAL,
        str(config.mosaic_internal_listen),
        ServerTls(pki / "internal.pem", pki / "internal.key", client_roots=pki / "service-root.pem"),
        METHODS,
        services_of(gateway),
        health=health,
        reflected=True,
    ).serve()
    return Application([public, internal], health, background=[recorder.run], closing=[grants.close, broker.close, valkey.close])
