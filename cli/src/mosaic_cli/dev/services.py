"""The command line and the environment of every service of a gateway.

Secrets go in as NAME_FILE, as in production, so that no process's environment holds one.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Final

from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, EDGE_OUTBOUND, ENROLLMENT, GRANTS

from mosaic_cli.dev.authority import Authority
from mosaic_cli.dev.gateway import POSTGRES, STEP_CA, VALKEY, Gateway
from mosaic_cli.dev.processes import Command

Environment = Mapping[str, str]

# What each reports as `dependency.<name>`; the authority is called step-ca whichever it is.
DEPENDENCIES: Final[Mapping[str, tuple[str, ...]]] = {
    CA_BROKER: (STEP_CA,),
    GRANTS: (POSTGRES, CA_BROKER),
    ENROLLMENT: (GRANTS, CA_BROKER, VALKEY),
    EDGE_INBOUND: (POSTGRES, GRANTS, VALKEY),
    EDGE_OUTBOUND: (POSTGRES, GRANTS, VALKEY),
}


def python_module(module: str, *arguments: str) -> list[str]:
    """-P: the folder that a service is started in holds no code of its."""
    return [sys.executable, "-P", "-m", module, *arguments]


def service_command(gateway: Gateway, identity: str, authority: Authority) -> Command:
    """How this service of this gateway is started; writes its secret files."""
    environment = {
        "MOSAIC_ENV": "dev",
        "MOSAIC_GATEWAY": gateway.name,
        "MOSAIC_PKI_DIR": str(gateway.pki / identity),
        "MOSAIC_INTERNAL_LISTEN": gateway.address(identity, "internal"),
        "MOSAIC_LOG_LEVEL": "info",
        **_ENVIRONMENTS[identity](gateway, authority),
    }
    return Command(
        name=f"{gateway.name}/{identity}",
        argv=_COMMANDS[identity],
        log=gateway.log(identity),
        cwd=gateway.service_folder(identity),
        environment=environment,
    )


def _ca_broker(_gateway: Gateway, authority: Authority) -> Environment:
    return authority.broker_environment()


def _grants(gateway: Gateway, authority: Authority) -> Environment:
    return {
        "DATABASE_URL_FILE": gateway.secret_file(GRANTS, "database-url", gateway.database_url("mosaic_grants")),
        "MOSAIC_SEALING_KEY_FILE": gateway.secret_file(GRANTS, "sealing-key", gateway.kept.sealing_key),
        "MOSAIC_OPERATOR_LISTEN": gateway.address(GRANTS, "operator"),
        "MOSAIC_FEDERATION_ROOT_FILE": str(authority.federation_root),
        "MOSAIC_ENROLLMENT_URL": f"https://{gateway.address(ENROLLMENT, 'public')}",
        "MOSAIC_FEDERATION_ENDPOINT": gateway.address(EDGE_INBOUND, "public"),
        "MOSAIC_CA_BROKER_ADDRESS": gateway.address(CA_BROKER, "internal"),
    }


def _enrollment(gateway: Gateway, _authority: Authority) -> Environment:
    return {
        "REDIS_URL_FILE": gateway.secret_file(ENROLLMENT, "redis-url", gateway.redis_url(ENROLLMENT)),
        "MOSAIC_PUBLIC_LISTEN": gateway.address(ENROLLMENT, "public"),
        "MOSAIC_GRANTS_ADDRESS": gateway.address(GRANTS, "internal"),
        "MOSAIC_CA_BROKER_ADDRESS": gateway.address(CA_BROKER, "internal"),
    }


def _edge_inbound(gateway: Gateway, authority: Authority) -> Environment:
    return {
        "DATABASE_URL_FILE": gateway.secret_file(EDGE_INBOUND, "database-url", gateway.database_url("mosaic_edge_inbound")),
        "REDIS_URL_FILE": gateway.secret_file(EDGE_INBOUND, "redis-url", gateway.redis_url(EDGE_INBOUND)),
        "MOSAIC_PUBLIC_LISTEN": gateway.address(EDGE_INBOUND, "public"),
        "MOSAIC_GRANTS_ADDRESS": gateway.address(GRANTS, "internal"),
        "MOSAIC_FEDERATION_ROOT_FILE": str(authority.federation_root),
    }


def _edge_outbound(gateway: Gateway, _authority: Authority) -> Environment:
    return {
        "DATABASE_URL_FILE": gateway.secret_file(EDGE_OUTBOUND, "database-url", gateway.database_url("mosaic_edge_outbound")),
        "REDIS_URL_FILE": gateway.secret_file(EDGE_OUTBOUND, "redis-url", gateway.redis_url(EDGE_OUTBOUND)),
        "MOSAIC_USER_LISTEN": gateway.address(EDGE_OUTBOUND, "user"),
        "MOSAIC_GRANTS_ADDRESS": gateway.address(GRANTS, "internal"),
    }


_ENVIRONMENTS: Final[Mapping[str, Callable[[Gateway, Authority], Environment]]] = {
    CA_BROKER: _ca_broker,
    GRANTS: _grants,
    ENROLLMENT: _enrollment,
    EDGE_INBOUND: _edge_inbound,
    EDGE_OUTBOUND: _edge_outbound,
}
_COMMANDS: Final[Mapping[str, list[str]]] = {
    CA_BROKER: python_module("mosaic_ca_broker", "serve"),
    GRANTS: python_module("mosaic_grants", "serve"),
    ENROLLMENT: python_module("mosaic_enrollment", "serve"),
    EDGE_INBOUND: python_module("mosaic_federation_edge", "serve", "--role", "inbound"),
    EDGE_OUTBOUND: python_module("mosaic_federation_edge", "serve", "--role", "outbound"),
}
