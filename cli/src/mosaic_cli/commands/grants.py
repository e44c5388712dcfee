"""`mosaic federation grant`: permissions that this gateway gives."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from mosaic.grants.v1.grants_pb2 import (
    CreateEnrollmentTokenRequest,
    CreateGrantRequest,
    GetGrantRequest,
    ListGrantsRequest,
    RevokeGrantRequest,
)
from mosaic.grants.v1.types_pb2 import EnrollmentToken as RecordedToken
from mosaic.grants.v1.types_pb2 import Grant
from mosaic_cli.certificates import certificate_rows
from mosaic_cli.connection import Operator, operator
from mosaic_cli.documents import Document, grant_document, state_of, state_value
from mosaic_cli.options import ContextOption, ExpiresInOption, OutputOption, UserOption, ttl_option
from mosaic_cli.scopes import read_scope_text
from mosaic_cli.tables import details, exactly, identifier, plain, quiet, rows, section, stacked, state, when
from mosaic_cli.times import absolute, iso, moment
from mosaic_common.auth import Role
from mosaic_common.clock import SystemClock
from mosaic_common.tokens import EnrollmentOffer, EnrollmentToken, token_id

app = typer.Typer(help="Permissions that this gateway gives.", no_args_is_help=True, add_completion=False)

GrantArgument = Annotated[str, typer.Argument(metavar="GRANT", help="Id of the grant.", show_default=False)]
MAX_PAGE: int = 500


@app.command("create")
def create_grant(
    user: UserOption,
    peer: Annotated[str, typer.Option("--peer", "-p", metavar="PEER", help="Name or id of an inbound peer.")],
    scope: Annotated[Path, typer.Option("--scope", "-s", metavar="FILE", help="The scope, JSON; - reads stdin.", allow_dash=True)],
    *,
    expires_in: ExpiresInOption = None,
    approve_sensitive: Annotated[
        bool, typer.Option("--approve-sensitive", help="Approve credentials or api_keys in the scope; recorded with your name.")
    ] = False,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Let a peer act as one of our users, within a scope. Pending until its token is redeemed."""
    request = CreateGrantRequest(
        user=user, peer=peer, scope_json=read_scope_text(scope), approve_sensitive=approve_sensitive, expires_in_seconds=_seconds(expires_in)
    )
    with operator(target, Role.ADMIN) as gateway:
        grant = gateway.ask(gateway.grants.CreateGrant, request).grant
    output.show(grant_document(grant), lambda: _shown(grant, _now()))
    output.note(f"Next: mosaic federation grant token {grant.id}")


@app.command("list")
def list_grants(
    *,
    peer: Annotated[str, typer.Option("--peer", "-p", metavar="PEER", help="Only those of this peer: name or id.")] = "",
    status: Annotated[
        str, typer.Option("--status", metavar="STATUS", help="Only pending, active, revoked or expired.", autocompletion=lambda: _STATUSES)
    ] = "",
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Grants, newest first."""
    request = ListGrantsRequest(page_size=MAX_PAGE, peer=peer)
    if status:
        request.status = _status_value(status)
    with operator(target, Role.READ) as gateway:
        grants = list(_pages(gateway, request))
    output.show({"grants": [grant_document(each) for each in grants]}, lambda: _listed(grants, _now()))


@app.command("show")
def show_grant(grant_id: GrantArgument, *, target: ContextOption, output: OutputOption) -> None:
    """One grant, with its certificates and tokens."""
    with operator(target, Role.READ) as gateway:
        grant = gateway.ask(gateway.grants.GetGrant, GetGrantRequest(id=grant_id)).grant
    output.show(grant_document(grant), lambda: _shown(grant, _now()))


@app.command("token")
def make_token(
    grant_id: GrantArgument,
    *,
    ttl: Annotated[timedelta | None, ttl_option("How long it can be redeemed; at most, and otherwise, 15m.")] = None,
    reenroll: Annotated[bool, typer.Option("--reenroll", help="For an active grant whose key is lost.")] = False,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Make the enrollment URL of a grant. It is printed once and stored nowhere; older ones are void from now on."""
    # The seed is made here and goes into the URL only: the gateway learns the public key.
    token = EnrollmentToken.generate()
    request = CreateEnrollmentTokenRequest(
        grant_id=grant_id, token_public_key=token.public_key, ttl_seconds=_seconds(ttl) or 0, reenroll=reenroll
    )
    with operator(target, Role.ADMIN) as gateway:
        answer = gateway.ask(gateway.grants.CreateEnrollmentToken, request)
    url = EnrollmentOffer.parse(answer.url_without_token).with_token(token).format()
    expires_at = moment(answer.token.expires_at_us)
    document: Document = {
        "url": url,
        "token_id": token_id(token.public_key).hex(),
        "grant_id": grant_id,
        "expires_at": iso(expires_at),
    }
    output.show_text(document, url)
    output.note(f"token id  {document['token_id']}")
    output.note(f"expires   {absolute(expires_at, _now())}")
    output.note("Shown this once, good for one redemption: hand it over where nobody else reads it.")


@app.command("revoke")
def revoke_grant(
    grant_id: GrantArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Recorded with the grant.")] = "",
    target: ContextOption,
    output: OutputOption,
) -> None:
    """End a grant, now and for good."""
    with operator(target, Role.ADMIN) as gateway:
        grant = gateway.ask(gateway.grants.RevokeGrant, RevokeGrantRequest(id=grant_id, reason=reason)).grant
    output.show(grant_document(grant), lambda: _shown(grant, _now()))


_STATUSES = ["pending", "active", "revoked", "expired"]


def _pages(gateway: Operator, request: ListGrantsRequest) -> Iterator[Grant]:
    while True:
        page = gateway.ask(gateway.grants.ListGrants, request)
        yield from page.grants
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _listed(grants: list[Grant], now: datetime) -> RenderableType:
    return rows(
        ("ID", "STATUS", "PEER", "SUBJECT", "RESOURCES", "CREATED", "ENDS"),
        (
            (
                identifier(grant.id),
                state(state_of(grant, "status")),
                grant.peer_name,
                grant.subject_email or grant.subject_user_id,
                ", ".join(_scope(grant).get("resources", [])),
                when(moment(grant.created_at_us), now),
                _end(grant, now),
            )
            for grant in grants
        ),
        empty="No grants.",
    )


def _shown(grant: Grant, now: datetime) -> RenderableType:
    return stacked(
        details(
            Text.assemble(("Grant ", "bold"), identifier(grant.id), "  ", state(state_of(grant, "status"))),
            [
                ("peer", Text.assemble(plain(grant.peer_name), "  ", quiet(grant.peer_id))),
                ("subject", Text.assemble(plain(grant.subject_email or "(gone)"), "  ", quiet(grant.subject_user_id))),
                *_scope_lines(_scope(grant)),
                ("created", Text.assemble(exactly(moment(grant.created_at_us), now), f" by {grant.created_by}")),
                *([("approved by", grant.approved_by)] if grant.approved_by else []),
                *([("active since", exactly(moment(grant.activated_at_us), now))] if grant.HasField("activated_at_us") else []),
                ("ends", exactly(moment(grant.expires_at_us), now) if grant.HasField("expires_at_us") else quiet("never")),
                *([("revoked", exactly(moment(grant.revoked_at_us), now))] if grant.HasField("revoked_at_us") else []),
                *([("because", grant.revoked_reason)] if grant.revoked_reason else []),
            ],
        ),
        section("Certificates", certificate_rows(grant.certificates, now)),
        section("Tokens", _token_rows(grant, now)),
    )
