"""Options that many commands share, each described once.

What is given at the command wins over what is given before it (`mosaic --output json …`).
"""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

import typer
from mosaic_common.errors import ConfigurationError

from mosaic_cli.contexts import Context, contexts_path, load
from mosaic_cli.failures import FORMAT_KEY
from mosaic_cli.output import Format, Terminal
from mosaic_cli.targets import Flags, find_target
from mosaic_cli.times import parse_duration


def _choose_format(ctx: typer.Context, _: typer.CallbackParam, value: str) -> Any:
    if ctx.resilient_parsing:
        return None
    if value and value not in list(Format):
        raise typer.BadParameter("write table or json.")
    chosen = Format(value or ctx.meta.get(FORMAT_KEY, Format.TABLE))
    ctx.meta[FORMAT_KEY] = chosen
    return Terminal(chosen)


def _choose_target(ctx: typer.Context, _: typer.CallbackParam, value: str) -> Any:
    if ctx.resilient_parsing:
        return None
    flags = ctx.obj or Flags()
    return find_target(replace(flags, context=value or flags.context), os.environ)


def complete_context() -> list[str]:
    try:
        return sorted(load(contexts_path(os.environ)).contexts)
    except ConfigurationError:
        return []


def _complete_format() -> list[str]:
    return list(Format)


def _parse_duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


OutputOption = Annotated[
    Terminal,
    typer.Option(
        "--output",
        "-o",
        parser=str,
        default_factory=str,
        callback=_choose_format,
        is_eager=True,  # so that a later option's refusal is told in this format
        metavar="table|json",
        autocompletion=_complete_format,
        help="How the result is written to stdout; messages go to stderr.",
        show_default=False,
    ),
]
ContextOption = Annotated[
    Context,
    typer.Option(
        "--context",
        "-c",
        parser=str,
        default_factory=str,
        callback=_choose_target,
        metavar="NAME",
        autocompletion=complete_context,
        help="Which gateway; otherwise MOSAIC_CONTEXT, or the current one of `mosaic context list`.",
        show_default=False,
    ),
]
UserOption = Annotated[str, typer.Option("--user", "-u", metavar="USER", help="A user of this gateway: UUID or email.")]
GrantArgument = Annotated[str, typer.Argument(metavar="GRANT", help="Id of the grant.", show_default=False)]
ReasonOption = Annotated[
    str,
    typer.Option("--reason", metavar="TEXT", help="Why, in at most 200 printable characters; kept with it.", show_default=False),
]


def DurationOption(flag: str, *, help: str) -> Any:  # noqa: N802, A002  beside typer.Option it reads like one
    """An option that takes 90d, 12h, 30m, 900s, or a sum of them."""
    return typer.Option(flag, parser=_parse_duration, metavar="DURATION", help=help, show_default=False)
