"""`mosaic db`: what only the code of the grants service can do, run as that service's program."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

import typer

from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.options import OutputOption
from mosaic_cli.output import Format, Terminal

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
    argv = [sys.executable, "-P", "-m", SERVICE, "db", "upgrade"]
    with subprocess.Popen(argv, stdout=told, stderr=subprocess.PIPE, text=True, errors="replace") as upgrading:  # noqa: S603  our own program
        assert upgrading.stderr is not None
        last = _relay(upgrading.stderr, output)
    if upgrading.returncode:
        raise CommandFailed(LocalReason.UPGRADE_FAILED, last.removeprefix("grants: ") or "The upgrade failed and did not say why.")
    if last:
        output.note(last)
    if output.format is Format.JSON:
        output.show_text({"upgraded": True}, "")


def _relay(lines: Iterable[str], output: Terminal) -> str:
    """Tell each line as it comes; return the last one, which says how it ended, untold."""
    last = ""
    for line in map(str.rstrip, lines):
        if last:
            output.note(last)
        last = line
    return last
