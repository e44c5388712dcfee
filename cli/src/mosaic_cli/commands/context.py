"""`mosaic context`: which gateway the commands talk to."""

import os
from typing import Annotated

import typer
from rich.text import Text

from mosaic_cli.contexts import CONTEXT_VARIABLE, Contexts, contexts_path, load, save
from mosaic_cli.options import OutputOption, complete_context
from mosaic_cli.output import Terminal
from mosaic_cli.tables import plain, rows
from mosaic_cli.targets import load_existing

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("list")
def list_contexts(*, output: OutputOption) -> None:
    """The contexts of this machine; the current one is marked."""
    _show(load(contexts_path(os.environ)), output)


@app.command("use")
def use_context(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A context.", autocompletion=complete_context, show_default=False)],
    *,
    output: OutputOption,
) -> None:
    """Choose the context that is meant when none is named."""
    path = contexts_path(os.environ)
    contexts = load_existing(os.environ).using(name)
    save(path, contexts)
    _show(contexts, output)
    if os.environ.get(CONTEXT_VARIABLE, name) != name:
        output.warn(f"{CONTEXT_VARIABLE} is set and still names {os.environ[CONTEXT_VARIABLE]}.")


def _show(contexts: Contexts, output: Terminal) -> None:
    document = {
        "current": contexts.current,
        "contexts": [
            {
                "name": name,
                "gateway": context.gateway,
                "operator_address": context.operator_address,
                "user_address": context.user_address,
                "root": str(context.root),
                "makes_tokens": context.jwt_key is not None,
            }
            for name, context in contexts.contexts.items()
        ],
    }
    output.show(
        document,
        lambda: rows(
            ("", "NAME", "GATEWAY", "OPERATORS", "USERS", "MAKES TOKENS"),
            (
                (
                    Text("●", style="green") if name == contexts.current else "",
                    Text.assemble((plain(name).plain, "bold")) if name == contexts.current else name,
                    context.gateway,
                    context.operator_address,
                    context.user_address,
                    "yes" if context.jwt_key else "no",
                )
                for name, context in contexts.contexts.items()
            ),
            empty="No contexts. `mosaic dev up` makes two.",
        ),
    )
