"""Where a value may come from, and what is refused before anyone reads it."""

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mosaic_common.errors import ConfigurationError

KNOWN_VARIABLES: Final = frozenset(
    {
        "MOSAIC_BEHIND_PROXY",
        "MOSAIC_BOOTSTRAP_PASSWORDS",
        "MOSAIC_BOOTSTRAP_URL",
        "MOSAIC_CA_BROKER_ADDRESS",
        "MOSAIC_CONFIG_FILE",
        "MOSAIC_CONTEXT",
        "MOSAIC_CONTEXTS",
        "MOSAIC_EMBEDDED_CA_DIR",
        "MOSAIC_ENROLLMENT_PUBLICLY_TRUSTED",
        "MOSAIC_ENROLLMENT_SOURCE_PER_MINUTE",
        "MOSAIC_ENROLLMENT_TOKEN_PER_MINUTE",
        "MOSAIC_ENROLLMENT_UNKNOWN_PER_MINUTE",
        "MOSAIC_ENROLLMENT_URL",
        "MOSAIC_ENV",
        "MOSAIC_FEDERATION_ENDPOINT",
        "MOSAIC_FEDERATION_ROOT",
        "MOSAIC_GATEWAY",
        "MOSAIC_GRANTS_ADDRESS",
        "MOSAIC_INTERNAL_LISTEN",
        "MOSAIC_LOG_LEVEL",
        "MOSAIC_OPERATOR_LISTEN",
        "MOSAIC_PKI_DIR",
        "MOSAIC_PUBLIC_LISTEN",
        "MOSAIC_SEALING_KEY",
        "MOSAIC_SEALING_KEY_NEXT",
        "MOSAIC_SEALING_KEY_PREVIOUS",
        "MOSAIC_TIER",
        "MOSAIC_TOKEN",
        "MOSAIC_USER_LISTEN",
    }
)
"""Every MOSAIC_* variable of any service and of the CLI: one environment file may serve them all. Each may end in _FILE."""

ALIASES: Final[Mapping[str, str]] = {"REDIS_URL": "VALKEY_URL"}
"""Variable → its other spelling."""

CONFIG_FILE_KEYS: Final[Mapping[tuple[str, ...], str]] = {
    ("tier",): "MOSAIC_TIER",
    ("database", "url"): "DATABASE_URL",
    ("queue", "url"): "REDIS_URL",
}
"""Path in mosaic.config.json → the variable that it stands for."""

MAX_FILE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and where it was found, which is what an operator has to correct."""

    value: str
    origin: str


def refuse_unknown_variables(environ: Mapping[str, str], further: frozenset[str]) -> None:
    """Refuse a MOSAIC_* variable that nobody reads: a misspelt one would silently leave a default in force.

    Args:
        further: variables known beside KNOWN_VARIABLES.
    """
    known = KNOWN_VARIABLES | further
    for name in sorted(environ):
        if name.upper().startswith("MOSAIC_") and name not in known and name.removesuffix("_FILE") not in known:
            near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.8)
            advice = f"did you mean {near[0]}?" if near else "unset it."
            raise ConfigurationError(f"{name} is not a variable that Mosaic Federation knows: {advice}")


def find_variable(variable: str, environ: Mapping[str, str]) -> Setting | None:
    """Return what NAME, NAME_FILE or the other spelling of NAME gives; at most one of them may be set."""
    spellings = [variable, ALIASES[variable]] if variable in ALIASES else [variable]
    given = [name for spelling in spellings for name in (spelling, f"{spelling}_FILE") if name in environ]
    if not given:
        return None
    if len(given) > 1:
        raise ConfigurationError(f"{' and '.join(given)} are set, but only one of them may be: unset the rest.")
    name = given[0]
    value = _read_value_file(name, environ[name]) if name != variable and name.endswith("_FILE") else environ[name]
    if not value:
        what = f"The file that {name} names" if name.endswith("_FILE") else name
        raise ConfigurationError(f"{what} is empty: give it a value, or unset {name}.")
    return Setting(value, name)


def _read_value_file(name: str, path: str) -> str:
    # The path is not repeated in a sentence: it may be the secret itself, put into the wrong variable.
    try:
        return _read_bounded(Path(path)).decode().removesuffix("\n").removesuffix("\r")
    except OSError as failure:
        raise ConfigurationError(f"The file that {name} names cannot be read: {failure.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"The file that {name} names is not UTF-8 text.") from None
    except ValueError:
        raise ConfigurationError(f"The file that {name} names cannot be used: it must be a file of at most 64 KiB.") from None


def read_config_file(environ: Mapping[str, str], path: Path | None) -> Mapping[str, Setting]:
    """Return by variable what mosaic.config.json gives.

    Args:
        path: where it is; MOSAIC_CONFIG_FILE when None. Neither means that there is none.
    """
    if path is None and "MOSAIC_CONFIG_FILE" not in environ:
        return {}
    path = path or Path(environ["MOSAIC_CONFIG_FILE"])
    try:
        raw = _read_bounded(path)
    except OSError as failure:
        raise ConfigurationError(f"The configuration file {path.name} cannot be read: {failure.strerror}.") from None
    except ValueError:
        raise ConfigurationError("The configuration file cannot be used: it must be a file of at most 64 KiB.") from None
    return dict(_settings(_decode(raw, path.name), (), path.name))


def _decode(raw: bytes, file: str) -> object:
    def without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
        for key, times in Counter(key for key, _ in pairs).items():
            if times > 1:
                raise ConfigurationError(f"{key} is given more than once in {file}: keep one.")
        return dict(pairs)

    try:
        return json.loads(raw, object_pairs_hook=without_repeats)
    except json.JSONDecodeError as bad:
        raise ConfigurationError(f"{file} is not JSON: {bad.msg.lower()} at line {bad.lineno}, column {bad.colno}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not UTF-8 text.") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{file} cannot be used: a number or the nesting in it is far too large.") from None


def _settings(value: object, keys: tuple[str, ...], file: str) -> Iterator[tuple[str, Setting]]:
    shown = f"{'.'.join(keys)} in {file}" if keys else file
    if keys in CONFIG_FILE_KEYS:
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{shown} must be text that is not empty.")
        yield CONFIG_FILE_KEYS[keys], Setting(value, shown)
    elif any(known[: len(keys)] == keys for known in CONFIG_FILE_KEYS):
        if not isinstance(value, dict):
            raise ConfigurationError(f"{shown} must hold an object.")
        for key, member in value.items():
            yield from _settings(member, (*keys, key), file)
    else:
        known_keys = ", ".join(".".join(known) for known in CONFIG_FILE_KEYS)
        raise ConfigurationError(f"{shown} is not a key that Mosaic Federation knows: it reads {known_keys}.")


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError("larger than 64 KiB")
    return raw
