"""Every source asked by itself, so that one that is slow keeps no row of another waiting."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Final

from mosaic.federation.v1.query_pb2 import ListSourcesRequest, QueryRequest, QueryResponse

from mosaic_cli.connection import User

MAX_AT_ONCE: Final = 16


def answers_as_they_come(gateway: User, request: QueryRequest) -> Iterator[QueryResponse]:
    """Ask each of the user's sources what would be asked of all, and yield each answer when it is there.

    Raises:
        MosaicError, CommandFailed: this gateway refused, or does not answer; what a peer does is told in its answer.
    """
    sources = gateway.ask(gateway.query.ListSources, ListSourcesRequest()).sources
    with ThreadPoolExecutor(max_workers=MAX_AT_ONCE) as pool:
        asking = [pool.submit(_ask, gateway, request, source) for source in sources]
        try:
            for each in as_completed(asking):
                yield each.result()
        finally:
            _give_up(asking)


def _ask(gateway: User, request: QueryRequest, source: str) -> QueryResponse:
    of_one = QueryRequest()
    of_one.CopyFrom(request)
    of_one.source = source
    return gateway.ask(gateway.query.Query, of_one)


def _give_up(asking: list[Future[QueryResponse]]) -> None:
    for each in asking:
        each.cancel()
