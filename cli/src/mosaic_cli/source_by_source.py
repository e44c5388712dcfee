"""Every source asked by itself, so that one that is slow keeps no row of another waiting."""

from collections.abc import Iterator

from mosaic.federation.v1 import query_pb2
from mosaic.federation.v1.query_pb2 import ListSourcesRequest, QueryRequest, QueryResponse, SourceResult
from mosaic_common.errors import Code, MosaicError, Unavailable

from mosaic_cli.asking import LOCAL
from mosaic_cli.connection import User
from mosaic_cli.failures import CommandFailed


def answers_as_they_come(gateway: User, request: QueryRequest) -> Iterator[tuple[str, QueryResponse]]:
    """Ask each of the user's sources what would be asked of all, and yield each with its answer when that is there.

    Where this gateway cannot name the sources, the one answer of all says what is here and what is missing.

    Raises:
        MosaicError, CommandFailed: this gateway refused, or does not answer. What befalls one connection is an answer of it.
    """
    try:
        sources = gateway.ask(gateway.query.ListSources, ListSourcesRequest()).sources
    except Unavailable:
        yield request.source, gateway.ask(gateway.query.Query, request)
        return
    for asked, answer in gateway.ask_at_once(gateway.query.Query, [_of_one(request, source) for source in sources]):
        if isinstance(answer, QueryResponse):
            yield asked.source, answer
        elif asked.source == LOCAL:
            raise answer
        else:
            yield asked.source, _without_rows(asked.source, answer)


def _of_one(request: QueryRequest, source: str) -> QueryRequest:
    of_one = QueryRequest()
    of_one.CopyFrom(request)
    of_one.source = source
    return of_one


def _without_rows(source: str, failed: MosaicError | CommandFailed) -> QueryResponse:
    """What a query of all would have said of the source."""
    told = SourceResult(source=source, status=_status_of(failed), reason=failed.reason, message=failed.message)
    return QueryResponse(partial=True, sources=[told])


def _status_of(failed: MosaicError | CommandFailed) -> query_pb2.SourceStatus.ValueType:
    match failed.status.code if isinstance(failed, MosaicError) else Code.UNAVAILABLE:
        case Code.UNAVAILABLE | Code.INTERNAL | Code.DATA_LOSS:
            return query_pb2.SOURCE_STATUS_UNAVAILABLE
        case Code.DEADLINE_EXCEEDED:
            return query_pb2.SOURCE_STATUS_TIMEOUT
        case Code.RESOURCE_EXHAUSTED:
            return query_pb2.SOURCE_STATUS_RATE_LIMITED
        case _:
            return query_pb2.SOURCE_STATUS_DENIED
