"""What is asked, and of whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import grpc
from mosaic.federation.v1 import federation_pb2, query_pb2
from mosaic_common.resources import REGISTRY

from tests.benchmarks.reads.load import Connection, Round, Target, measure
from tests.benchmarks.reads.sites import Home, Site

PAGE: Final = 50
QUERIES: Final = 200
EMBEDDINGS: Final = 20

BARE: Final = "bare"
LIST: Final = "list"
ONE_CONNECTION: Final = "list, one connection"
LIST_BY_TCP: Final = "list, PostgreSQL by TCP"
GET: Final = "get"
SEARCH: Final = "search"
NEAREST: Final = "search by embedding"
ALL: Final = "all, three peers"

_FEDERATION: Final = "/mosaic.federation.v1.FederationService/"
_QUERY: Final = "/mosaic.federation.v1.QueryService/Query"


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of call.

    Attributes:
        server: the process that is measured, by its name in ``processes``.
        processes: name → pid of every process that takes part, the client aside.
    """

    name: str
    server: str
    target: Target
    method: str
    connections: Sequence[Connection]
    processes: Mapping[str, int]

    def measure(self, in_flight: int, seconds: float, warm_up_seconds: float) -> Round:
        return measure(
            self.target,
            self.method,
            self.connections,
            self.processes,
            in_flight=in_flight,
            seconds=seconds,
            warm_up_seconds=warm_up_seconds,
        )


async def inbound_variants(site: Site, server: str, processes: Mapping[str, int]) -> dict[str, Variant]:
    """Every read of the inbound edge that it answers, one connection for each caller."""
    asked = {
        LIST: ("ListResources", [[_list_request()]] * len(site.callers)),
        GET: ("GetResource", [await _get_requests(site, number) for number in range(len(site.callers))]),
        SEARCH: ("SearchResources", [_search_requests()] * len(site.callers)),
        NEAREST: ("SearchResources", [_nearest_requests()] * len(site.callers)),
    }
    variants = {
        name: Variant(name, server, site.target, _FEDERATION + method, site.connections(requests), processes)
        for name, (method, requests) in asked.items()
    }
    return {name: variant for name, variant in variants.items() if await _is_answered(site, variant)}


def on_one_connection(variant: Variant) -> Variant:
    return replace(variant, name=ONE_CONNECTION, connections=variant.connections[:1])


async def list_by_tcp(site: Site, server: str, processes: Mapping[str, int]) -> Variant:
    """The list of a gateway that asks its database by TCP."""
    return replace((await inbound_variants(site, server, processes))[LIST], name=LIST_BY_TCP)


def bare_variant(like: Variant, address: str, pid: int) -> Variant:
    """The same calls to the bare server."""
    return replace(like, name=BARE, server=BARE, target=replace(like.target, address=address), processes={BARE: pid})


def outbound_variant(home: Home, server: str, processes: Mapping[str, int]) -> Variant:
    request = query_pb2.QueryRequest(verb=federation_pb2.VERB_LIST, resources=["tasks"], source="all", page_size=PAGE)
    return Variant(ALL, server, home.target, _QUERY, [home.connection(request.SerializeToString())], processes)


def _list_request() -> bytes:
    return federation_pb2.ListResourcesRequest(resource="tasks", page_size=PAGE).SerializeToString()


async def _get_requests(site: Site, number: int) -> list[bytes]:
    """Rows that the caller sees, from all over the table: ids lie in it as they happen to."""
    page = await site.client(site.callers[number]).list("tasks", page_size=500)
    return [federation_pb2.GetResourceRequest(resource="tasks", id=row.id).SerializeToString() for row in page.resources]


def _search_requests() -> list[bytes]:
    return [
        federation_pb2.SearchResourcesRequest(resources=["tasks"], query=f"word{word}", page_size=PAGE).SerializeToString()
        for word in range(QUERIES)
    ]


def _nearest_requests() -> list[bytes]:
    random, embedding = Random(1), REGISTRY["memory"].embedding
    assert embedding is not None
    points = [[random.uniform(-0.5, 0.5) for _ in range(embedding.dimension)] for _ in range(EMBEDDINGS)]
    return [
        federation_pb2.SearchResourcesRequest(resources=["memory"], embedding=point, page_size=PAGE).SerializeToString()
        for point in points
    ]


async def _is_answered(site: Site, variant: Variant) -> bool:
    """Whether this release answers such calls at all."""
    caller = site.callers[0]
    channel: Any = site.client(caller)
    call = getattr(channel.stub, variant.method.rpartition("/")[2])
    request_type = getattr(federation_pb2, variant.method.rpartition("/")[2] + "Request")
    try:
        await call(request_type.FromString(variant.connections[0].requests[0]))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return False
    return True
