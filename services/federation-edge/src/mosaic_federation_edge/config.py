"""What the edge is told, by role."""

from pathlib import Path
from typing import Final

from cryptography import x509
from mosaic_common.config import Address, CommonConfig, DatabaseUrl, ValkeyUrl
from mosaic_common.errors import ConfigurationError
from pydantic import Field, model_validator

_DEV_ONLY: Final = "DEV ONLY"


class InboundConfig(CommonConfig):
    """Variables of `--role inbound`."""

    database_url: DatabaseUrl = Field(description="a postgresql:// URL of the role mosaic_edge_inbound")
    redis_url: ValkeyUrl = Field(description="a redis:// or rediss:// URL of the Valkey user edge-inbound")
    mosaic_public_listen: Address = Field(description="host:port for peers, such as 0.0.0.0:7443")
    mosaic_grants_address: Address = Field(description="host:port of grants' internal listener")
    # A path, not the text that load() would make of NAME_FILE: the listener reads it again when the file changes.
    mosaic_federation_root_file: Path = Field(description="a file with the federation root certificate in PEM")

    @model_validator(mode="after")
    def _root_is_usable(self) -> "InboundConfig":
        _require_root(self.mosaic_federation_root_file, environment=self.mosaic_env)
        return self


class OutboundConfig(CommonConfig):
    """Variables of `--role outbound`."""

    database_url: DatabaseUrl = Field(description="a postgresql:// URL of the role mosaic_edge_outbound")
    redis_url: ValkeyUrl = Field(description="a redis:// or rediss:// URL of the Valkey user edge-outbound")
    mosaic_user_listen: Address = Field(description="host:port for local users, such as 0.0.0.0:7104")
    mosaic_grants_address: Address = Field(description="host:port of grants' internal listener")


def _require_root(path: Path, *, environment: str) -> None:
    """Accept a file of exactly one certificate; in production not that of an embedded authority.

    Raises:
        ConfigurationError: anything else.
    """
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        certificates = []
    if len(certificates) != 1:
        raise ConfigurationError("MOSAIC_FEDERATION_ROOT_FILE has to name a file with exactly one certificate in PEM.")
    if environment != "dev" and _DEV_ONLY in certificates[0].subject.rfc4514_string():
        raise ConfigurationError(
            f"The root in MOSAIC_FEDERATION_ROOT_FILE says {_DEV_ONLY} in its subject: production needs step-ca's root."
        )
