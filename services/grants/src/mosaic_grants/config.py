"""What grants is told."""

from urllib.parse import urlsplit

from mosaic_common.config import Address, CommonConfig, DatabaseUrl, HttpsOrigin
from mosaic_common.errors import ConfigurationError
from pydantic import Field, SecretStr


class Config(CommonConfig):
    """Variables of grants."""

    database_url: DatabaseUrl = Field(description="a postgresql:// URL of the role mosaic_grants")
    mosaic_operator_listen: Address = Field(description="host:port for operators, such as 0.0.0.0:7112")
    mosaic_federation_root: SecretStr = Field(description="the federation root certificate in PEM; usually given as _FILE")
    mosaic_enrollment_url: HttpsOrigin = Field(description="https://host:port of enrollment as peers reach it")
    mosaic_enrollment_publicly_trusted: bool = Field(
        default=False, description="true when enrollment presents a certificate that every system trusts, so that URLs carry no pin"
    )
    mosaic_federation_endpoint: Address = Field(description="host:port of the inbound edge as peers reach it")
    mosaic_ca_broker_address: Address = Field(description="host:port of the CA broker")
    mosaic_sealing_key: SecretStr | None = Field(default=None, description="at least 32 random bytes")
    mosaic_sealing_key_next: SecretStr | None = Field(default=None, description="the sealing key to come, while rotating")
    mosaic_sealing_key_previous: SecretStr | None = Field(default=None, description="the former sealing key, while rotating")
    better_auth_secret: SecretStr | None = Field(default=None, description="at least 32 random bytes")
    better_auth_secret_next: SecretStr | None = Field(default=None, description="the secret to come, while rotating")
    better_auth_secret_previous: SecretStr | None = Field(default=None, description="the former secret, while rotating")

    @property
    def sealing_secrets(self) -> tuple[str, str | None, str | None]:
        """Return current, next and previous secret.

        Raises:
            ConfigurationError: none, or of both families.
        """
        own = (self.mosaic_sealing_key, self.mosaic_sealing_key_next, self.mosaic_sealing_key_previous)
        shared = (self.better_auth_secret, self.better_auth_secret_next, self.better_auth_secret_previous)
        if any(own) == any(shared):
            raise ConfigurationError(
                "Either MOSAIC_SEALING_KEY or BETTER_AUTH_SECRET is needed, and not both: private keys are sealed under it."
            )
        current, following, previous = (secret.get_secret_value() if secret else None for secret in (own if any(own) else shared))
        if current is None:
            raise ConfigurationError("A sealing secret to come or a former one is set, but no current one.")
        return current, following, previous

    @property
    def enrollment_host_port(self) -> tuple[str, int]:
        url = urlsplit(self.mosaic_enrollment_url)
        return url.hostname or "", url.port or 443
