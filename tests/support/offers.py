"""A grant that waits to be redeemed, with nobody else's state in it: own user, own peer, own token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID, uuid4

from mosaic_common.tokens import EnrollmentUrl, token_id

from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.peers import PeerClient
from tests.support.rows import Rows


@dataclass(frozen=True, slots=True)
class Offer:
    """What one operator has given, and the other one holds."""

    gateway: Gateway
    grant_id: UUID
    subject: UUID
    url: EnrollmentUrl

    @classmethod
    async def make(cls, gateway: Gateway, scope: Mapping[str, object] = TASKS_NOTES_MEMORY) -> Self:
        """A pending grant for a new user to a new peer, and its token."""
        with gateway.database.connect() as owner:
            subject = Rows(owner).user()
        grant_id = await gateway.create_grant(user=str(subject), peer=f"peer-{uuid4().hex}", scope=scope)
        return cls(gateway, UUID(grant_id), subject, await gateway.create_token(grant_id))

    @property
    def token_id(self) -> bytes:
        return token_id(self.url.token.public_key)

    async def enroll(self) -> PeerClient:
        """Redeem it and be the peer."""
        return self.gateway.peer_client(await self.gateway.redeem(self.url))

    def standing(self) -> tuple[str, str, int]:
        """Grant status, peer state, and how many certificates are pinned for the grant."""
        (row,) = self.gateway.rows(
            "SELECT g.status, p.state, (SELECT count(*) FROM federation.federation_certificates c WHERE c.grant_id = g.id)"
            " FROM federation.federation_grants g JOIN federation.federation_peers p ON p.id = g.peer_id WHERE g.id = %s",
            self.grant_id,
        )
        status, state, certificates = row
        return status, state, certificates

    def redemptions(self) -> list[tuple[Any, ...]]:
        """Event, outcome, layer and reason of what was recorded of the token since it was made, oldest first."""
        return self.gateway.rows(
            "SELECT event, outcome, denied_layer, denied_reason FROM federation.federation_audit_log"
            " WHERE token_id = %s AND event <> 'token.created' ORDER BY time_us, seq",
            self.token_id,
        )
