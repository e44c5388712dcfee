"""Commands that are imported when they are asked for: `mosaic --help` does not pay for grpc and cryptography."""

import importlib
import importlib.util
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class LazyCommand(TyperCommand):
    """Stands for the `app` of a module until it is parsed or completed.

    Args:
        module: has a `typer.Typer` named app: one command, or a group.
        summary: what the list of commands says.
    """

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name=name, callback=None, help=summary)
        self._module = module

    def make_context(self, *args: Any, **extra: Any) -> Any:
        # From here on the parser asks the context for its command, and that is the loaded one.
        return self.load().make_context(*args, **extra)

    def load(self) -> Any:
        app: typer.Typer = importlib.import_module(self._module).app
        command = typer.main.get_command(app)
        command.name = self.name
        command.help = command.help or self.help
        return command


def group(name: str, summary: str, *commands: TyperCommand | TyperGroup) -> TyperGroup:
    """A group of which nothing is imported yet."""
    return TyperGroup(name=name, help=summary, no_args_is_help=True, commands=list(commands))
