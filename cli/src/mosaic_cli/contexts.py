"""Which gateway a command talks to: a file of named contexts, readable by its owner alone.

{"current": "home", "contexts": {"home": {"gateway": "home", "operator_address": "127.0.0.1:7112", …}}}
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from mosaic_common.errors import ConfigurationError

CONTEXTS_VARIABLE: Final = "MOSAIC_CONTEXTS"
CONTEXT_VARIABLE: Final = "MOSAIC_CONTEXT"
PRIVATE_MODE: Final = 0o600


@dataclass(frozen=True, slots=True)
class Context:
    """How to reach one gateway.

    Attributes:
        gateway: its name, under which its listeners present themselves.
        operator_address: host:port of the operator listener.
        user_address: host:port of the user listener.
        root: the service root that both present, PEM.
        jwt_key: signs tokens; only where this machine may (always in development).
        pki_dir: the identity `operator`, for internal listeners.
        internal: service identity → host:port of its internal listener.
    """

    gateway: str
    operator_address: str
    user_address: str
    root: Path
    jwt_key: Path | None = None
    pki_dir: Path | None = None
    internal: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contexts:
    """All contexts of one file, and which one is meant when none is named."""

    current: str | None = None
    contexts: Mapping[str, Context] = field(default_factory=dict)

    def get(self, name: str | None = None) -> Context:
        """The context of this name, else the current one.

        Raises:
            ConfigurationError: there is none; names those that exist.
        """
        wanted = name or self.current
        if wanted is None:
            raise ConfigurationError("No context is chosen: run `mosaic context use NAME`, or give --context.")
        if wanted not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none exists yet; `mosaic dev up` makes two"
            raise ConfigurationError(f"There is no context {wanted!r} ({known}); `mosaic context list` shows where each leads.")
        return self.contexts[wanted]

    def using(self, name: str) -> Self:
        self.get(name)
        return replace(self, current=name)


def contexts_path(environ: Mapping[str, str]) -> Path:
    """MOSAIC_CONTEXTS, else contexts.json in the user's configuration folder."""
    if named := environ.get(CONTEXTS_VARIABLE):
        return Path(named)
    configuration = environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(configuration) / "mosaic" / "contexts.json"


def load(path: Path) -> Contexts:
    """Read a contexts file; an absent one holds no contexts.

    Raises:
        ConfigurationError: others can read or write it, or it does not say what it should.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        # It names keys that make tokens, and addresses that they are sent to.
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & ~PRIVATE_MODE:
            raise ConfigurationError(f"{path} is open to other users: run `chmod 600 {path}`.")
        try:
            return parse(file.read())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"{path} is not a contexts file: {error}.") from None


def parse(text: str) -> Contexts:
    """Raises: ValueError, TypeError, KeyError or AttributeError for anything that `dump` would not write."""
    document = json.loads(text)
    contexts = {name: _context(entry) for name, entry in document["contexts"].items()}
    return Contexts(current=document.get("current"), contexts=contexts)


def dump(contexts: Contexts) -> str:
    document = {"current": contexts.current, "contexts": {name: asdict(entry) for name, entry in contexts.contexts.items()}}
    return json.dumps(document, indent=2, default=str) + "\n"


def save(path: Path, contexts: Contexts) -> None:
    """Replace the file as a whole, private from its first byte on."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, dump(contexts))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, from its first byte on; an existing one is replaced as a whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=PRIVATE_MODE, exist_ok=False)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _context(entry: Mapping[str, object]) -> Context:
    fields = dict(entry)
    for name in ("root", "jwt_key", "pki_dir"):
        if isinstance(fields.get(name), str):
            fields[name] = Path(str(fields[name]))
    return Context(**fields)  # type: ignore[arg-type]  # a wrong name is a TypeError, told to the user with the file's name
