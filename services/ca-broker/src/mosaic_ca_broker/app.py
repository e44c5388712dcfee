"""Composition root of ca-broker: reads top to bottom, decides nothing."""

from dataclasses import dataclass

from mosaic_common.clock import Clock
from mosaic_common.errors import ConfigurationError
from mosaic_common.pki.layout import IdentityFolder
from mosaic_common.rpc.application import Application
from mosaic_common.rpc.authenticate import services_of
from mosaic_common.rpc.health import Health
from mosaic_common.rpc.methods import Listener
from mosaic_common.rpc.server import GrpcListener, ServerTls
from mosaic_common.warrants import WarrantVerifier

from mosaic_ca_broker.adapters.embedded_ca import EmbeddedCa
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.step_ca import StepCa
from mosaic_ca_broker.api.certificate_authority import CertificateAuthorityServicer
from mosaic_ca_broker.config import Config, StepCaSettings
from mosaic_ca_broker.domain.authority import CertificateAuthority
from mosaic_ca_broker.domain.issue import Issuer
from mosaic_ca_broker.domain.revocations import Revocations
from mosaic_ca_broker.methods import METHODS


@dataclass(frozen=True, slots=True)
class Trusted:
    """An authority and the root that everything it signs has to lead to."""

    authority: CertificateAuthority
    root: FederationRoot


def build(config: Config, clock: Clock) -> Application:
    """Return the broker with the authority that its configuration names.

    Raises:
        ConfigurationError: a file or a value that cannot be used.
    """
    return compose(config, clock, open_authority(config, clock))


def compose(config: Config, clock: Clock, trusted: Trusted) -> Application:
    """Return the broker around a given authority; tests give theirs."""
    pki = IdentityFolder(config.mosaic_pki_dir)
    try:
        warrants = WarrantVerifier(pki.warrant_public_key.read_bytes(), clock)
    except OSError as error:
        raise ConfigurationError(f"{pki.warrant_public_key} cannot be read; `mosaic pki init` makes it.") from error
    issuer = Issuer(trusted.authority, warrants, federation_root_pem=trusted.root.pem, clock=clock)
    revocations = Revocations(trusted.authority, federation_root_pem=trusted.root.pem, clock=clock)
    health = Health({"step-ca": trusted.authority.ping})
    internal = GrpcListener(
        Listener.INTERNAL,
        str(config.mosaic_internal_listen),
        ServerTls(pki.internal_certificate, pki.internal_key, client_roots=pki.service_root),
        METHODS,
        services_of(config.mosaic_gateway),
        health=health,
        reflected=True,
    ).serve(CertificateAuthorityServicer(issuer, revocations))
    return Application([internal], health, closing=[trusted.authority.aclose])


def open_authority(config: Config, clock: Clock) -> Trusted:
    """Open step-ca under its pinned root, or the embedded authority under its own."""
    match config.authority:
        case StepCaSettings() as step_ca:
            root = FederationRoot.load(step_ca.root_path, environment=config.mosaic_env)
            root.verify_fingerprint(step_ca.root_fingerprint)
            password = step_ca.provisioner_password
            key = ProvisionerKey.parse(
                step_ca.provisioner_key.get_secret_value(), password=password.get_secret_value() if password else None
            )
            return Trusted(StepCa(step_ca.url, root, key, clock), root)
        case directory:
            root = FederationRoot.load(directory / "root.pem", environment=config.mosaic_env)
            return Trusted(EmbeddedCa.open(directory, environment=config.mosaic_env, clock=clock), root)
