"""Structured logs: one JSON object a line on stdout, secrets out by construction.

Redaction works on names and on shapes, because a secret that somebody logs tomorrow has a name that nobody thought
of today: PEM blocks, compact JWS and anything in bytes never reach the output.
"""

import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
import structlog

_SECRET_NAME: Final = re.compile(
    r"token|secret|passw|private|key_pem|_key$|csr|proof|warrant|authorization|cookie|seed|database_url|redis_url", re.IGNORECASE
)
_PUBLIC_NAMES: Final = frozenset({"token_id"})
# PEM blocks; compact JWS; a token in a URL; the user part of a URL; 32 bytes in base64url (a token, the secret part of a JWK), also
# with something right beside them: a caller may have pasted them twice, or behind a NUL. Hashes and signatures are hexadecimal.
_SECRET_SHAPE: Final = re.compile(
    r"-----BEGIN [^-]+-----.*?(?:-----END [^-]+-----|$)"
    r"|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    r"|(?<=[&#?]token=)[\w-]+"
    r"|(?<=://)[^@\s]+@"
    r"|(?<![\w-])(?![0-9a-f]{64,}(?![\w-]))[\w-]{43,}",
    re.DOTALL,
)
_SHORTEST_SECRET: Final = 43
_MARKED: Final = re.compile(r"-----BEGIN|eyJ|token=|://")
# Fields of a served call's line that hold words of our own code or ids, and nothing else: they need not be searched.
_OUR_WORDS: Final = frozenset({"event", "component", "method", "code", "reason", "layer", "request_id", "grant_id"})
_LEVELS: Final = {"warn": "warning", "exception": "error"}
REDACTED: Final = "[redacted]"


def redact(value: object, name: str = "") -> object:
    """Return the value as it may be logged under this name."""
    if value is None or isinstance(value, int | float):
        return value
    if _is_secret(name):
        return REDACTED
    if isinstance(value, str):
        return _shape(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, Mapping):
        return {_shape(str(key)): redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item) for item in value]
    # Anything else is shown as text, and text is looked at: an exception, a dataclass, an object with a repr of its own.
    return _shape(str(value))


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None and name not in _PUBLIC_NAMES


def _shape(text: str) -> str:
    # Every call logs a line of short words: what is shorter than any secret and has none of their marks is not searched.
    if len(text) < _SHORTEST_SECRET and _MARKED.search(text) is None:
        return text
    return _SECRET_SHAPE.sub(REDACTED, text)


class _Line:
    """The one processor of structlog's chain: every served call pays for its line, and a chain of them costs it twice as much."""

    def __init__(self, service: str, gateway: str) -> None:
        self._who: Final = {"service": service, "gateway": gateway}

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> bytes:
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(logger, method, event)
        ended = event.pop("timestamp", None)
        line = {
            name: value if value is None or type(value) is int or name in _OUR_WORDS else redact(value, name)
            for name, value in event.items()
        }
        line |= self._who
        line["level"] = _LEVELS.get(method, method)
        line["timestamp"] = ended if isinstance(ended, datetime) else datetime.now(UTC)
        return orjson.dumps(line, default=str, option=orjson.OPT_UTC_Z)


def configure(service: str, gateway: str, level: str = "info") -> None:
    """Set up the process's log. Called once, by ``__main__``."""
    structlog.configure(
        processors=[_Line(service, gateway)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return a logger; the event is a fixed name, everything variable is a field."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return bound
