"""Which gateway a command talks to: flags over environment over the contexts file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mosaic_cli.contexts import CONTEXT_VARIABLE, Context, contexts_path, load


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
        ConfigurationError: no context is chosen, and the flags alone do not name a gateway.
    """
    return _overridden(_base(flags, environ), flags)


def _base(flags: Flags, environ: Mapping[str, str]) -> Context:
    chosen = flags.context or environ.get(CONTEXT_VARIABLE)
    if chosen is None and flags.gateway and flags.root and (flags.operator_address or flags.user_address):
        return Context(gateway=flags.gateway, operator_address="", user_address="", root=flags.root)
    return load(contexts_path(environ)).get(chosen)


def _overridden(base: Context, flags: Flags) -> Context:
    return replace(
        base,
        gateway=flags.gateway or base.gateway,
        operator_address=flags.operator_address or base.operator_address,
        user_address=flags.user_address or base.user_address,
        root=flags.root or base.root,
    )
