"""`mosaic pki`: the service PKI of a gateway, made and kept offline."""

from pathlib import Path
from typing import Annotated

import typer
from mosaic_common import pki
from mosaic_common.clock import SystemClock
from mosaic_common.identity import IDENTITIES

from mosaic_cli.documents import pki_document
from mosaic_cli.options import OutputOption
from mosaic_cli.output import Terminal
from mosaic_cli.times import utc_now
from mosaic_cli.views.pki import pki_sheet

app = typer.Typer(no_args_is_help=True, add_completion=False)

DirectoryOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The whole PKI; its folder root/ belongs offline.")]


@app.command("init")
def init(
    *,
    directory: DirectoryOption,
    gateway: Annotated[str, typer.Option("--gateway", metavar="NAME", help="The gateway's name.")],
    public_host: Annotated[str, typer.Option("--public-host", metavar="HOST", help="DNS name or address that peers reach it by.")],
    output: OutputOption,
) -> None:
    """Make the root, every service's leaves, and the signing keys; whatever is there already stays."""
    _show(pki.init(directory, gateway, public_host, clock=SystemClock()), output)


@app.command("issue")
def issue(
    identity: Annotated[
        str,
        typer.Argument(
            metavar="IDENTITY", help=f"One of {', '.join(IDENTITIES)}.", autocompletion=lambda: list(IDENTITIES), show_default=False
        ),
    ],
    *,
    directory: DirectoryOption,
    output: OutputOption,
) -> None:
    """Give an identity fresh leaves for the keys that it has."""
    _show(pki.issue(directory, identity, clock=SystemClock()), output)


@app.command("show")
def show(*, directory: DirectoryOption, output: OutputOption) -> None:
    """Root, identities, leaves and their dates."""
    _show(pki.describe(directory), output)


def _show(described: pki.PkiDescription, output: Terminal) -> None:
    output.show(pki_document(described), lambda: pki_sheet(described, utc_now()))
