"""`mosaic federation query`: rows from here and from other gateways, as a user sees them."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from mosaic.federation.v1.federation_pb2 import VERB_GET, VERB_LIST, VERB_SEARCH
from mosaic.federation.v1.query_pb2 import QueryRequest, QueryResponse
from mosaic_common.resources import REGISTRY

from mosaic_cli.asking import ALL, LOCAL, UserOption, asking, warn_if_partial
from mosaic_cli.connection import User
from mosaic_cli.documents import query_document
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.options import ContextOption, OutputOption
from mosaic_cli.output import Terminal
from mosaic_cli.source_by_source import answers_as_they_come
from mosaic_cli.times import utc_now
from mosaic_cli.views.query import answer_view

app = typer.Typer(add_completion=False)

_LARGEST: Final = (2 - 2**-23) * 2.0**127
"""Of float32 (IEEE 754)."""


def _refuse_empty(value: str | None) -> str | None:
    """What a script's unset variable leaves must not list the newest rows instead."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty.")
    return value


@app.command()
def query(
    resources: Annotated[
        list[str],
        typer.Argument(
            metavar="RESOURCE...",
            help=f"One of {', '.join(REGISTRY)}; several for a search.",
            autocompletion=lambda: list(REGISTRY),
            show_default=False,
        ),
    ],
    *,
    source: Annotated[
        str,
        typer.Option("--source", "-s", metavar="SOURCE", help="local, federated:NAME or all.", autocompletion=lambda: [LOCAL, ALL]),
    ] = LOCAL,
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            "-q",
            metavar="WORDS",
            callback=_refuse_empty,
            help='Best matches instead of newest rows: words, "a phrase", -excluded, or.',
        ),
    ] = None,
    embedding: Annotated[
        Path | None,
        typer.Option("--embedding", metavar="FILE", help="Search memory by likeness to this vector, a JSON list of numbers."),
    ] = None,
    row_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", callback=_refuse_empty, help="The one row of this id.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="Rows per source.")] = 50,
    page: Annotated[str, typer.Option("--page", metavar="TOKEN", help="Continue where the last answer ended.")] = "",
    user_name: UserOption = "",
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Rows that a user sees, here and through their connections to other gateways.

    A source that does not answer makes the answer partial, never a failure. On a terminal each source's rows show as they come.
    """
    request = QueryRequest(resources=resources, source=source)
    if row_id is not None:
        _refuse_beside("--id", search=search, embedding=embedding, page=page)
        request.verb, request.id = VERB_GET, row_id
    elif search is not None or embedding is not None:
        _refuse_beside("--embedding" if search is None else "--search", page=page)
        request.verb, request.page_size, request.query = VERB_SEARCH, limit, search or ""
        request.embedding.extend(_read_embedding(embedding) if embedding is not None else ())
    else:
        request.verb, request.page_size, request.page_token = VERB_LIST, limit, page
    with asking(target, user_name) as gateway:
        if source == ALL and output.is_watched and not (page or row_id):
            _show_as_they_come(gateway, request, output)
            return
        answer = gateway.ask(gateway.query.Query, request)
    # Where a source did not answer nobody can say that there is no such row: that is a partial answer.
    if row_id and not answer.rows and not answer.partial:
        raise CommandFailed(LocalReason.RESOURCE_NOT_FOUND, "No source has a row of this id that you may see.")
    output.show(query_document(answer), lambda: answer_view(answer, utc_now()))
    warn_if_partial(answer, output)
    if answer.next_page_token:
        output.note(f"More: repeat with --page {answer.next_page_token}")


def _show_as_they_come(gateway: User, request: QueryRequest, output: Terminal) -> None:
    answers: list[QueryResponse] = []
    for source, answer in answers_as_they_come(gateway, request):
        answers.append(answer)
        output.show({}, partial(answer_view, answer, utc_now()))
        if answer.next_page_token:
            output.note(f"More: repeat with --source {source} --page {answer.next_page_token}")
        output.note("")
    warn_if_partial(answers, output)


def _read_embedding(file: Path) -> list[float]:
    try:
        numbers = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CommandFailed(LocalReason.FILE, f"{file} cannot be read as JSON: {error}.") from None
    except RecursionError:
        numbers = None  # lists in lists: JSON perhaps, and no list of numbers
    if not isinstance(numbers, list) or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers):
        raise CommandFailed(
            LocalReason.FILE, f"{file} is no list of numbers.", remedy="Write [0.12, -0.5, …], a number per dimension."
        )
    # So written, a NaN is too large too.
    if too_large := [place for place, each in enumerate(numbers, 1) if not abs(each) <= _LARGEST]:
        raise CommandFailed(LocalReason.FILE, f"{file}: number {too_large[0]} is none that a 32-bit float holds.")
    return [float(each) for each in numbers]


def _refuse_beside(option: str, **others: object) -> None:
    """Exit 2 for options that would not count."""
    if given := sorted(f"--{name}" for name, value in others.items() if value):
        raise typer.BadParameter(f"{' and '.join(given)} {'does' if len(given) == 1 else 'do'} not go with {option}.")
