"""A user's connections to other gateways, and the port through which their keys come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar
from uuid import UUID

from mosaic_common.errors import Reason

from mosaic_federation_edge.domain.fan_out import SourcePage
from mosaic_federation_edge.domain.questions import Question


@dataclass(frozen=True, slots=True)
class Connection:
    """What it takes to ask one peer for one user. The key never leaves memory and never shows in a log.

    Attributes:
        name: within the user's own connections.
        endpoint: ``host:port`` of the peer's inbound edge.
        key_pem: PKCS#8.
        chain_pem: leaf first.
        trust_bundle_pem: the only roots that the peer's server certificate may lead to.
    """

    peer_id: UUID
    name: str
    remote_gateway: str
    endpoint: str
    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)
    trust_bundle_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PeerRefusal:
    """What another gateway says of a connection as a whole, not of one query.

    Attributes:
        grant_status: revoked, expired, or empty where it does not say.
    """

    reason: Reason
    grant_status: str


OF_THE_CERTIFICATE: Final = frozenset({Reason.CERTIFICATE_NOT_ACCEPTED, Reason.CERTIFICATE_NOT_PINNED, Reason.CERTIFICATE_REVOKED})
OF_THE_CONNECTION: Final = OF_THE_CERTIFICATE | frozenset(
    {
        Reason.GRANT_NOT_ACTIVE,
        Reason.PEER_NOT_ACTIVE,
        Reason.SUBJECT_MISMATCH,
        Reason.SUBJECT_INACTIVE,
    }
)


class Reports(Protocol):
    """Keeps, for this side's operators, how another gateway answers."""

    def report(self, user_token: str, peer_id: UUID, refusal: PeerRefusal | None, audit_head: bytes = b"") -> None:
        """Note a refusal, or with None that it answered, and what it says of its own record. Never waits, never fails."""


class Connections(Protocol):
    """The connections of users who are asking right now."""

    async def get_all(self, user_id: UUID, user_token: str, *, seconds: float) -> Sequence[Connection]:
        """Return the active connections of the user whose own bearer token this is.

        Args:
            seconds: how long it may take at most.

        Raises:
            AuthRefused: the grants service does not accept the token.
            Unavailable: it gave no answer.
        """
        ...

    async def get(self, user_id: UUID, user_token: str, name: str, *, seconds: float) -> Connection:
        """Return one connection.

        Raises:
            NotFound: the user has none of this name, or several.
            AuthRefused, Unavailable: as get_all.
        """
        ...

    def drop(self, user_id: UUID) -> None:
        """Forget what is held for a user: a peer refused it, so it may be out of date."""
        ...


R = TypeVar("R")


class PeerReads(Protocol[R]):
    """Another gateway, believed in nothing."""

    async def ask(self, connection: Connection, question: Question, *, position: str, seconds: float) -> SourcePage[R]:
        """Return a page that was checked: counts, types and bytes; source overwritten, times clamped.

        Raises:
            SourceFailed: refused, not reached, too late, or an answer that does not hold.
        """
        ...

    def drop(self, connection: Connection) -> None:
        """Ask through nothing that is open for this connection any more; what is being asked ends undisturbed."""
        ...
