"""What the broker is told, and which authority that makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mosaic_common.config import CommonConfig, HttpsOrigin, load
from mosaic_common.errors import ConfigurationError
from pydantic import Field, SecretStr


@dataclass(frozen=True, slots=True)
class StepCaSettings:
    """Everything that it takes to reach step-ca; the password only where the key is encrypted."""

    url: str
    root_path: Path
    root_fingerprint: str
    provisioner_key: SecretStr
    provisioner_password: SecretStr | None


class Config(CommonConfig):
    """Variables of the broker: one authority, step-ca or (in development) the embedded one."""

    mosaic_embedded_ca_dir: Path | None = Field(default=None, description="a folder that `embedded-ca init` made; development only")
    step_ca_url: HttpsOrigin | None = Field(default=None, description="https://host:port of step-ca, the host as in its dnsNames")
    step_ca_provisioner_key_json: SecretStr | None = Field(default=None, description="the private JWK of provisioner mosaic-fed")
    step_ca_provisioner_password: SecretStr | None = Field(default=None, description="the password of that JWK, where it is a JWE")
    step_ca_root_cert_path: Path | None = Field(default=None, description="a file with step-ca's root certificate")
    step_ca_root_fingerprint: str | None = Field(
        default=None, pattern=r"^\s*([0-9a-fA-F]{2}:?){32}\s*$", description="the SHA-256 of that root, 64 hexadecimal digits"
    )

    @property
    def authority(self) -> StepCaSettings | Path:
        """Return step-ca's settings, or the folder of the embedded authority.

        Raises:
            ConfigurationError: both, neither, or half a step-ca.
        """
        if self.mosaic_embedded_ca_dir is not None:
            if self.step_ca_url is not None:
                raise ConfigurationError("MOSAIC_EMBEDDED_CA_DIR and STEP_CA_URL are both set, and only one authority can sign.")
            return self.mosaic_embedded_ca_dir
        url, key = self.step_ca_url, self.step_ca_provisioner_key_json
        root_path, root_fingerprint = self.step_ca_root_cert_path, self.step_ca_root_fingerprint
        if url is None or key is None or root_path is None or root_fingerprint is None:
            raise ConfigurationError(
                "The authority needs all of STEP_CA_URL, STEP_CA_PROVISIONER_KEY_JSON, STEP_CA_ROOT_CERT_PATH "
                "and STEP_CA_ROOT_FINGERPRINT, or in development MOSAIC_EMBEDDED_CA_DIR alone."
            )
        return StepCaSettings(url, root_path, root_fingerprint, key, self.step_ca_provisioner_password)


def parse_config(environ: Mapping[str, str]) -> Config:
    """Return a configuration that names exactly one authority.

    Raises:
        ConfigurationError: one sentence that names what to correct.
    """
    config = load(Config, environ)
    _ = config.authority
    return config
