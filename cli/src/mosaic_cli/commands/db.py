"""`mosaic db`: what only the code of the grants service can do, run as that service's program."""

import importlib.util
import subprocess
import sys
from typing import Final

import typer

from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.options import OutputOption
from mosaic_cli.output import Format

app = typer.Typer(no_args_is_help=True, add_completion=False)

SERVICE: Final = "mosaic_grants"


@app.callback()
def db() -> None:
    # Makes it a group although it has one command so far.
    ...


@app.command("upgrade")
def upgrade(*, output: OutputOption) -> None:
    """Bring the schema to its newest version, as the owner role that DATABASE_URL names."""
    if importlib.util.find_spec(SERVICE) is None:
        raise CommandFailed(
            LocalReason.NOT_INSTALLED,
            "The grants service, whose migrations these are, is not installed beside this CLI.",
            remedy="Run this in the image of the grants service, or install mosaic-grants here.",
        )
    # With JSON asked for, stdout is this command's own.
    told = sys.stderr if output.format is Format.JSON else None
    done = subprocess.run([sys.executable, "-m", SERVICE, "db", "upgrade"], stdout=told, check=False)  # noqa: S603  our own program
    if done.returncode:
        raise typer.Exit(1)
    if output.format is Format.JSON:
        output.show_text({"upgraded": True}, "")
