"""`mosaic db`: what only the code of the grants service can do, run as that service's program."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from typing import Annotated, Final

import typer

from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.options import OutputOption
from mosaic_cli.output import Format, Terminal

app = typer.Typer(no_args_is_help=True, add_completion=False)

SERVICE: Final = "mosaic_grants"


@app.command("upgrade")
def upgrade(*, output: OutputOption) -> None:
    """Bring the schema to its newest version, as the owner role that DATABASE_URL names."""
    _run("upgrade", refusal=LocalReason.UPGRADE_FAILED, output=output)
    if output.format is Format.JSON:
        output.show_text({"upgraded": True}, "")


@app.command("retain")
def retain(
    *,
    months: Annotated[int, typer.Option("--months", min=1, max=1200, metavar="N", help="Whole months that are kept.")],
    output: OutputOption,
) -> None:
    """Drop the audit log's months before the last N whole ones, as the owner role that DATABASE_URL names.

    A month stays until every chain's end in it is countersigned; a verification then says that the record begins there.
    """
    _run("retain", "--months", str(months), refusal=LocalReason.RETENTION_REFUSED, output=output)
    if output.format is Format.JSON:
        output.show_text({"retained_months": months}, "")


def _run(*arguments: str, refusal: LocalReason, output: Terminal) -> None:
    if importlib.util.find_spec(SERVICE) is None:
        raise CommandFailed(
            LocalReason.NOT_INSTALLED,
            "The grants service, whose migrations these are, is not installed beside this CLI.",
            remedy="Run this in the image of the grants service, or install mosaic-grants here.",
        )
    # With JSON asked for, stdout is this command's own.
    told = sys.stderr if output.format is Format.JSON else None
    argv = [sys.executable, "-P", "-m", SERVICE, "db", *arguments]
    with subprocess.Popen(argv, stdout=told, stderr=subprocess.PIPE, text=True, errors="replace") as running:  # noqa: S603  our own program
        assert running.stderr is not None
        last = _relay(running.stderr, output)
    if running.returncode:
        raise CommandFailed(refusal, last.removeprefix("grants: ") or "It failed and did not say why.")
    if last:
        output.note(last)


def _relay(lines: Iterable[str], output: Terminal) -> str:
    """Tell each line as it comes; return the last one, which says how it ended, untold."""
    last = ""
    for line in map(str.rstrip, lines):
        if last:
            output.note(last)
        last = line
    return last
