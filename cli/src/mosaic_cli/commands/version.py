"""`mosaic version`."""

import platform
from importlib.metadata import PackageNotFoundError, version

import typer

from mosaic_cli.options import OutputOption

app = typer.Typer(add_completion=False)

DISTRIBUTIONS = ("mosaic-cli", "mosaic-common", "mosaic-proto", "grpcio", "cryptography")


@app.command()
def print_version(*, output: OutputOption) -> None:
    """Versions of the CLI and of what it stands on."""
    versions = {name: _version(name) for name in DISTRIBUTIONS} | {"python": platform.python_version()}
    output.show_text(versions, "\n".join(f"{name:<14} {number}" for name, number in versions.items()))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
