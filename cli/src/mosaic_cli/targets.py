"""Which gateway a command talks to: flags over environment over the contexts file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mosaic_cli.contexts import CONTEXT_VARIABLE, CONTEXTS_VARIABLE, Context, Contexts, contexts_path, load
from mosaic_cli.failures import CommandFailed, LocalReason

_FORM: Final = (
    '{"current": NAME, "contexts": {NAME: '
    '{"gateway": NAME, "operator_address": HOST:PORT, "user_address": HOST:PORT, "root": FILE}}}'
)


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given on the command line; None where nothing was."""

    context: str | None = None
    gateway: str | None = None
    operator_address: str | None = None
    user_address: str | None = None
    root: Path | None = None


def find_target(flags: Flags, environ: Mapping[str, str]) -> Context:
    """Return the chosen context, with what the flags say instead.

    Raises:
        ConfigurationError: no context is chosen.
        CommandFailed: there is no contexts file, and the flags alone do not name a gateway.
    """
    return _overridden(_base(flags, environ), flags)


def _base(flags: Flags, environ: Mapping[str, str]) -> Context:
    chosen = flags.context or environ.get(CONTEXT_VARIABLE)
    if chosen is None and flags.gateway and flags.root and (flags.operator_address or flags.user_address):
        return Context(gateway=flags.gateway, operator_address="", user_address="", root=flags.root)
    return load_existing(environ).get(chosen)


def load_existing(environ: Mapping[str, str]) -> Contexts:
    """Read the contexts file that has to be there.

    Raises:
        ConfigurationError: it cannot be used.
        CommandFailed: there is none.
    """
    path = contexts_path(environ)
    if not path.exists():
        raise CommandFailed(
            LocalReason.CONFIGURATION,
            f"No gateway is named: there is no contexts file {path}.",
            remedy="Give --gateway, --operator-address, --user-address and --root, or write the file (mode 600): "
            f"{_FORM}. `mosaic dev up` makes two gateways to try and such a file, to be named in {CONTEXTS_VARIABLE}.",
        )
    return load(path)


def _overridden(base: Context, flags: Flags) -> Context:
    return replace(
        base,
        gateway=flags.gateway or base.gateway,
        operator_address=flags.operator_address or base.operator_address,
        user_address=flags.user_address or base.user_address,
        root=flags.root or base.root,
    )
