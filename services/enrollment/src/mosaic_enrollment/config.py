"""What enrollment is told."""

from typing import Annotated, Final

from mosaic_common.config import Address, CommonConfig, ValkeyUrl
from pydantic import Field

from mosaic_enrollment.domain.admission import Limits
from mosaic_enrollment.domain.budgets import MAX_PER_MINUTE, Limit

# A minute's worth may also come at once (domain/budgets.py).
PerMinute = Annotated[int, Field(ge=1, le=MAX_PER_MINUTE)]
_A_NUMBER: Final = f"a whole number from 1 to {MAX_PER_MINUTE}"


class Config(CommonConfig):
    """Variables of enrollment."""

    mosaic_public_listen: Address = Field(description="host:port for peers, such as 0.0.0.0:7444")
    mosaic_grants_address: Address = Field(description="host:port of grants' internal listener")
    mosaic_ca_broker_address: Address = Field(description="host:port of the CA broker")
    redis_url: ValkeyUrl = Field(description="a redis:// or rediss:// URL of the Valkey user enrollment")
    mosaic_behind_proxy: bool = Field(
        default=False, description="true when all peers come through one proxy's address, so that sources have no limit, else false"
    )
    mosaic_enrollment_source_per_minute: PerMinute = Field(
        default=60, description=f"{_A_NUMBER}: the attempts of one source address in a minute"
    )
    mosaic_enrollment_token_per_minute: PerMinute = Field(
        default=60,
        description=f"{_A_NUMBER}: the attempts with one token of this gateway in a minute",
    )
    mosaic_enrollment_unknown_per_minute: PerMinute = Field(
        default=600,
        description=f"{_A_NUMBER}: the attempts with all tokens that this gateway does not know in a minute",
    )

    @property
    def limits(self) -> Limits:
        return Limits(
            source=None if self.mosaic_behind_proxy else Limit(self.mosaic_enrollment_source_per_minute),
            token=Limit(self.mosaic_enrollment_token_per_minute),
            unknown=Limit(self.mosaic_enrollment_unknown_per_minute),
        )
