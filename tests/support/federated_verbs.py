"""What a user asks through QueryService, what a peer answers to it, and how both look, verb by verb."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from mosaic.federation.v1.federation_pb2 import (
    VERB_CAPABILITIES,
    VERB_GET,
    VERB_LIST,
    VERB_SEARCH,
    GetCapabilitiesResponse,
    GetResourceResponse,
    ListResourcesResponse,
    SearchHit,
    SearchResourcesResponse,
)
from mosaic.federation.v1.query_pb2 import QueryRequest, QueryResponse
from mosaic.federation.v1.resources_pb2 import Resource, Task

ROW: Final = "7a0bb1e6-7a05-45e6-b30a-f1547d4186e7"
OWNER: Final = "5d2ff1f8-8a3c-4f10-bd66-96b26d3ebd53"


@dataclass(frozen=True, slots=True)
class FederatedVerb:
    """One verb, asked about tasks.

    Attributes:
        fields: of the query, beside verb and source.
        answer: what a peer says, given its rows.
        rows_of: the rows of a user's answer.
    """

    name: str
    verb: Any
    fields: dict[str, Any]
    answer: Callable[[Sequence[Resource]], Message]
    rows_of: Callable[[QueryResponse], list[Resource]]

    def query(self, source: str = "all", **changes: Any) -> QueryRequest:
        return QueryRequest(verb=self.verb, source=source, **(self.fields | changes))

    def honest_answer(self) -> Message:
        return self.answer([task()])

    def __str__(self) -> str:
        return self.name


def task(**changes: Any) -> Resource:
    """A row as an honest peer would give it."""
    values: dict[str, Any] = {"id": ROW, "owner_id": OWNER, "updated_at_us": 1_700_000_000_000_000, "source": "local"}
    if not changes.keys() & {"note", "credential"}:
        values["task"] = Task(title="Water the plants")
    return Resource(**(values | changes))


def hits_of(rows: Sequence[Resource], **fields: Any) -> SearchResourcesResponse:
    return SearchResourcesResponse(hits=[SearchHit(resource=row, **fields) for row in rows])


def capabilities(_rows: Sequence[Resource] = (), **changes: Any) -> GetCapabilitiesResponse:
    values: dict[str, Any] = {
        "resources": ["tasks", "notes"],
        "excluded_resources": ["credentials"],
        "max_rows_per_query": 500,
        "supported_verbs": [VERB_LIST, VERB_GET, VERB_SEARCH, VERB_CAPABILITIES],
        "server_version": "1.0.0",
    }
    return GetCapabilitiesResponse(**(values | changes))


LIST: Final = FederatedVerb(
    "list",
    VERB_LIST,
    {"resources": ["tasks"], "page_size": 10},
    lambda rows: ListResourcesResponse(resources=rows),
    lambda answer: list(answer.rows),
)
GET: Final = FederatedVerb(
    "get",
    VERB_GET,
    {"resources": ["tasks"], "id": ROW},
    lambda rows: GetResourceResponse(resource=rows[0]),
    lambda answer: list(answer.rows),
)
SEARCH: Final = FederatedVerb(
    "search",
    VERB_SEARCH,
    {"resources": ["tasks"], "query": "plants", "page_size": 10},
    hits_of,
    lambda answer: [hit.resource for hit in answer.hits],
)
CAPABILITIES: Final = FederatedVerb("capabilities", VERB_CAPABILITIES, {}, capabilities, lambda _: [])

READS: Final = (LIST, GET, SEARCH)
VERBS: Final = (*READS, CAPABILITIES)
