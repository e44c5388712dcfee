"""`mosaic federation scope`: scope documents, checked without a gateway."""

from pathlib import Path
from typing import Annotated

import typer
from mosaic_common.scope import parse_scope_json, scope_json_schema
from rich.text import Text

from mosaic_cli.options import OutputOption
from mosaic_cli.output import json_text
from mosaic_cli.scopes import read_scope
from mosaic_cli.tables import details
from mosaic_cli.views.grants import scope_lines

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("schema")
def print_schema(*, output: OutputOption) -> None:
    """The JSON Schema of a scope."""
    schema = scope_json_schema()
    output.show_text(schema, json_text(schema))


@app.command("validate")
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The scope, JSON; - reads stdin.", show_default=False)],
    *,
    output: OutputOption,
) -> None:
    """Check a scope document; reports every problem at once.

    Whether its teams exist, and the subject is in them, only the gateway knows.
    """
    scope = parse_scope_json(read_scope(file))
    document = scope.to_document()
    output.show(
        {"valid": True, "scope": document, "sensitive": list(scope.sensitive_resources)},
        lambda: details(Text("This scope is valid.", style="bold green"), scope_lines(document)),
    )
    if scope.sensitive_resources:
        output.warn(f"It shows {', '.join(scope.sensitive_resources)}: the grant needs --approve-sensitive.")
