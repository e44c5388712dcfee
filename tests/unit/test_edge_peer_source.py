"""Asking a peer: what it says of us is what its source says, whatever else is down here."""

from typing import Any, Final, cast
from uuid import UUID

import pytest
from mosaic_common.errors import AccessDenied, Layer, Reason, Unavailable
from mosaic_federation_edge.api.query import _heed_own_refusal
from mosaic_federation_edge.domain.connections import Connection
from mosaic_federation_edge.domain.fan_out import SourceAnswer, SourceFailed, SourceStatus
from mosaic_federation_edge.domain.peer_source import Asker, PeerSource
from mosaic_federation_edge.domain.query_source import LOCAL
from mosaic_federation_edge.domain.questions import GetCapabilities

CONNECTION: Final = Connection(UUID(int=1), "work", "work", "127.0.0.1:1", b"key", b"chain", b"roots")


class Away:
    """A grants service that does not answer, and what it is told all the same."""

    def __init__(self) -> None:
        self.reported: list[Reason] = []

    def drop(self, _user_id: UUID) -> None:
        return None

    async def get(self, *_: object, **__: object) -> Connection:
        raise Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "grants cannot be reached.", layer=Layer.DEPENDENCY)

    def report(self, _token: str, _peer_id: UUID, refusal: Any, *_: object) -> None:
        self.reported.append(refusal.reason)


class Refusing:
    """A peer whose gateway has revoked our certificate."""

    async def ask(self, *_: object, **__: object) -> Any:
        raise SourceFailed(SourceStatus.DENIED, "The peer refused.", Reason.CERTIFICATE_REVOKED, refuses_us=True)

    def drop(self, _connection: Connection) -> None:
        return None


async def test_a_refusal_stays_one_when_nobody_can_say_what_is_newer() -> None:
    """With grants away there is no other certificate to try: the peer's refusal is told and reported, not our own outage."""
    grants = Away()
    source: PeerSource[Any] = PeerSource(cast(Any, grants), cast(Any, grants), Refusing())
    with pytest.raises(SourceFailed) as failed:
        await source.ask(Asker(UUID(int=2), "token"), CONNECTION, GetCapabilities(), "", 1.0)
    assert (failed.value.status, failed.value.reason) == (SourceStatus.DENIED, Reason.CERTIFICATE_REVOKED)
    assert grants.reported == [Reason.CERTIFICATE_REVOKED]


def test_only_a_user_who_is_not_active_is_told_so() -> None:
    """Whatever else the own database refuses is an answer of the source local."""
    _heed_own_refusal([SourceAnswer(LOCAL, SourceStatus.DENIED, 0, "There is no such search.", Reason.REQUEST_INVALID)])
    with pytest.raises(AccessDenied, match="not active"):
        _heed_own_refusal([SourceAnswer(LOCAL, SourceStatus.DENIED, 0, "", Reason.SUBJECT_INACTIVE)])
