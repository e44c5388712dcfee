"""QueryRequest to a question and the sources that it is asked of."""

from dataclasses import dataclass

from mosaic.federation.v1 import federation_pb2
from mosaic.federation.v1 import query_pb2 as pb
from mosaic_common.decision import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from mosaic_common.errors import InvalidInput, Layer, Reason, Violation
from mosaic_common.resources import REGISTRY

from mosaic_federation_edge.domain.query_source import Chosen, parse_source
from mosaic_federation_edge.domain.questions import GetCapabilities, GetRow, ListRows, Question, SearchRows
from mosaic_federation_edge.domain.row_id import parse_row_id
from mosaic_federation_edge.domain.search import parse_search

_SEARCH: frozenset[str] = frozenset({"query", "embedding"})
_PAGES: frozenset[str] = frozenset({"page_size", "page_token"})
_UNUSED: dict[int, tuple[str, frozenset[str]]] = {
    federation_pb2.VERB_LIST: ("list", _SEARCH | {"id"}),
    federation_pb2.VERB_GET: ("get", _SEARCH | _PAGES),
    federation_pb2.VERB_SEARCH: ("search", frozenset({"id", "page_token"})),
    federation_pb2.VERB_CAPABILITIES: ("query for capabilities", _SEARCH | _PAGES | {"id", "resources"}),
}


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, and of whom."""

    question: Question
    chosen: Chosen


def parse_query(request: pb.QueryRequest) -> Query:
    """Read a query.

    Raises:
        InvalidInput: verb, resources, source, page size, id, search, or a field that the verb has no use for.
        NotFound: a connection of a name that none can have.
    """
    if request.verb not in _UNUSED:
        raise _invalid(
            Reason.REQUEST_INVALID,
            "There is no such query.",
            "verb",
            "must be VERB_LIST, VERB_GET, VERB_SEARCH or VERB_CAPABILITIES",
        )
    verb, unused = _UNUSED[request.verb]
    # What would be ignored is said to be wrong: whoever sent it believes that it counts.
    if violations := [Violation(name, f"must be absent from a {verb}") for name in sorted(unused) if getattr(request, name)]:
        raise InvalidInput(
            Reason.REQUEST_INVALID, "Something of this query would not count.", layer=Layer.REQUEST, violations=violations
        )
    return Query(_parse_question(request), parse_source(request.source))


def _parse_question(request: pb.QueryRequest) -> Question:
    if request.verb == federation_pb2.VERB_CAPABILITIES:
        return GetCapabilities()
    resources = tuple(dict.fromkeys(request.resources))
    if request.verb != federation_pb2.VERB_SEARCH and len(request.resources) != 1:
        raise _invalid(Reason.REQUEST_INVALID, "A list or a get names one resource.", "resources", "must hold exactly one name")
    if not resources or any(name not in REGISTRY for name in resources):
        raise _invalid(Reason.RESOURCE_UNKNOWN, "There is no such resource.", "resources", f"must be of {', '.join(REGISTRY)}")
    if request.verb == federation_pb2.VERB_GET:
        return GetRow(resources[0], parse_row_id(request.id))
    if request.page_size < 0:
        raise _invalid(
            Reason.PAGE_SIZE_INVALID, "The page size cannot be negative.", "page_size", "must be 0, for the default, or positive"
        )
    page_size = min(request.page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
    if request.verb == federation_pb2.VERB_SEARCH:
        return SearchRows(parse_search(resources, request.query, request.embedding), page_size)
    return ListRows(resources[0], page_size)


def _invalid(reason: Reason, message: str, field: str, rule: str) -> InvalidInput:
    return InvalidInput(reason, message, layer=Layer.REQUEST, violations=[Violation(field, rule)])
