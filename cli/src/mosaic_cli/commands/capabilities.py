"""`mosaic federation capabilities`: what a user may ask, here and of other gateways."""

from typing import Annotated

import typer
from mosaic.federation.v1.federation_pb2 import VERB_CAPABILITIES
from mosaic.federation.v1.query_pb2 import QueryRequest

from mosaic_cli.asking import ALL, LOCAL, UserOption, asking, warn_if_partial
from mosaic_cli.documents import capabilities_document
from mosaic_cli.options import ContextOption, OutputOption
from mosaic_cli.times import utc_now
from mosaic_cli.views.query import capabilities_view

app = typer.Typer(add_completion=False)


@app.command()
def capabilities(
    *,
    source: Annotated[
        str,
        typer.Option("--source", "-s", metavar="SOURCE", help="local, federated:NAME or all.", autocompletion=lambda: [LOCAL, ALL]),
    ] = ALL,
    user_name: UserOption = "",
    target: ContextOption,
    output: OutputOption,
) -> None:
    """What a user may ask of each source: which resources, how many rows, until when."""
    with asking(target, user_name) as gateway:
        answer = gateway.ask(gateway.query.Query, QueryRequest(verb=VERB_CAPABILITIES, source=source))
    output.show(capabilities_document(answer), lambda: capabilities_view(answer, utc_now()))
    warn_if_partial(answer, output, of="the capabilities")
