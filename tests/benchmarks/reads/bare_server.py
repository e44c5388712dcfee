"""``python -m tests.benchmarks.reads.bare_server``: what grpc.aio itself costs, and nothing else.

A grpc.aio server on uvloop behind the same mTLS. It decodes the request and builds the same answer as the complete edge gave once,
row by row, by setting fields: no wrapper, no decision, no database, no audit. Its arguments: address, certificate, key, client
roots, and a file with that answer. It writes a line once it listens.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop
from mosaic.federation.v1 import federation_pb2 as pb

METHOD = "ListResources"
SERVICE = "mosaic.federation.v1.FederationService"


class Bare:
    """Builds one answer, over and over."""

    def __init__(self, answer: pb.ListResourcesResponse) -> None:
        self._head = pb.ListResourcesResponse()
        self._head.CopyFrom(answer)
        del self._head.resources[:]
        self._rows = [
            (
                row.id,
                row.source,
                row.updated_at_us,
                row.owner_id,
                row.team_id if row.HasField("team_id") else None,
                row.task.title,
                row.task.description,
                row.task.status,
                row.task.due_at_us if row.task.HasField("due_at_us") else None,
            )
            for row in answer.resources
        ]

    async def list_resources(self, _request: pb.ListResourcesRequest, _context: Any) -> pb.ListResourcesResponse:
        response = pb.ListResourcesResponse()
        # All but the rows: a token and a name.
        response.CopyFrom(self._head)
        rows = response.resources
        for row_id, source, updated_at_us, owner_id, team_id, title, description, status, due_at_us in self._rows:
            row = rows.add()
            row.id = row_id
            row.source = source
            row.updated_at_us = updated_at_us
            row.owner_id = owner_id
            if team_id is not None:
                row.team_id = team_id
            task = row.task
            task.title = title
            task.description = description
            task.status = status
            if due_at_us is not None:
                task.due_at_us = due_at_us
        return response


async def serve(address: str, certificate: bytes, key: bytes, client_roots: bytes, answer: bytes) -> None:
    bare = Bare(pb.ListResourcesResponse.FromString(answer))
    server: Any = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler = grpc.unary_unary_rpc_method_handler(
        bare.list_resources,
        request_deserializer=pb.ListResourcesRequest.FromString,
        response_serializer=pb.ListResourcesResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    credentials = grpc.ssl_server_credentials([(key, certificate)], client_roots, require_client_auth=True)
    server.add_secure_port(address, credentials)
    await server.start()
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], *(Path(file).read_bytes() for file in sys.argv[2:])))
