"""`mosaic federation peer`: the other gateways, as this one records them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

import typer
from mosaic.grants.v1.grants_pb2 import (
    ActivateConnectionRequest,
    CreatePeerRequest,
    DeletePeerRequest,
    GetPeerRequest,
    ListPeersRequest,
    PrepareConnectionRequest,
    PrepareConnectionResponse,
    ResumePeerRequest,
    RevokePeerRequest,
    SuspendPeerRequest,
)
from mosaic.grants.v1.types_pb2 import (
    PEER_DIRECTION_UNSPECIFIED,
    PEER_STATE_ACTIVE,
    PEER_STATE_UNSPECIFIED,
    Peer,
    PeerDirection,
    PeerState,
)
from mosaic_common.auth import Role
from mosaic_common.clock import SystemClock
from mosaic_common.errors import MosaicError
from mosaic_common.tokens import EnrollmentUrl, token_id

from mosaic_cli.certificates import EnrolledCertificate
from mosaic_cli.connection import Operator, operator
from mosaic_cli.dialing import enrollment_channel, establish_trust, verify_endpoint
from mosaic_cli.documents import enrolled_document, peer_document, peer_summary, state_of
from mosaic_cli.failures import CommandFailed
from mosaic_cli.filters import LimitOption, StateFilter, UserFilter
from mosaic_cli.options import ContextOption, OutputOption, ReasonOption, UserOption
from mosaic_cli.output import Terminal
from mosaic_cli.paging import pages
from mosaic_cli.prompts import (
    AcceptEndpointHostOption,
    UrlArgument,
    YesOption,
    confirm,
    confirm_endpoint_host,
    read_enrollment_url,
)
from mosaic_cli.redemption import Request, Waiting, redeem
from mosaic_cli.times import utc_now
from mosaic_cli.views.peers import connection_sheet, peer_list, peer_sheet

app = typer.Typer(no_args_is_help=True, add_completion=False)

PeerArgument = Annotated[str, typer.Argument(metavar="PEER", help="Name or id of the peer.", show_default=False)]


@app.command("create")
def create_peer(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, hyphens; its certificates bear it.")],
    *,
    display_name: Annotated[str, typer.Option("--display-name", metavar="TEXT", help="What people call it.")] = "",
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Register a gateway that may ask us."""
    with operator(target, Role.ADMIN) as gateway:
        peer = gateway.ask(gateway.peers.CreatePeer, CreatePeerRequest(name=name, display_name=display_name)).peer
    _show(peer, output)
    output.note(f"Next: mosaic federation grant create --user USER --peer {peer.name} --scope FILE")


