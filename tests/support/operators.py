"""What an operator does to grants and peers, one call each."""

import asyncio
from uuid import UUID

import grpc
from mosaic.grants.v1 import grants_pb2, types_pb2
from mosaic_common.auth import Role

from tests.support.gateway import Gateway
from tests.support.peers import PeerClient


async def revoke_grant(gateway: Gateway, grant_id: UUID, reason: str = "over") -> types_pb2.Grant:
    request = grants_pb2.RevokeGrantRequest(id=str(grant_id), reason=reason)
    answer: grants_pb2.RevokeGrantResponse = await gateway.grants.RevokeGrant(request, metadata=gateway.operator_metadata())
    return answer.grant


async def delete_grant(gateway: Gateway, grant_id: UUID) -> None:
    await gateway.grants.DeleteGrant(grants_pb2.DeleteGrantRequest(id=str(grant_id)), metadata=gateway.operator_metadata())


async def grant_of(gateway: Gateway, grant_id: UUID) -> types_pb2.Grant:
    request, metadata = grants_pb2.GetGrantRequest(id=str(grant_id)), gateway.operator_metadata(Role.READ)
    answer: grants_pb2.GetGrantResponse = await gateway.grants.GetGrant(request, metadata=metadata)
    return answer.grant


async def peer_of(gateway: Gateway, peer: str) -> types_pb2.Peer:
    request, metadata = grants_pb2.GetPeerRequest(peer=peer), gateway.operator_metadata(Role.READ)
    answer: grants_pb2.GetPeerResponse = await gateway.peers.GetPeer(request, metadata=metadata)
    return answer.peer


async def suspend(gateway: Gateway, peer: str) -> None:
    await gateway.peers.SuspendPeer(grants_pb2.SuspendPeerRequest(peer=peer), metadata=gateway.operator_metadata())


async def resume(gateway: Gateway, peer: str) -> None:
    await gateway.peers.ResumePeer(grants_pb2.ResumePeerRequest(peer=peer), metadata=gateway.operator_metadata())


async def revoke(gateway: Gateway, peer: str) -> None:
    request = grants_pb2.RevokePeerRequest(peer=peer, reason="evicted")
    await gateway.peers.RevokePeer(request, metadata=gateway.operator_metadata())


async def delete(gateway: Gateway, peer: str) -> None:
    await gateway.peers.DeletePeer(grants_pb2.DeletePeerRequest(peer=peer), metadata=gateway.operator_metadata())


async def read_again(client: PeerClient) -> None:
    """Read, once the edge no longer believes what made it refuse: it does so for a second."""
    async with asyncio.timeout(20):
        while True:
            try:
                await client.list("tasks")
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return
