"""`mosaic federation query`: rows from here and from other gateways, as a user sees them."""

from collections.abc import Iterator
from typing import Annotated, Final
from uuid import UUID

import typer
from mosaic.federation.v1.federation_pb2 import VERB_LIST
from mosaic.federation.v1.query_pb2 import QueryRequest, QueryResponse
from mosaic.grants.v1.grants_pb2 import FindUserRequest
from mosaic_common.auth import Role
from mosaic_common.resources import REGISTRY

from mosaic_cli.connection import operator, user
from mosaic_cli.contexts import Context
from mosaic_cli.documents import query_document, state_of
from mosaic_cli.options import ContextOption, OutputOption
from mosaic_cli.output import Terminal
from mosaic_cli.times import utc_now
from mosaic_cli.views.query import answer_view

app = typer.Typer(add_completion=False)

LOCAL: Final = "local"
ALL: Final = "all"


@app.command()
def query(
    resource: Annotated[
        str,
        typer.Argument(
            metavar="RESOURCE",
            help=f"One of {', '.join(REGISTRY)}.",
            autocompletion=lambda: list(REGISTRY),
            show_default=False,
        ),
    ],
    *,
    source: Annotated[
        str,
        typer.Option("--source", "-s", metavar="SOURCE", help="local, federated:NAME or all.", autocompletion=lambda: [LOCAL, ALL]),
    ] = LOCAL,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="Rows per source.")] = 50,
    page: Annotated[str, typer.Option("--page", metavar="TOKEN", help="Continue where the last answer ended.")] = "",
    user_name: Annotated[
        str, typer.Option("--user", "-u", metavar="USER", help="Ask as this user (UUID or email), with the key of the context.")
    ] = "",
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Rows that a user sees, here and through their connections to other gateways.

    A source that does not answer makes the answer partial, never a failure.
    """
    request = QueryRequest(verb=VERB_LIST, resources=[resource], source=source, page_size=limit, page_token=page)
    with user(target, _user_id(target, user_name) if user_name else None) as gateway:
        answer = gateway.ask(gateway.query.Query, request)
    output.show(query_document(answer), lambda: answer_view(answer, utc_now()))
    _warn_if_partial(answer, output)
    if answer.next_page_token:
        output.note(f"More: repeat with --page {answer.next_page_token}")


def _warn_if_partial(answer: QueryResponse, output: Terminal) -> None:
    if answer.partial:
        missing = ", ".join(_missing(answer)) or "at least one source"
        output.warn(f"PARTIAL ANSWER: it lacks rows of {missing}.")


def _missing(answer: QueryResponse) -> Iterator[str]:
    for source in answer.sources:
        status = state_of(source, "status")
        if status != "ok":
            yield f"{source.source} ({status})"


def _user_id(target: Context, name: str) -> str:
    """A token names its user by UUID; whose an email is, our gateway knows."""
    try:
        return str(UUID(name))
    except ValueError:
        pass
    with operator(target, Role.READ) as gateway:
        return gateway.ask(gateway.users.FindUser, FindUserRequest(user=name)).id
