"""`mosaic federation peer`: the other gateways, as this one records them."""

from collections.abc import Iterator
from typing import Annotated, Final
from uuid import UUID

import typer
from mosaic.grants.v1.grants_pb2 import (
    ActivateConnectionRequest,
    CreatePeerRequest,
    GetPeerRequest,
    ListPeersRequest,
    PrepareConnectionRequest,
)
from mosaic.grants.v1.types_pb2 import Peer
from mosaic_common.auth import Role
from mosaic_common.clock import SystemClock

from mosaic_cli.connection import Operator, operator
from mosaic_cli.dialing import enrollment_channel, establish_trust, verify_endpoint
from mosaic_cli.documents import issued_document, peer_document
from mosaic_cli.options import ContextOption, OutputOption, UserOption
from mosaic_cli.output import Terminal
from mosaic_cli.prompts import AcceptEndpointHostOption, UrlArgument, confirm_endpoint_host, read_enrollment_url
from mosaic_cli.redemption import Request, Waiting, redeem
from mosaic_cli.times import utc_now
from mosaic_cli.views.peers import connection_sheet, peer_list, peer_sheet

app = typer.Typer(no_args_is_help=True, add_completion=False)

PAGE_SIZE: Final = 500

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
    accept_endpoint_host: AcceptEndpointHostOption = False,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Connect one of our users to another gateway, by an enrollment URL made there.

    Without URL it is asked for, or read from a pipe: an argument can be seen by others. Interrupted, the same command continues.
    """
    offer = read_enrollment_url(url, output)
    clock = SystemClock()
    with operator(target, Role.ADMIN) as gateway:
        # 1. Our gateway makes and keeps the key, and refuses a name that is taken before the token is touched.
        prepared = gateway.ask(
            gateway.peers.PrepareConnection,
            PrepareConnectionRequest(
                user=user, name=name, remote_gateway=offer.gateway, common_name=offer.common_name, enrollment_address=offer.address
            ),
        )
        # 2. Whom the URL means is settled before the token signs anything.
        trust = establish_trust(offer, clock.now())
        request = Request(prepared.csr_der, UUID(prepared.redemption_id))
        with enrollment_channel(offer, trust) as channel:
            enrolled = redeem(channel, offer, request, clock=clock, waiting=Waiting(output.note))
        # 3. Where queries will go is the last thing that the answer could lie about.
        confirmed = confirm_endpoint_host(enrolled.endpoint, offer, accepted=accept_endpoint_host, terminal=output)
        verify_endpoint(enrolled.endpoint, trust)
        # 4. Only now does our gateway make it active, after its own look at the certificate.
        peer = gateway.ask(
            gateway.peers.ActivateConnection,
            ActivateConnectionRequest(
                peer_id=prepared.peer.id,
                certificate_der=enrolled.certificate.der,
                chain_der=enrolled.certificate.chain_der,
                grant_id=str(enrolled.certificate.grant_id),
                subject_user_id=str(enrolled.certificate.subject_user_id),
                gateway=enrolled.gateway,
                federation_endpoint=str(enrolled.endpoint),
                pinned_root_der=trust.pinned_root_der or b"",
                endpoint_host_confirmed=confirmed,
            ),
        ).peer
    document = {**peer_document(peer), "certificate": issued_document(enrolled.certificate)}
    output.show(document, lambda: connection_sheet(peer, enrolled.certificate, clock.now()))
    output.note(f"Next: mosaic federation query tasks --source federated:{peer.name} --user {user}")


@app.command("list")
def list_peers(*, target: ContextOption, output: OutputOption) -> None:
    """Peers, newest first: who may ask us, and whom our users ask."""
    with operator(target, Role.READ) as gateway:
        peers = list(_pages(gateway, ListPeersRequest(page_size=PAGE_SIZE)))
    output.show({"peers": [peer_document(each) for each in peers]}, lambda: peer_list(peers, utc_now()))


@app.command("show")
def show_peer(peer: PeerArgument, *, target: ContextOption, output: OutputOption) -> None:
    """One peer, with the certificates of its connection."""
    with operator(target, Role.READ) as gateway:
        found = gateway.ask(gateway.peers.GetPeer, GetPeerRequest(peer=peer)).peer
    _show(found, output)


def _show(peer: Peer, output: Terminal) -> None:
    output.show(peer_document(peer), lambda: peer_sheet(peer, utc_now()))


def _pages(gateway: Operator, request: ListPeersRequest) -> Iterator[Peer]:
    while True:
        page = gateway.ask(gateway.peers.ListPeers, request)
        yield from page.peers
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
