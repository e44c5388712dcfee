"""`mosaic federation grant explain` and `preview`: what a grant would do, before anybody asks."""

from pathlib import Path
from typing import Annotated, Any

import typer
from mosaic.grants.v1.grants_pb2 import ExplainGrantRequest, PreviewGrantRequest, PreviewGrantResponse
from mosaic_common.auth import Role
from mosaic_common.decision import Verb
from mosaic_common.resources import REGISTRY

from mosaic_cli.connection import operator
from mosaic_cli.documents import explanation_document, preview_document
from mosaic_cli.options import ContextOption, GrantArgument, OutputOption
from mosaic_cli.scopes import read_scope_text
from mosaic_cli.views.explanations import explanation_sheet, preview_table


def _parse_fingerprint(text: str) -> Any:
    try:
        fingerprint = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        fingerprint = b""
    if len(fingerprint) != 32:
        raise typer.BadParameter("write the SHA-256 of the certificate: 64 hexadecimal digits.")
    return fingerprint


def explain_grant(
    grant: GrantArgument,
    verb: Annotated[
        Verb, typer.Argument(metavar="VERB", help="What would be asked.", autocompletion=lambda: list(Verb), show_default=False)
    ],
    resources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RESOURCE",
            help=f"One for list and get, any number for search: {', '.join(REGISTRY)}.",
            autocompletion=lambda: list(REGISTRY),
            show_default=False,
        ),
    ] = None,
    *,
    row_id: Annotated[str, typer.Option("--id", metavar="ID", help="The row that a get would ask for.")] = "",
    fingerprint: Annotated[
        bytes | None,
        typer.Option(
            "--fingerprint",
            parser=_parse_fingerprint,
            metavar="SHA256",
            help="The certificate that would be presented; otherwise the newest one that is accepted.",
            show_default=False,
        ),
    ] = None,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Why a call would be allowed or refused, lock by lock, without making it.

    What is explained is what is enforced: the edge walks the same checks. A refusal is an answer too: the exit code is 0.
    """
    request = ExplainGrantRequest(id=grant, verb=verb, resources=resources or (), row_id=row_id, fingerprint=fingerprint or b"")
    with operator(target, Role.READ) as gateway:
        answer = gateway.ask(gateway.grants.ExplainGrant, request)
    output.show(explanation_document(answer), lambda: explanation_sheet(answer))


def preview_grant(
    grant: Annotated[
        str, typer.Argument(metavar="GRANT", help="Id of a grant; otherwise --scope and --user.", show_default=False)
    ] = "",
    *,
    scope: Annotated[
        Path | None, typer.Option("--scope", "-s", metavar="FILE", help="A scope instead of a grant, JSON; - reads stdin.")
    ] = None,
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER", help="Whose rows: UUID or email; with --scope.")] = "",
    against: Annotated[Path | None, typer.Option("--against", metavar="FILE", help="Another scope to compare with, JSON.")] = None,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """How many rows a grant or a scope shows, and one query gives at most; no row is shown.

    With --against, what the other scope would add and take away.
    """
    if bool(grant) == (scope is not None and bool(user)) or (grant and (scope or user)):
        raise typer.BadParameter("name a grant, or give --scope and --user.")
    request = PreviewGrantRequest(
        id=grant,
        scope_json=read_scope_text(scope) if scope else "",
        user=user,
        against_scope_json=read_scope_text(against) if against else "",
    )
    with operator(target, Role.READ) as gateway:
        answer = gateway.ask(gateway.grants.PreviewGrant, request)
    output.show(preview_document(answer), lambda: preview_table(answer, compared=against is not None))
    if uncounted := _uncounted(answer):
        output.warn(f"{' and '.join(uncounted)} could not be counted within 2 s.")


def _uncounted(answer: PreviewGrantResponse) -> list[str]:
    return [each.resource for each in answer.resources if not each.HasField("visible")]
