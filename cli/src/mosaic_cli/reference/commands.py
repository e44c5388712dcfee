"""The reference of every command, read from the commands themselves."""

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

import typer

from mosaic_cli.app import app
from mosaic_cli.connection import TOKEN_VARIABLE
from mosaic_cli.contexts import CONTEXT_VARIABLE, CONTEXTS_VARIABLE
from mosaic_cli.lazy import LazyCommand
from mosaic_cli.reference.markdown import GENERATED, code, paragraphs, table

# Described once, at the top.
_SHARED: Final = ("--context", "--output")
_COMPLETION: Final = ("--install-completion", "--show-completion")
_ENVIRONMENT: Final = (
    (CONTEXTS_VARIABLE, "The contexts file; otherwise `mosaic/contexts.json` in the user's configuration folder."),
    (CONTEXT_VARIABLE, "Which of its contexts is meant where `--context` is not given; otherwise the current one."),
    (TOKEN_VARIABLE, "The bearer token to show; otherwise one is made with the key that the context names."),
)
_INTRODUCTION: Final = """\
Results go to stdout, messages to stderr. Exit code 0: done; 1: refused or failed, with reason, sentence and remedy; 2: misuse. With
`--output json` stdout holds one JSON document in any case; that of a failure is `{"error": {"reason", "message", "remediation",
"violations", "metadata"}}`. What is given at the command wins over what is given before it (`mosaic --output json …`)."""


def commands_reference() -> str:
    root = typer.main.get_command(app)
    return (
        paragraphs(
            GENERATED,
            "# Commands",
            _INTRODUCTION,
            "## Every command",
            "Those that talk to a gateway take `--context`, all take `--output`; the others stand before the command.",
            _options(each for each in root.params if each.opts[0] not in _COMPLETION),
            table(("Environment", "Meaning"), [(code(name), meaning) for name, meaning in _ENVIRONMENT]),
            "`mosaic --install-completion` teaches the shell to complete commands, options, contexts and states.",
            *(_section(path, command) for path, command in _leaves(root, "mosaic")),
        ).rstrip("\n")
        + "\n"
    )


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    loaded = command.load() if isinstance(command, LazyCommand) else command
    if not hasattr(loaded, "commands"):
        yield path, loaded
        return
    for name, member in loaded.commands.items():
        yield from _leaves(member, f"{path} {name}")


def _section(path: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    own = [each for each in command.params if each.param_type_name == "option" and each.opts[0] not in _SHARED]
    synopsis = " ".join([path, *(_synopsis(each) for each in sorted([*arguments, *own], key=lambda each: not each.required))])
    described = table(("Argument", "Meaning"), [(code(each.metavar or each.name.upper()), _meaning(each)) for each in arguments])
    return paragraphs(
        f"## {path}",
        inspect.cleandoc(command.help or ""),
        f"```\n{synopsis}\n```",
        described if arguments else "",
        _options(own) if own else "",
    ).rstrip("\n")


def _synopsis(param: Any) -> str:
    shown = (
        param.metavar or param.name.upper() if param.param_type_name == "argument" else f"{param.opts[0]} {_value(param)}".strip()
    )
    return shown if param.required else f"[{shown}]"


def _options(options: Any) -> str:
    lines = [(", ".join(map(code, each.opts)), code(_value(each)), _default(each), _meaning(each)) for each in options]
    return table(("Option", "Value", "Default", "Meaning"), lines)


def _value(option: Any) -> str:
    """What is written after the option; nothing after a flag."""
    if isinstance(option.default, Enum):
        return "|".join(str(each.value) for each in type(option.default))
    return "" if option.is_flag else option.metavar or option.name.upper()


def _default(option: Any) -> str:
    if option.required:
        return "required"
    default = option.default.value if isinstance(option.default, Enum) else option.default
    # A type stands for "made when asked": the option's help says what then applies.
    return "" if default in (None, "", False) or isinstance(default, type) else code(str(default))


def _meaning(param: Any) -> str:
    return " ".join((param.help or "").split())
