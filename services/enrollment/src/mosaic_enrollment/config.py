"""What enrollment is told."""

from mosaic_common.config import Address, CommonConfig, ValkeyUrl
from pydantic import Field


class Config(CommonConfig):
    """Variables of enrollment."""

    mosaic_public_listen: Address = Field(description="host:port for peers, such as 0.0.0.0:7444")
    mosaic_grants_address: Address = Field(description="host:port of grants' internal listener")
    mosaic_ca_broker_address: Address = Field(description="host:port of the CA broker")
    redis_url: ValkeyUrl = Field(description="a redis:// or rediss:// URL of the Valkey user enrollment")
