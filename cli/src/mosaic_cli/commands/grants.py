"""`mosaic federation grant`: permissions that this gateway gives."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from mosaic.grants.v1.grants_pb2 import (
    CreateEnrollmentTokenRequest,
    CreateGrantRequest,
    DeleteGrantRequest,
    GetGrantRequest,
    LimitGrantRequest,
    ListGrantsRequest,
    RevokeGrantRequest,
)
from mosaic.grants.v1.types_pb2 import GRANT_STATUS_UNSPECIFIED, Grant, GrantStatus, RateLimit
from mosaic_common.auth import Role
from mosaic_common.tokens import EnrollmentOffer, EnrollmentToken, token_id

from mosaic_cli.commands.explain import explain_grant, preview_grant
from mosaic_cli.connection import operator
from mosaic_cli.documents import grant_document, grant_summary
from mosaic_cli.filters import LimitOption, PeerFilter, StateFilter, UserFilter
from mosaic_cli.options import ContextOption, DurationOption, GrantArgument, OutputOption, ReasonOption, UserOption
from mosaic_cli.output import Terminal
from mosaic_cli.paging import pages
from mosaic_cli.prompts import YesOption, confirm
from mosaic_cli.scopes import read_scope_text
from mosaic_cli.times import absolute, iso, moment, utc_now
from mosaic_cli.views.grants import grant_list, grant_sheet, sensitive_resources

app = typer.Typer(no_args_is_help=True, add_completion=False)

RateOption = Annotated[
    int | None, typer.Option("--rate", min=1, metavar="N", help="Calls a second; otherwise the gateway's own limit.")
]
BurstOption = Annotated[
    int | None, typer.Option("--burst", min=1, metavar="M", help="Calls at once; a search counts as ten. With --rate.")
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
    rate: RateOption = None,
    burst: BurstOption = None,
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
        limit=_limit(rate, burst),
    )
    with operator(target, Role.ADMIN) as gateway:
        grant = gateway.ask(gateway.grants.CreateGrant, request).grant
    _show(grant, output)
    if approved := sensitive_resources(grant) if approve_sensitive else ():
        output.warn(
            f"You approved that {grant.peer_name} may read {' and '.join(approved)} of {grant.subject_email}; "
            "the audit log keeps your name with it."
        )
    output.note(f"Next: mosaic federation grant token {grant.id}")


@app.command("list")
def list_grants(
    *,
    peer: PeerFilter = "",
    status: Annotated[GrantStatus.ValueType | None, StateFilter("--status", Grant, "status")] = None,
    user: UserFilter = "",
    limit: LimitOption = None,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Grants, newest first."""
    request = ListGrantsRequest(peer=peer, status=status or GRANT_STATUS_UNSPECIFIED, user=user)
    with operator(target, Role.READ) as gateway:
        found = pages(gateway, gateway.grants.ListGrants, request, lambda page: page.grants, limit=limit)
        output.show_list("grants", found, grant_summary, lambda grants: grant_list(grants, utc_now()))


@app.command("show")
def show_grant(grant: GrantArgument, *, target: ContextOption, output: OutputOption) -> None:
    """One grant, with its certificates, its tokens and what happened to it lately."""
    with operator(target, Role.READ) as gateway:
        found = gateway.ask(gateway.grants.GetGrant, GetGrantRequest(id=grant)).grant
    _show(found, output)


@app.command("limit")
def limit_grant(
    grant: GrantArgument,
    *,
    rate: RateOption = None,
    burst: BurstOption = None,
    default: Annotated[bool, typer.Option("--default", help="Back to the gateway's own limit.")] = False,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Set how much a grant may ask; in force within seconds."""
    limit = _limit(rate, burst)
    if default == (limit is not None):
        raise typer.BadParameter("give --rate and --burst, or --default.")
    with operator(target, Role.ADMIN) as gateway:
        limited = gateway.ask(gateway.grants.LimitGrant, LimitGrantRequest(id=grant, limit=limit)).grant
    _show(limited, output)


@app.command("revoke")
def revoke_grant(
    grant: GrantArgument, *, reason: ReasonOption = "", yes: YesOption = False, target: ContextOption, output: OutputOption
) -> None:
    """End a grant and its certificates for good.

    In force at once, on open connections too.
    """
    confirm(f"Revoke the grant {grant}? It cannot be undone.", yes=yes)
    with operator(target, Role.ADMIN) as gateway:
        revoked = gateway.ask(gateway.grants.RevokeGrant, RevokeGrantRequest(id=grant, reason=reason)).grant
    _show(revoked, output)
    output.done(f"The grant {revoked.id} is revoked: {revoked.peer_name} reads nothing more by it.")


@app.command("delete")
def delete_grant(grant: GrantArgument, *, yes: YesOption = False, target: ContextOption, output: OutputOption) -> None:
    """Forget a grant that never became active."""
    confirm(f"Delete the grant {grant}, and its enrollment URL with it?", yes=yes)
    with operator(target, Role.ADMIN) as gateway:
        gateway.ask(gateway.grants.DeleteGrant, DeleteGrantRequest(id=grant))
    output.show_text({"id": grant, "deleted": True}, f"The grant {grant} is deleted.")


@app.command("token")
def make_token(
    grant: GrantArgument,
    *,
    ttl: Annotated[
        timedelta | None, DurationOption("--ttl", help="How long it can be redeemed; at most, and otherwise, 15m.")
    ] = None,
    reenroll: Annotated[
        bool,
        typer.Option("--reenroll", help="For an active grant whose key is lost: redeeming it revokes every older certificate."),
    ] = False,
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
        reenroll=reenroll,
    )
    with operator(target, Role.ADMIN) as gateway:
        answer = gateway.ask(gateway.grants.CreateEnrollmentToken, request)
    url = EnrollmentOffer.parse(answer.url_without_token).with_token(token).format()
    name, expires_at = token_id(token.public_key).hex(), moment(answer.token.expires_at_us)
    output.show_text({"url": url, "token_id": name, "grant_id": grant, "expires_at": iso(expires_at)}, url)
    output.note(f"token id  {name}")
    output.note(f"expires   {absolute(expires_at, utc_now())}")
    output.note("Shown this once and good for one redemption: hand it over where nobody else reads it.")
    if reenroll:
        output.note("A gateway redeems it with `mosaic federation peer add --reenroll`.")


app.command("preview")(preview_grant)
app.command("explain")(explain_grant)


def _limit(rate: int | None, burst: int | None) -> RateLimit | None:
    if rate is None and burst is None:
        return None
    if rate is None or burst is None:
        raise typer.BadParameter("--rate and --burst are given together.")
    return RateLimit(per_second=rate, burst=burst)


def _show(grant: Grant, output: Terminal) -> None:
    output.show(grant_document(grant), lambda: grant_sheet(grant, utc_now()))
