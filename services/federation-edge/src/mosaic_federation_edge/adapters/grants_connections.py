"""Connections from the grants service, which releases only those of the user whose own token comes along."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import grpc
from mosaic.grants.v1 import ledger_pb2, ledger_pb2_grpc
from mosaic_common.errors import Layer, Reason, Unavailable
from mosaic_common.rpc.client import answer_of

from mosaic_federation_edge.domain.connections import Connection
from mosaic_federation_edge.domain.query_source import no_such_connection

RELEASE_SECONDS: Final = 2.0
HELD_SECONDS: Final = 5.0
# A name that is not there is looked for again at once, but not at any rate: each release is audited.
FRESH_SECONDS: Final = 1.0
MAX_USERS: Final = 1024


@dataclass(frozen=True, slots=True)
class _Held:
    connections: Sequence[Connection]
    released_at: float


class GrantsConnections:
    """PeerCredentialService of this gateway, with what it released held in memory for seconds."""

    def __init__(self, channel: grpc.aio.Channel, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stub: Final = ledger_pb2_grpc.PeerCredentialServiceStub(channel)
        self._monotonic: Final = monotonic
        self._held: Final[OrderedDict[UUID, _Held]] = OrderedDict()

    async def get_all(self, user_id: UUID, user_token: str, *, seconds: float) -> Sequence[Connection]:
        return await self._released(user_id, user_token, HELD_SECONDS, seconds)

    async def get(self, user_id: UUID, user_token: str, name: str, *, seconds: float) -> Connection:
        for max_age in (HELD_SECONDS, FRESH_SECONDS):
            named = [each for each in await self._released(user_id, user_token, max_age, seconds) if each.name == name]
            if len(named) == 1:
                return named[0]
        raise no_such_connection()

    def drop(self, user_id: UUID) -> None:
        self._held.pop(user_id, None)

    def sweep(self) -> None:
        """Forget keys that nobody asks for any more."""
        now = self._monotonic()
        for user_id in [each for each, held in self._held.items() if now - held.released_at > HELD_SECONDS]:
            del self._held[user_id]

    async def _released(self, user_id: UUID, user_token: str, max_age_seconds: float, seconds: float) -> Sequence[Connection]:
        now = self._monotonic()
        held = self._held.get(user_id)
        if held is not None and now - held.released_at <= max_age_seconds:
            return held.connections
        request = ledger_pb2.GetPeerCredentialRequest(user_token=user_token)
        releasing = self._stub.GetPeerCredential(request, timeout=min(RELEASE_SECONDS, seconds))
        response = await answer_of(releasing, dependency="grants")
        try:
            if UUID(response.user_id) != user_id:
                raise ValueError("the credentials are another user's")
            connections = tuple(_parse(each) for each in response.credentials)
        except ValueError as error:
            raise Unavailable(
                Reason.DEPENDENCY_UNAVAILABLE,
                "The grants service gave connections that cannot be used.",
                layer=Layer.DEPENDENCY,
                remedy="Run the same release of grants and of the edge.",
                metadata={"dependency": "grants"},
            ) from error
        self._held[user_id] = _Held(connections, now)
        self._held.move_to_end(user_id)
        if len(self._held) > MAX_USERS:
            self._held.popitem(last=False)
        return connections


def _parse(credential: ledger_pb2.PeerCredential) -> Connection:
    return Connection(
        peer_id=UUID(credential.peer_id),
        name=credential.connection,
        remote_gateway=credential.remote_gateway,
        endpoint=credential.endpoint,
        key_pem=credential.client_key_pem,
        chain_pem=credential.client_chain_pem,
        trust_bundle_pem=credential.trust_bundle_pem,
    )
