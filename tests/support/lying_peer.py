"""Another gateway's inbound edge in somebody else's hands: the right name under its own root, and whatever answers it likes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from mosaic.federation.v1 import federation_pb2, federation_pb2_grpc
from mosaic_common import pki
from mosaic_common.clock import SystemClock
from mosaic_common.identity import EDGE_INBOUND
from mosaic_common.pki import IdentityFolder, PkiDirectory

Page = federation_pb2.ListResourcesResponse
Behaviour = Callable[[Any, Any], Awaitable[Any]]


@dataclass(slots=True)
class LyingPeer(federation_pb2_grpc.FederationServiceServicer):
    """Answers whatever it is asked with ``behaviour``, which gets the request and the servicer context.

    Attributes:
        asked: what it was asked, in order.
    """

    name: str
    root_pem: bytes
    behaviour: Behaviour
    address: str = ""
    asked: list[Any] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def start(cls, folder: Path, name: str, behaviour: Behaviour, *options: tuple[str, int]) -> AsyncIterator[Self]:
        """Listen with the leaf of a service PKI of its own, made when the folder has none.

        Args:
            options: of the gRPC server.
        """
        leaf = leaf_of(folder, name)
        peer = cls(name, leaf.service_root.read_bytes(), behaviour)
        server = grpc.aio.server(options=options)
        federation_pb2_grpc.add_FederationServiceServicer_to_server(peer, server)
        pair = (leaf.public_certificate_key.read_bytes(), leaf.public_certificate.read_bytes())
        peer.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', grpc.ssl_server_credentials([pair]))}"
        await server.start()
        try:
            yield peer
        finally:
            await server.stop(grace=None)

    async def ListResources(self, request: federation_pb2.ListResourcesRequest, context: Any) -> Any:
        return await self._answer(request, context)

    async def GetResource(self, request: federation_pb2.GetResourceRequest, context: Any) -> Any:
        return await self._answer(request, context)

    async def SearchResources(self, request: federation_pb2.SearchResourcesRequest, context: Any) -> Any:
        return await self._answer(request, context)

    async def GetCapabilities(self, request: federation_pb2.GetCapabilitiesRequest, context: Any) -> Any:
        return await self._answer(request, context)

    async def _answer(self, request: Message, context: Any) -> Any:
        self.asked.append(request)
        return await self.behaviour(request, context)


def leaf_of(folder: Path, name: str) -> IdentityFolder:
    """The leaf of an inbound edge under a root of its own, made when the folder has none."""
    directory = PkiDirectory(folder / "pki")
    if not directory.root.certificate.exists():
        pki.init(directory.path, name, "localhost", clock=SystemClock())
    return directory.identity(EDGE_INBOUND)