@app.command("add")
def add_peer(
    url: UrlArgument = None,
    *,
    user: UserOption,
    name: Annotated[
        str, typer.Option("--name", "-n", metavar="NAME", help="Of the connection; otherwise the other gateway's.")
    ] = "",
    reenroll: Annotated[
        bool, typer.Option("--reenroll", help="A new key for the connection of this name, whose old one is lost.")
    ] = False,
    accept_endpoint_host: AcceptEndpointHostOption = False,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Connect one of our users to another gateway, by an enrollment URL made there.

    Without URL it is asked for, or read from a pipe: an argument can be seen by others. Interrupted, the same command continues.
    """
    offer = read_enrollment_url(url, output)
    request = PrepareConnectionRequest(
        user=user,
        name=name,
        remote_gateway=offer.gateway,
        common_name=offer.common_name,
        enrollment_address=offer.address,
        token_id=token_id(offer.token.public_key),
        reenroll=reenroll,
        pin=offer.pin or b"",
    )
    with operator(target, Role.ADMIN) as gateway:
        # 1. Our gateway makes and keeps the key, and refuses a name that is taken before the token is touched.
        prepared = gateway.ask(gateway.peers.PrepareConnection, request)
        if prepared.already_active:
            peer = prepared.peer
            output.note("This URL has made this connection before: nothing was left to do.")
        else:
            peer = _enroll(gateway, prepared, offer, accept_endpoint_host=accept_endpoint_host, output=output)
    certificate = EnrolledCertificate.find_active(peer)
    document = {**peer_document(peer), "certificate": enrolled_document(certificate) if certificate else None}
    output.show(document, lambda: connection_sheet(peer, certificate, utc_now()))
    if peer.state == PEER_STATE_ACTIVE:
        output.note(f"Next: mosaic federation query tasks --source federated:{peer.name} --user {user}")
    else:
        output.warn(f"The connection is {state_of(peer, 'state')}: `mosaic federation peer resume {peer.id}` lets it be used.")


@app.command("list")
def list_peers(
    *,
    direction: Annotated[PeerDirection.ValueType | None, StateFilter("--direction", Peer, "direction")] = None,
    state: Annotated[PeerState.ValueType | None, StateFilter("--state", Peer, "state")] = None,
    user: UserFilter = "",
    limit: LimitOption = None,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Peers, newest first: who may ask us, and whom our users ask."""
    request = ListPeersRequest(direction=direction or PEER_DIRECTION_UNSPECIFIED, state=state or PEER_STATE_UNSPECIFIED, user=user)
    with operator(target, Role.READ) as gateway:
        found = pages(gateway, gateway.peers.ListPeers, request, lambda page: page.peers, limit=limit)
        output.show_list("peers", found, peer_summary, lambda peers: peer_list(peers, utc_now()))


@app.command("show")
def show_peer(peer: PeerArgument, *, target: ContextOption, output: OutputOption) -> None:
    """One peer, with the certificates of its connection and what happened to it lately."""
    with operator(target, Role.READ) as gateway:
        found = gateway.ask(gateway.peers.GetPeer, GetPeerRequest(peer=peer)).peer
    _show(found, output)


@app.command("suspend")
def suspend_peer(peer: PeerArgument, *, target: ContextOption, output: OutputOption) -> None:
    """Refuse a peer until it is resumed; its grants and certificates stay."""
    with operator(target, Role.ADMIN) as gateway:
        suspended = gateway.ask(gateway.peers.SuspendPeer, SuspendPeerRequest(peer=peer)).peer
    _show(suspended, output)
    output.done(f"{suspended.name} is suspended; `mosaic federation peer resume` ends that.")


@app.command("resume")
def resume_peer(peer: PeerArgument, *, target: ContextOption, output: OutputOption) -> None:
    """Accept a suspended peer again."""
    with operator(target, Role.ADMIN) as gateway:
        resumed = gateway.ask(gateway.peers.ResumePeer, ResumePeerRequest(peer=peer)).peer
    _show(resumed, output)
    output.done(f"{resumed.name} is active again.")


@app.command("revoke")
def revoke_peer(
    peer: PeerArgument, *, reason: ReasonOption = "", yes: YesOption = False, target: ContextOption, output: OutputOption
) -> None:
    """Refuse a peer for good, and end its grants."""
    confirm(f"Revoke the peer {peer}, and every grant of it? It cannot be undone.", yes=yes)
    with operator(target, Role.ADMIN) as gateway:
        answer = gateway.ask(gateway.peers.RevokePeer, RevokePeerRequest(peer=peer, reason=reason))
    revoked, ended = answer.peer, answer.grants_revoked
    output.show({**peer_document(revoked), "grants_revoked": ended}, lambda: peer_sheet(revoked, utc_now()))
    grants = f", and {ended} grant{'' if ended == 1 else 's'} with it" if ended else ""
    output.done(f"{revoked.name} is revoked{grants}.")


@app.command("delete")
def delete_peer(peer: PeerArgument, *, yes: YesOption = False, target: ContextOption, output: OutputOption) -> None:
    """Forget a peer that never became active and has no grants."""
    confirm(f"Delete the peer {peer}?", yes=yes)
    with operator(target, Role.ADMIN) as gateway:
        gateway.ask(gateway.peers.DeletePeer, DeletePeerRequest(peer=peer))
    output.show_text({"peer": peer, "deleted": True}, f"The peer {peer} is deleted.")


def _enroll(
    gateway: Operator, prepared: PrepareConnectionResponse, url: EnrollmentUrl, *, accept_endpoint_host: bool, output: Terminal
) -> Peer:
    """Redeem the token with the prepared key, and hand our gateway what came back; every step may be repeated by a rerun."""
    clock = SystemClock()
    # 2. Whom the URL means is settled before the token signs anything.
    trust = establish_trust(url, clock.now())
    request = Request(prepared.csr_der, UUID(prepared.redemption_id))
    with enrollment_channel(url, trust) as channel:
        enrolled = redeem(channel, url, request, clock=clock, waiting=Waiting(output.note))
    with _said_to_be_resumable(output):
        # 3. Where queries will go is the last thing that the answer could lie about.
        confirmed = confirm_endpoint_host(enrolled.endpoint, url, accepted=accept_endpoint_host, terminal=output)
        verify_endpoint(enrolled.endpoint, trust)
        # 4. Only now does our gateway make it active, after its own look at the certificate.
        activation = ActivateConnectionRequest(
            peer_id=prepared.peer.id,
            certificate_der=enrolled.certificate.der,
            chain_der=enrolled.certificate.chain_der,
            grant_id=str(enrolled.certificate.grant_id),
            subject_user_id=str(enrolled.certificate.subject_user_id),
            gateway=enrolled.gateway,
            federation_endpoint=str(enrolled.endpoint),
            pinned_root_der=trust.pinned_root_der or b"",
            endpoint_host_confirmed=confirmed,
        )
        return gateway.ask(gateway.peers.ActivateConnection, activation).peer


@contextmanager
def _said_to_be_resumable(output: Terminal) -> Iterator[None]:
    """Say with whatever ends the command now that the token is spent for this connection, and not lost to it."""
    try:
        yield
    except (MosaicError, CommandFailed, KeyboardInterrupt, typer.Abort):
        output.note(
            "The certificate was issued already: until the URL expires, the same command with it gets it again and continues."
        )
        raise


def _show(peer: Peer, output: Terminal) -> None:
    output.show(peer_document(peer), lambda: peer_sheet(peer, utc_now()))
