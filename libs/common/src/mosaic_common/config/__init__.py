"""Configuration: environment, NAME_FILE, mosaic.config.json, in this precedence.

A service declares a pydantic model whose fields are the variables' names in lower case, each with a description that completes the
sentence "NAME is not set: it needs …". Whatever is wrong stops the start with one sentence that names the variable and never its
value: a secret in the wrong variable is still a secret.
"""

from mosaic_common.config.load import CommonConfig, effective, load
from mosaic_common.config.rules import require_environment_rules
from mosaic_common.config.sources import KNOWN_VARIABLES
from mosaic_common.config.types import Address, DatabaseUrl, GatewayName, HttpsOrigin, ValkeyUrl

__all__ = [
    "KNOWN_VARIABLES",
    "Address",
    "CommonConfig",
    "DatabaseUrl",
    "GatewayName",
    "HttpsOrigin",
    "ValkeyUrl",
    "effective",
    "load",
    "require_environment_rules",
]
