"""Structured logs: one JSON object a line on stdout, secrets out by construction.

Redaction works on names and on shapes, because a secret that somebody logs tomorrow has a name that nobody thought
of today: PEM blocks, compact JWS and anything in bytes never reach the output.
"""

import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import orjson
import structlog

_SECRET_NAME: Final = re.compile(
    r"token|secret|passw|private|key_pem|_key$|csr|proof|warrant|authorization|cookie|seed|database_url|redis_url", re.IGNORECASE
)
_PUBLIC_NAMES: Final = frozenset({"token_id"})
_SECRET_SHAPE: Final = re.compile(
    r"-----BEGIN [^-]+-----.*?(-----END [^-]+-----|$)|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|(?<=[&#?]token=)[\w-]+|(?<=://)[^/@\s]+@",
    re.DOTALL,
)
REDACTED: Final = "[redacted]"


def redact(value: object, name: str = "") -> object:
    """Return the value as it may be logged under this name."""
    if _SECRET_NAME.search(name) and name not in _PUBLIC_NAMES and value is not None and not isinstance(value, bool | int | float):
        return REDACTED
    if isinstance(value, str):
        return _SECRET_SHAPE.sub(REDACTED, value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, Mapping):
        return {str(key): redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    return value


def _redacted(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {name: redact(value, name) for name, value in event.items()}


def _dumps(event: object, **_: object) -> bytes:
    return orjson.dumps(event, default=str)


def configure(service: str, gateway: str, level: str = "info") -> None:
    """Set up the process's log. Called once, by ``__main__``."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redacted,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(service=service, gateway=gateway)


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger; the event is a fixed name, everything variable is a field."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return bound
