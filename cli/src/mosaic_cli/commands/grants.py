"""`mosaic federation grant`: permissions that this gateway gives."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from mosaic.grants.v1.grants_pb2 import (
    CreateEnrollmentTokenRequest,
    CreateGrantRequest,
    GetGrantRequest,
    ListGrantsRequest,
)
from mosaic.grants.v1.types_pb2 import Grant
from mosaic_common.auth import Role
from mosaic_common.tokens import EnrollmentOffer, EnrollmentToken, token_id

from mosaic_cli.connection import Operator, operator
from mosaic_cli.documents import grant_document, state_value
from mosaic_cli.options import ContextOption, DurationOption, OutputOption, UserOption
from mosaic_cli.scopes import read_scope_text
from mosaic_cli.times import absolute, iso, moment, utc_now
from mosaic_cli.views.grants import grant_list, grant_sheet

app = typer.Typer(no_args_is_help=True, add_completion=False)

PAGE_SIZE: Final = 500
STATUSES: Final = ("pending", "active", "revoked", "expired")

GrantArgument = Annotated[str, typer.Argument(metavar="GRANT", help="Id of the grant.", show_default=False)]
PeerFilter = Annotated[str, typer.Option("--peer", "-p", metavar="PEER", help="Only this peer's: its name or id.")]
StatusFilter = Annotated[
    str,
    typer.Option(
        "--status", metavar="STATUS", autocompletion=lambda: list(STATUSES), help="Only pending, active, revoked or expired ones."
    ),
]


@app.command("create")
def create_grant(
    *,
    user: UserOption,
    peer: Annotated[str, typer.Option("--peer", "-p", metavar="PEER", help="Name or id of an inbound peer.")],
    scope: Annotated[Path, typer.Option("--scope", "-s", metavar="FILE", help="The scope, JSON; - reads stdin.")],
    expires_in: Annotated[
        timedelta | None, DurationOption("--expires-in", help="When it ends: 90d, 12h, 1d12h; otherwise never.")
    ] = None,
    approve_sensitive: Annotated[
        bool, typer.Option("--approve-sensitive", help="Approve credentials or api_keys in the scope; recorded with your name.")
    ] = False,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Let a peer act as one of our users, within a scope.

    The grant is pending until its token is redeemed.
    """
    request = CreateGrantRequest(
        user=user,
        peer=peer,
        scope_json=read_scope_text(scope),
        expires_in_seconds=None if expires_in is None else int(expires_in.total_seconds()),
        approve_sensitive=approve_sensitive,
    )
    with operator(target, Role.ADMIN) as gateway:
        grant = gateway.ask(gateway.grants.CreateGrant, request).grant
    output.show(grant_document(grant), lambda: grant_sheet(grant, utc_now()))
    output.note(f"Next: mosaic federation grant token {grant.id}")


@app.command("list")
def list_grants(*, peer: PeerFilter = "", status: StatusFilter = "", target: ContextOption, output: OutputOption) -> None:
    """Grants, newest first."""
    request = ListGrantsRequest(page_size=PAGE_SIZE, peer=peer)
    if status:
        request.status = _parse_status(status)
    with operator(target, Role.READ) as gateway:
        grants = list(_pages(gateway, request))
    output.show({"grants": [grant_document(each) for each in grants]}, lambda: grant_list(grants, utc_now()))


@app.command("show")
def show_grant(grant: GrantArgument, *, target: ContextOption, output: OutputOption) -> None:
    """One grant, with its certificates and tokens."""
    with operator(target, Role.READ) as gateway:
        found = gateway.ask(gateway.grants.GetGrant, GetGrantRequest(id=grant)).grant
    output.show(grant_document(found), lambda: grant_sheet(found, utc_now()))


@app.command("token")
def make_token(
    grant: GrantArgument,
    *,
    ttl: Annotated[
        timedelta | None, DurationOption("--ttl", help="How long it can be redeemed; at most, and otherwise, 15m.")
    ] = None,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Make the enrollment URL of a grant.

    It is printed once and stored nowhere. An older one of the same grant is void from then on.
    """
    # The seed is made here and goes into the URL alone: the gateway learns its public key.
    token = EnrollmentToken.generate()
    request = CreateEnrollmentTokenRequest(
        grant_id=grant,
        token_public_key=token.public_key,
        ttl_seconds=0 if ttl is None else int(ttl.total_seconds()),
    )
    with operator(target, Role.ADMIN) as gateway:
        answer = gateway.ask(gateway.grants.CreateEnrollmentToken, request)
    url = EnrollmentOffer.parse(answer.url_without_token).with_token(token).format()
    name, expires_at = token_id(token.public_key).hex(), moment(answer.token.expires_at_us)
    output.show_text({"url": url, "token_id": name, "grant_id": grant, "expires_at": iso(expires_at)}, url)
    output.note(f"token id  {name}")
    output.note(f"expires   {absolute(expires_at, utc_now())}")
    output.note("Shown this once and good for one redemption: hand it over where nobody else reads it.")


def _pages(gateway: Operator, request: ListGrantsRequest) -> Iterator[Grant]:
    while True:
        page = gateway.ask(gateway.grants.ListGrants, request)
        yield from page.grants
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _parse_status(name: str) -> Any:
    try:
        return state_value(Grant, "status", name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--status") from None
