"""Peers, as a person reads them: who may ask us, and whom our users ask."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from mosaic.grants.v1.types_pb2 import PEER_DIRECTION_OUTBOUND, PEER_STATE_REVOKED, Peer
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.certificates import EnrolledCertificate
from mosaic_cli.documents import state_of
from mosaic_cli.tables import (
    Cell,
    details,
    exactly,
    identifier,
    plain,
    properties,
    quiet,
    rows,
    section,
    stacked,
    state,
    warnings,
    when,
)
from mosaic_cli.times import moment, relative
from mosaic_cli.views.audit import recent_section
from mosaic_cli.views.certificates import certificate_rows, enrolled_lines

_ARROWS = {"inbound": "← asks us", "outbound": "→ we ask"}


def peer_list(peers: Sequence[Peer], now: datetime) -> RenderableType:
    return rows(
        ("NAME", "DIRECTION", "STATE", "OUR USER", "LAST SEEN", "CREATED", "ID"),
        (
            (
                peer.name,
                _direction(peer),
                _state(peer),
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
        _title(peer),
        warnings(_troubles(peer, now)),
        properties(_lines(peer, now)),
        section("Certificates", certificate_rows(peer.certificates, now)) if peer.certificates else None,
        recent_section(peer.recent, now) if peer.recent else None,
    )


def connection_sheet(peer: Peer, certificate: EnrolledCertificate | None, now: datetime) -> RenderableType:
    """A connection just made: the peer, and the certificate that it was given."""
    return stacked(
        details(_title(peer), _lines(peer, now)),
        details(Text("Certificate", style="bold"), enrolled_lines(certificate, now)) if certificate else None,
    )


def _title(peer: Peer) -> Text:
    return Text.assemble(("Peer ", "bold"), plain(peer.name), "  ", _state(peer))


def _state(peer: Peer) -> Text:
    """Ours, and beside it that the other side refuses: an active connection that answers nothing is no riddle then."""
    own = state(state_of(peer, "state"))
    return Text.assemble(own, ("  ✗ refused", "red")) if _is_refused(peer) else own


def _is_refused(peer: Peer) -> bool:
    """What was refused before it was revoked here is no trouble any more."""
    return peer.HasField("refusal") and peer.state != PEER_STATE_REVOKED


def _troubles(peer: Peer, now: datetime) -> Iterator[str]:
    if _is_refused(peer):
        refusal = peer.refusal
        yield f"{state_of(refusal, 'reason').upper()}, {relative(moment(refusal.time_us), now)}: {refusal.sentence}"
    if peer.enrollment_pending:
        yield (
            "An enrollment was begun and not finished: run the same `mosaic federation peer add` again with the same URL, or with "
            "a new one if that has expired."
        )


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
        yield "because", peer.revoked_reason or quiet("no reason was given")


def _seen(peer: Peer) -> datetime | None:
    return moment(peer.last_seen_at_us) if peer.HasField("last_seen_at_us") else None


def _direction(peer: Peer) -> str:
    name = state_of(peer, "direction")
    return _ARROWS.get(name, name)
