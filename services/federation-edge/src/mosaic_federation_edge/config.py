"""What the edge is told, by role."""

from pathlib import Path

from mosaic_common.config import Address, CommonConfig, DatabaseUrl, ValkeyUrl
from mosaic_common.errors import ConfigurationError
from mosaic_common.federation_root import parse_federation_root
from pydantic import Field, model_validator


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
        try:
            unchecked = self.mosaic_federation_root_file.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"MOSAIC_FEDERATION_ROOT_FILE cannot be read ({error.strerror}).") from error
        parse_federation_root(unchecked, name="MOSAIC_FEDERATION_ROOT_FILE", environment=self.mosaic_env)
        return self


class OutboundConfig(CommonConfig):
    """Variables of `--role outbound`."""

    database_url: DatabaseUrl = Field(description="a postgresql:// URL of the role mosaic_edge_outbound")
    redis_url: ValkeyUrl = Field(description="a redis:// or rediss:// URL of the Valkey user edge-outbound")
    mosaic_user_listen: Address = Field(description="host:port for local users, such as 0.0.0.0:7104")
    mosaic_grants_address: Address = Field(description="host:port of grants' internal listener")
