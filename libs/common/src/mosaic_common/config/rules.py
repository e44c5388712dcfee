"""What production must not have, and what development must not show: it fails closed."""

import re
from collections.abc import Iterator
from typing import Final, NoReturn
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import BaseModel, SecretStr

from mosaic_common.config.types import DATABASE_PREFIXES, VALKEY_PREFIXES, Address
from mosaic_common.errors import ConfigurationError

MIN_SECRET_BYTES: Final = 32
DEVELOPMENT_ONLY: Final = frozenset({"MOSAIC_EMBEDDED_CA_DIR"})

_EXAMPLE_MARKS: Final = ("example", "changeme", "change-me", "change_me", "replaceme", "replace-me", "placeholder", "your-own")
_EXAMPLE_PASSWORDS: Final = frozenset({"admin", "default", "mosaic", "password", "postgres", "root", "secret", "test", "valkey"})
# A folder, percent-encoded, and no list of hosts, which is one wherever its comma was encoded as well.
_SOCKET_FOLDER: Final = re.compile(r"%2F(?:(?!,|%2C).)*", re.IGNORECASE)
_MAKE_ONE: Final = "make one with `openssl rand -base64 32`"


def require_environment_rules(config: BaseModel) -> None:
    """Refuse a configuration that is not fit for where it says it runs.

    Raises:
        ConfigurationError: on the first rule that does not hold.
    """
    # A model that does not say where it runs is held to production's rules.
    if getattr(config, "mosaic_env", "production") == "dev":
        _require_loopback(config)
    else:
        _require_production(config)


def _require_loopback(config: BaseModel) -> None:
    for variable, value in _variables(config):
        if isinstance(value, Address) and variable.endswith("_LISTEN") and not value.is_loopback:
            _refuse(f"{variable} must be a loopback address such as 127.0.0.1 while MOSAIC_ENV is dev: others could reach it")


def _require_production(config: BaseModel) -> None:
    for variable, value in _variables(config):
        if variable in DEVELOPMENT_ONLY and value is not None:
            _refuse(f"{variable} is for development only: unset it, or set MOSAIC_ENV=dev on a machine of your own")
        if isinstance(value, SecretStr):
            _require_secret(variable, value.get_secret_value())


def _require_secret(variable: str, secret: str) -> None:
    if secret.startswith(DATABASE_PREFIXES):
        _require_verified_database(variable, urlsplit(secret))
    elif secret.startswith(VALKEY_PREFIXES):
        _require_encrypted_valkey(variable, urlsplit(secret))
    elif _is_example(secret):
        _refuse(f"{variable} is an example that everyone knows: {_MAKE_ONE}")
    elif len(secret.encode()) < MIN_SECRET_BYTES:
        _refuse(f"{variable} is shorter than {MIN_SECRET_BYTES} bytes: {_MAKE_ONE}")


def _require_verified_database(variable: str, url: SplitResult) -> None:
    query = parse_qs(url.query)
    # Nobody is on the way to a Unix socket: its folder stands in the host's place, unless the query names another host.
    is_socket = _SOCKET_FOLDER.fullmatch(url.hostname or "") is not None and not query.keys() & {"host", "hostaddr", "service"}
    if not is_socket and query.get("sslmode") != ["verify-full"]:
        _refuse(f"{variable} must say sslmode=verify-full in production: otherwise anyone on the way can answer for the database")
    _require_own_passwords(variable, url.password, *query.get("password", ()))


def _require_encrypted_valkey(variable: str, url: SplitResult) -> None:
    if url.scheme != "rediss":
        _refuse(f"{variable} must begin with rediss:// in production: otherwise its password travels in clear text")
    query = parse_qs(url.query)
    if query.get("ssl_cert_reqs", ["required"]) != ["required"] or query.get("ssl_check_hostname", ["true"]) != ["true"]:
        _refuse(f"{variable} must leave ssl_cert_reqs and ssl_check_hostname as they are: otherwise anyone can answer for Valkey")
    _require_own_passwords(variable, url.password)


def _require_own_passwords(variable: str, *passwords: str | None) -> None:
    if any(password is not None and _is_example(unquote(password)) for password in passwords):
        _refuse(f"The password in {variable} is an example that everyone knows: {_MAKE_ONE}")


def _is_example(secret: str) -> bool:
    folded = secret.casefold()
    return folded in _EXAMPLE_PASSWORDS or any(mark in folded for mark in _EXAMPLE_MARKS)


def _variables(config: BaseModel) -> Iterator[tuple[str, object]]:
    for field in type(config).model_fields:
        yield field.upper(), getattr(config, field)


def _refuse(sentence: str) -> NoReturn:
    raise ConfigurationError(f"{sentence}.")
