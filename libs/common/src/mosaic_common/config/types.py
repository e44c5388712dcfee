"""The types of variables. Each parses or raises ValueError; the sentence for the operator is the field's description."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

DATABASE_PREFIXES: Final = ("postgresql://", "postgres://")
VALKEY_PREFIXES: Final = ("rediss://", "redis://")

_GATEWAY_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or whom to dial; ``host:port`` in text, IPv6 in brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address that the text spells; raises ValueError when a host or a port from 1 to 65535 is not there."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = str(ipaddress.IPv6Address(host[1:-1]))
        elif not _HOST.fullmatch(host):
            raise ValueError("not a host")
        if not _PORT.fullmatch(port) or int(port) > 65535:
            raise ValueError("not a port")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than localhost is not looked up, and counts as reachable."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        from_text = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())
        return core_schema.union_schema([core_schema.is_instance_schema(cls), from_text])


def _check_gateway_name(value: str) -> str:
    if not _GATEWAY_NAME.fullmatch(value):
        raise ValueError("not a name")
    return value


def _check_https_origin(value: str) -> str:
    url = urlsplit(value)
    if url.scheme != "https" or "@" in url.netloc or url.path not in {"", "/"} or url.query or url.fragment:
        raise ValueError("not an https origin")
    if not url.hostname or url.port == 0:
        raise ValueError("not a host and port")
    return value.rstrip("/")


def _check_url(prefixes: tuple[str, ...]) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        url = urlsplit(value.get_secret_value())
        # Whatever else stands where the port belongs, the driver would repeat it in its traceback.
        if not value.get_secret_value().startswith(prefixes) or not url.hostname or url.port == 0:
            raise ValueError("not such a URL")
        # More than one @: what the drivers take for hosts begins behind the first, and what is checked here behind the last.
        if "@" in url.path + url.query + url.fragment or url.netloc.count("@") > 1:
            # An unescaped / ? or # ends the host part, and the rest of the password would pass for a path and be logged.
            raise ValueError("a password that is not percent-encoded")
        if "#" in value.get_secret_value():
            raise ValueError("a fragment, which not every driver leaves aside")
        return value

    return AfterValidator(check)


GatewayName = Annotated[str, AfterValidator(_check_gateway_name)]
"""A DNS label in lower case: it becomes part of every server name."""

HttpsOrigin = Annotated[str, AfterValidator(_check_https_origin)]
"""``https://host[:port]`` and nothing behind it."""

DatabaseUrl = Annotated[SecretStr, _check_url(DATABASE_PREFIXES)]
ValkeyUrl = Annotated[SecretStr, _check_url(VALKEY_PREFIXES)]
