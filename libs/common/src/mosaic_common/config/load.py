"""From environment and file to a checked model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from mosaic_common.config.rules import require_environment_rules
from mosaic_common.config.sources import Setting, find_variable, read_config_file, refuse_unknown_variables
from mosaic_common.config.types import DATABASE_PREFIXES, VALKEY_PREFIXES, Address, GatewayName
from mosaic_common.errors import ConfigurationError

Model = TypeVar("Model", bound=BaseModel)


class CommonConfig(BaseModel):
    """What every service is told. A subclass adds its own variables."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    mosaic_env: Literal["production", "dev"] = Field(default="production", description="production or dev")
    mosaic_gateway: GatewayName = Field(
        description="this gateway's name, at most 63 lower-case letters, digits and inner hyphens, such as home"
    )
    mosaic_pki_dir: Path = Field(description="the folder of this service that `mosaic pki init` made")
    mosaic_internal_listen: Address = Field(description="host:port for the internal listener, such as 0.0.0.0:7102")
    mosaic_log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )
    mosaic_tier: Literal["local", "standalone", "federated"] = Field(
        default="federated", description="local, standalone or federated"
    )
    otel_exporter_otlp_endpoint: str | None = Field(default=None, description="the URL of an OTLP collector")
    otel_service_name: str | None = Field(default=None, description="the name under which traces are exported")


def load(model: type[Model], environ: Mapping[str, str], config_file: Path | None = None) -> Model:
    """Return the configuration that environment and file give, fit for where it says it runs.

    A validator of the model that compares fields raises ConfigurationError itself; it passes through.

    Args:
        config_file: mosaic.config.json; MOSAIC_CONFIG_FILE when None. Neither means that there is none.

    Raises:
        ConfigurationError: one sentence that names what to correct.
    """
    variables = {field.upper(): field for field in model.model_fields}
    refuse_unknown_variables(environ, further=frozenset(variables))
    from_file = read_config_file(environ, config_file)
    found = {variable: find_variable(variable, environ) or from_file.get(variable) for variable in variables}
    settings = {variables[variable]: setting for variable, setting in found.items() if setting is not None}
    _refuse_missing(model, settings)
    try:
        config = model.model_validate({field: setting.value for field, setting in settings.items()})
    except ValidationError as refused:
        raise _unusable(model, settings, refused) from None
    require_environment_rules(config)
    return config


def effective(config: BaseModel) -> dict[str, object]:
    """The configuration by variable, as it may be logged: a URL without its password, any other secret not at all."""
    return {field.upper(): _shown(getattr(config, field)) for field in type(config).model_fields}


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return _without_password(value.get_secret_value())
    return value if value is None or isinstance(value, bool | int) else str(value)


def _without_password(secret: str) -> str:
    if not secret.startswith(DATABASE_PREFIXES + VALKEY_PREFIXES):
        return "[redacted]"
    url = urlsplit(secret)
    user = f"{url.username}@" if url.username else ""
    # The query is left out: libpq takes a password there too.
    return f"{url.scheme}://{user}{url.netloc.rpartition('@')[2]}{url.path}"


def _refuse_missing(model: type[BaseModel], settings: Mapping[str, Setting]) -> None:
    needs = {
        name.upper(): field.description
        for name, field in model.model_fields.items()
        if field.is_required() and name not in settings
    }
    if len(needs) == 1:
        variable, need = needs.popitem()
        raise ConfigurationError(f"{variable} is not set: it needs {need}.")
    if needs:
        listed = "; ".join(f"{variable} needs {need}" for variable, need in needs.items())
        raise ConfigurationError(f"{len(needs)} variables are not set: {listed}.")


def _unusable(model: type[BaseModel], settings: Mapping[str, Setting], refused: ValidationError) -> ConfigurationError:
    first = refused.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:
        return ConfigurationError(f"The configuration cannot be used: {first['msg']}.")
    field = str(first["loc"][0])
    return ConfigurationError(f"{settings[field].origin} cannot be used: it needs {model.model_fields[field].description}.")
