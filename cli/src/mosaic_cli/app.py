"""The tree of commands. Nothing below the first level is imported before it is asked for."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mosaic_cli.failures import ReportingGroup
from mosaic_cli.lazy import LazyCommand, group
from mosaic_cli.options import OutputOption, complete_context
from mosaic_cli.targets import Flags


def _commands() -> Iterator[TyperCommand | TyperGroup]:
    yield group(
        "federation",
        "Grants, peers, enrollment and queries.",
        LazyCommand("grant", "mosaic_cli.commands.grants", "Permissions that this gateway gives."),
        LazyCommand("peer", "mosaic_cli.commands.peers", "The other gateways, as this one records them."),
        LazyCommand("enroll", "mosaic_cli.commands.enroll", "Redeem an enrollment URL with no gateway of one's own."),
        LazyCommand("query", "mosaic_cli.commands.query", "Rows from here and from other gateways."),
        LazyCommand("capabilities", "mosaic_cli.commands.capabilities", "What may be asked, here and of other gateways."),
        LazyCommand("audit", "mosaic_cli.commands.audit", "The record: what was asked and answered, and its proof."),
        LazyCommand("scope", "mosaic_cli.commands.scope", "Scope documents: what a grant shows."),
    )
    yield LazyCommand("pki", "mosaic_cli.commands.pki", "The service PKI of a gateway, made offline.")
    yield LazyCommand("auth", "mosaic_cli.commands.auth", "Bearer tokens of operators and users.")
    yield LazyCommand("context", "mosaic_cli.commands.context", "Which gateway the commands talk to.")
    yield LazyCommand("seal", "mosaic_cli.commands.seal", "The secret under which a gateway keeps private keys.")
    yield LazyCommand("db", "mosaic_cli.commands.db", "The database of a gateway.")
    if importlib.util.find_spec("mosaic_cli.commands.dev"):
        yield LazyCommand("dev", "mosaic_cli.commands.dev", "Two gateways on this machine, to try and to develop.")
    yield LazyCommand("version", "mosaic_cli.commands.version", "Versions of the CLI and of what it stands on.")


class Mosaic(ReportingGroup):
    """The root of the tree."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for command in _commands():
            self.add_command(command)


app = typer.Typer(
    name="mosaic",
    cls=Mosaic,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_CONNECTION = "Connection, instead of what the context says"


@app.callback()
def mosaic(
    ctx: typer.Context,
    *,
    context: Annotated[
        str, typer.Option("--context", "-c", metavar="NAME", autocompletion=complete_context, help="Which gateway.")
    ] = "",
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="NAME", rich_help_panel=_CONNECTION, help="Name that its certificates bear.")
    ] = "",
    operator_address: Annotated[
        str, typer.Option("--operator-address", metavar="HOST:PORT", rich_help_panel=_CONNECTION, help="Its operator listener.")
    ] = "",
    user_address: Annotated[
        str, typer.Option("--user-address", metavar="HOST:PORT", rich_help_panel=_CONNECTION, help="Its user listener.")
    ] = "",
    root: Annotated[
        Path | None, typer.Option("--root", metavar="FILE", rich_help_panel=_CONNECTION, help="The root that both present, PEM.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,  # noqa: ARG001  read by ReportingGroup
    output: OutputOption,  # noqa: ARG001  its callback keeps it for the commands below
) -> None:
    """Mosaic Federation: read each other's tasks, notes and memory, within what was granted."""
    ctx.obj = Flags(
        context=context or None,
        gateway=gateway or None,
        operator_address=operator_address or None,
        user_address=user_address or None,
        root=root,
    )
