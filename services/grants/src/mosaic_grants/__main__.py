"""``python -m mosaic_grants serve`` and ``… db bootstrap|upgrade|retain``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from mosaic_common import log
from mosaic_common.clock import SystemClock
from mosaic_common.config import DatabaseUrl, effective, load
from mosaic_common.errors import ConfigurationError
from mosaic_common.rpc.application import serve
from psycopg import Error as DriverError
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy.exc import DBAPIError

from mosaic_grants.adapters import retention, upgrade
from mosaic_grants.app import build
from mosaic_grants.config import Config


class BootstrapConfig(BaseModel):
    """What makes roles, database and extension."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    mosaic_env: str = Field(default="production", description="production or dev")
    mosaic_bootstrap_url: DatabaseUrl = Field(description="a postgresql:// URL of a superuser, naming the database to make")
    mosaic_bootstrap_passwords: SecretStr = Field(description="a JSON object from role to password; usually given as _FILE")


class UpgradeConfig(BaseModel):
    """What migrates."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    mosaic_env: str = Field(default="production", description="production or dev")
    database_url: DatabaseUrl = Field(description="a postgresql:// URL of the role mosaic_owner")


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        match chosen.command, getattr(chosen, "action", None):
            case "serve", _:
                _serve()
            case "db", "bootstrap":
                bootstrap = load(BootstrapConfig, os.environ)
                upgrade.bootstrap(
                    bootstrap.mosaic_bootstrap_url.get_secret_value(),
                    _passwords(bootstrap.mosaic_bootstrap_passwords),
                    progress=_say,
                )
            case "db", "retain":
                url = load(UpgradeConfig, os.environ).database_url.get_secret_value()
                refused = retention.retain(url, chosen.months, progress=_say)
                if refused:
                    _say(f"grants: {refused[0].month} and what came after it stay: {refused[0].cause}.")
                    return 1
            case _:
                missing = upgrade.upgrade(load(UpgradeConfig, os.environ).database_url.get_secret_value(), progress=_say)
                if missing:
                    _say("The application's tables belong to somebody else, who has to run:")
                for each in missing:
                    sys.stdout.write(f"{each.statement}\n")
    except ConfigurationError as error:
        _say(f"grants: {error}")
        return 1
    except (DBAPIError, DriverError) as error:
        _say(f"grants: The database refuses or does not answer: {_cause(error)}")
        return 1
    return 0


def _serve() -> None:
    config = load(Config, os.environ)
    log.configure("grants", config.mosaic_gateway, config.mosaic_log_level)
    log.logger("configuration").info("effective", **effective(config))
    serve(lambda: build(config, SystemClock()))


def _passwords(secret: SecretStr) -> dict[str, str]:
    try:
        passwords = json.loads(secret.get_secret_value())
    except ValueError:
        passwords = None
    if not isinstance(passwords, dict) or not all(isinstance(value, str) for value in passwords.values()):
        raise ConfigurationError("MOSAIC_BOOTSTRAP_PASSWORDS is no JSON object from role to password.")
    return passwords


def _cause(error: DBAPIError | DriverError) -> str:
    """What the driver says first, without the statement and its values, which SQLAlchemy would add."""
    raised = error.orig if isinstance(error, DBAPIError) else error
    said = raised.diag.message_primary if isinstance(raised, DriverError) else None
    return (said or str(raised)).partition("\n")[0]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1200:
        raise ValueError(text)
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mosaic_grants", description="The ledger of peers, grants and enrollments.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve until SIGTERM")
    database = commands.add_parser("db", help="the database").add_subparsers(dest="action", required=True)
    database.add_parser("bootstrap", help="make roles, database and extension, as a superuser")
    database.add_parser("upgrade", help="migrate, render the functions, apply the privileges, as the owner")
    retain = database.add_parser("retain", help="drop the audit log's months before the last N whole ones, as the owner")
    retain.add_argument("--months", type=_positive, required=True, metavar="N", help="whole months that are kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
