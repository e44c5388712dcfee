"""Peers, as a person reads them: who may ask us, and whom our users ask."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from mosaic.grants.v1.types_pb2 import PEER_DIRECTION_OUTBOUND, Peer
from mosaic_common.x509 import IssuedCertificate
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.documents import state_of
from mosaic_cli.tables import Cell, details, exactly, identifier, plain, quiet, rows, section, stacked, state, when
from mosaic_cli.times import moment
from mosaic_cli.views.certificates import certificate_rows, issued_lines

_ARROWS = {"inbound": "← asks us", "outbound": "→ we ask"}


def peer_list(peers: Sequence[Peer], now: datetime) -> RenderableType:
    return rows(
        ("NAME", "DIRECTION", "STATE", "OUR USER", "LAST SEEN", "CREATED", "ID"),
        (
            (
                peer.name,
                _direction(peer),
                state(state_of(peer, "state")),
                peer.local_user_email or quiet("–"),
                when(_seen(peer), now, absent="never"),
                when(moment(peer.created_at_us), now),
                identifier(peer.id),
            )
            for peer in peers
        ),
        empty="No peers.",
        whole=("DIRECTION", "STATE", "LAST SEEN", "CREATED", "ID"),
    )


def peer_sheet(peer: Peer, now: datetime) -> RenderableType:
    return stacked(
        details(_title(peer), _lines(peer, now)),
        section("Certificates", certificate_rows(peer.certificates, now)) if peer.certificates else None,
    )


def connection_sheet(peer: Peer, certificate: IssuedCertificate, now: datetime) -> RenderableType:
    """A connection just made: the peer, and the certificate that it was given."""
    return stacked(
        details(_title(peer), _lines(peer, now)),
        details(Text("Certificate", style="bold"), issued_lines(certificate, now)),
    )


def _title(peer: Peer) -> Text:
    return Text.assemble(("Peer ", "bold"), plain(peer.name), "  ", state(state_of(peer, "state")))


def _lines(peer: Peer, now: datetime) -> Iterator[tuple[str, Cell]]:
    yield "id", identifier(peer.id)
    if peer.display_name:
        yield "called", peer.display_name
    yield "direction", _direction(peer)
    yield "common name", peer.common_name
    if peer.direction == PEER_DIRECTION_OUTBOUND:
        yield "gateway", peer.remote_gateway or quiet("–")
        yield "endpoint", peer.endpoint or quiet("–")
        yield "our user", Text.assemble(plain(peer.local_user_email or "(gone)"), "  ", quiet(peer.local_user_id))
        yield "their grant", identifier(peer.remote_grant_id) if peer.remote_grant_id else quiet("–")
        yield "acts there as", identifier(peer.remote_subject_user_id) if peer.remote_subject_user_id else quiet("–")
    yield "created", Text.assemble(exactly(moment(peer.created_at_us), now), " by ", plain(peer.created_by))
    yield "last seen", exactly(_seen(peer), now, absent="never")
    if peer.HasField("revoked_at_us"):
        yield "revoked", exactly(moment(peer.revoked_at_us), now)


def _seen(peer: Peer) -> datetime | None:
    return moment(peer.last_seen_at_us) if peer.HasField("last_seen_at_us") else None


def _direction(peer: Peer) -> str:
    name = state_of(peer, "direction")
    return _ARROWS.get(name, name)
