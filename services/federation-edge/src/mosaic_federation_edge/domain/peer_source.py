"""Another gateway as a source: asked with what is held, once more with what is new, and reported on."""

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from uuid import UUID

from mosaic_common.errors import MosaicError

from mosaic_federation_edge.domain.connections import (
    OF_THE_CERTIFICATE,
    OF_THE_CONNECTION,
    Connection,
    Connections,
    PeerReads,
    PeerRefusal,
    Reports,
)
from mosaic_federation_edge.domain.fan_out import SourceFailed, SourcePage
from mosaic_federation_edge.domain.questions import Question

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Asker:
    """The local user who asks, and the bearer token that proves it to the grants service."""

    user_id: UUID
    token: str = field(repr=False)


class PeerSource(Generic[R]):
    """Every source `federated:…`."""

    def __init__(self, connections: Connections, reports: Reports, peers: PeerReads[R]) -> None:
        self._connections: Final = connections
        self._reports: Final = reports
        self._peers: Final = peers

    async def ask(self, asker: Asker, connection: Connection, question: Question, position: str, seconds: float) -> SourcePage[R]:
        """Ask the peer.

        Raises:
            SourceFailed: it gave no page.
        """
        try:
            page = await self._peers.ask(connection, question, position=position, seconds=seconds)
        except SourceFailed as failed:
            if failed.refuses_us:
                # What is held here may be out of date, and a key that is refused is held for nothing.
                self._connections.drop(asker.user_id)
                self._peers.drop(connection)
            renewed = await self._find_renewed(asker, connection, seconds) if failed.reason in OF_THE_CERTIFICATE else None
            if renewed is not None:
                return await self.ask(asker, renewed, question, position, seconds)
            if failed.reason in OF_THE_CONNECTION:
                self._reports.report(asker.token, connection.peer_id, PeerRefusal(failed.reason, failed.grant_status))
            raise
        self._reports.report(asker.token, connection.peer_id, None, page.audit_head)
        return page

    async def _find_renewed(self, asker: Asker, refused: Connection, seconds: float) -> Connection | None:
        """The same connection with another certificate: what is held here may be seconds older than a re-enrollment.

        None also where nobody can tell: the peer has refused, whatever else is down here.
        """
        try:
            now = await self._connections.get(asker.user_id, asker.token, refused.name, seconds=seconds)
        except MosaicError:
            return None
        return now if now.chain_pem != refused.chain_pem else None
