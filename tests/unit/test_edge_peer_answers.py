"""What a peer answers, believed in nothing."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mosaic.audit.v1.audit_pb2 import GrantAuditHead
from mosaic.federation.v1.federation_pb2 import (
    GetCapabilitiesResponse,
    GetResourceResponse,
    ListResourcesResponse,
    SearchHit,
    SearchResourcesResponse,
)
from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_common.errors import Reason
from mosaic_federation_edge.adapters.peer_answers import CLOCK_SKEW, MAX_AUDIT_HEAD, MAX_PAGE_TOKEN, AnswerVerifier
from mosaic_federation_edge.adapters.peer_channels import PeerChannels
from mosaic_federation_edge.adapters.peers import Peers, find_error_info
from mosaic_federation_edge.domain.connections import Connection
from mosaic_federation_edge.domain.fan_out import SourceFailed, SourcePage, SourceStatus
from mosaic_federation_edge.domain.questions import ListRows

from tests.support.clock import FakeClock

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
LATEST_US = int((NOW + CLOCK_SKEW).timestamp()) * 1_000_000


def task(number: int = 1, **fields: Any) -> Resource:
    row = Resource(
        id=str(UUID(int=number)), owner_id=str(UUID(int=9)), updated_at_us=1_700_000_000_000_000, source="local", **fields
    )
    row.task.title = "Call the plumber\x1b[2J\u202e"
    return row


def answer(*rows: Resource, **fields: Any) -> ListResourcesResponse:
    return ListResourcesResponse(resources=rows, **fields)


def verified(response: ListResourcesResponse, *, resource: str = "tasks", page_size: int = 3) -> SourcePage[Any]:
    return AnswerVerifier("work", [resource], NOW).verified_page(response, page_size=page_size)


def test_the_source_is_ours_to_say() -> None:
    """Whatever a peer calls itself, its rows bear the connection's name; their text stays, for whoever shows it to escape."""
    page = verified(answer(task(), source="local", next_page_token="t", truncated=True))
    assert [row.source for row in page.rows] == ["federated:work"]
    assert page.rows[0].task.title == "Call the plumber\x1b[2J\u202e"
    assert (page.next_position, page.truncated) == ("1:t", True)


@pytest.mark.parametrize(
    ("field", "resource"),
    [pytest.param("created_at_us", "credentials", id="created"), pytest.param("last_used_at_us", "api_keys", id="last used")],
)
def test_times_from_the_future_are_clamped(field: str, resource: str) -> None:
    """updated_at orders the answer, so a peer may set it no further than clocks differ; a due date may lie anywhere."""
    late = int((NOW + timedelta(days=999)).timestamp()) * 1_000_000
    row = task()
    row.updated_at_us, row.task.due_at_us = 2**63 - 1, late
    page = verified(answer(row))
    assert (page.rows[0].updated_at_us, page.rows[0].task.due_at_us) == (LATEST_US, late)

    kind = "credential" if resource == "credentials" else "api_key"
    row = Resource(id=str(uuid4()), owner_id=str(uuid4()))
    setattr(getattr(row, kind), field, late)
    page = verified(answer(row), resource=resource)
    assert getattr(getattr(page.rows[0], kind), field) == LATEST_US


def test_a_time_that_is_absent_stays_absent() -> None:
    """Clamping gives no key a last use that it never had."""
    row = Resource(id=str(uuid4()), owner_id=str(uuid4()))
    row.api_key.label = "deploy"
    assert not verified(answer(row), resource="api_keys").rows[0].api_key.HasField("last_used_at_us")


def test_what_this_release_does_not_know_is_dropped() -> None:
    """Fields without a name here do not travel on to the user."""
    response = ListResourcesResponse.FromString(answer(task()).SerializeToString() + b"\xfa\x3f\x06hidden")
    response.resources[0].MergeFromString(b"\xfa\x3f\x06hidden")
    assert b"hidden" in response.SerializeToString()
    assert b"hidden" not in verified(response).rows[0].SerializeToString()


def test_a_page_without_rows_is_the_last() -> None:
    """A peer cannot keep a reader turning empty pages."""
    assert verified(answer(next_page_token="more")).next_position == ""


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: answer(*(task(number) for number in range(4))), id="more rows than were asked for"),
        pytest.param(lambda: answer(Resource(id=str(uuid4()), owner_id=str(uuid4()))), id="a row of no kind"),
        pytest.param(lambda: answer(_with(task(), "note")), id="a row of another kind"),
        pytest.param(lambda: answer(_set(task(), id="../../etc")), id="an id that is none"),
        pytest.param(lambda: answer(_set(task(), id=str(uuid4()).upper())), id="an id in another spelling"),
        pytest.param(lambda: answer(_set(task(), owner_id="")), id="no owner"),
        pytest.param(lambda: answer(_set(task(), team_id="x" * 36)), id="a team that is none"),
        pytest.param(lambda: answer(task(), next_page_token="x" * (MAX_PAGE_TOKEN + 1)), id="a page token without end"),
        pytest.param(lambda: answer(task(), next_page_token="\u2028"), id="a page token of more bytes than letters"),
        pytest.param(lambda: answer(_text(task(), 4 * 1024 * 1024)), id="more bytes than one answer holds"),
    ],
)
def test_refuses_an_answer_that_does_not_hold(make: Callable[[], ListResourcesResponse]) -> None:
    """One thing wrong and nothing of the answer is passed on."""
    with pytest.raises(SourceFailed) as failed:
        verified(make())
    assert (failed.value.status, failed.value.reason) == (SourceStatus.UNAVAILABLE, None)


def head(size: int) -> GrantAuditHead:
    """What a peer says of its record, of so many bytes in all."""
    said = GrantAuditHead(signature=b"x" * size)
    said.signature = said.signature[: size - (said.ByteSize() - size)]
    assert said.ByteSize() == size
    return said


@pytest.mark.parametrize(
    "verify",
    [
        pytest.param(lambda said: verified(answer(task(), audit_head=said)), id="list"),
        pytest.param(lambda said: found(hit(), audit_head=said), id="search"),
        pytest.param(lambda said: capable(audit_head=said), id="capabilities"),
    ],
)
def test_a_head_is_kept_up_to_its_size(verify: Callable[[GrantAuditHead], SourcePage[Any]]) -> None:
    """What a peer says of its record goes to grants as it is, unless it is larger than any: then the rows come without one."""
    largest, too_large = head(MAX_AUDIT_HEAD), head(MAX_AUDIT_HEAD + 1)
    assert verify(largest).audit_head == largest.SerializeToString()
    page = verify(too_large)
    assert (page.audit_head, len(page.rows)) == (b"", 1)


def hit(row: Resource | None = None, **fields: Any) -> SearchHit:
    return SearchHit(resource=row or task(), **fields)


def found(*hits: SearchHit, resources: Sequence[str] = ("tasks", "notes"), page_size: int = 3, **fields: Any) -> SourcePage[Any]:
    answered = SearchResourcesResponse(hits=hits, truncated=True, source="local", **fields)
    return AnswerVerifier("work", resources, NOW).verified_hits(answered, page_size=page_size)


def test_hits_keep_their_order_whatever_their_ranks_are() -> None:
    """Position counts: an infinite rank moves nothing, and no number that is none reaches the user."""
    ranks = [0.1, math.inf, math.nan]
    page = found(*(hit(task(number), rank=rank, distance=rank) for number, rank in enumerate(ranks, 1)))
    assert [each.resource.id for each in page.rows] == [str(UUID(int=number)) for number in (1, 2, 3)]
    assert [each.rank for each in page.rows] == [0.1, 0, 0]
    assert [each.HasField("distance") for each in page.rows] == [True, False, False]
    assert {each.resource.source for each in page.rows} == {"federated:work"}
    assert (page.next_position, page.truncated) == ("", True)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: found(*(hit(task(number)) for number in range(1, 5))), id="more hits than were asked for"),
        pytest.param(lambda: found(hit(), resources=("notes", "memory")), id="a kind that was not asked for"),
        pytest.param(lambda: found(SearchHit(rank=1)), id="a hit without a row"),
        pytest.param(lambda: found(hit(_set(task(), id="1"))), id="an id that is none"),
        pytest.param(lambda: found(hit(snippet="x" * 4 * 1024 * 1024)), id="a snippet without end"),
        pytest.param(lambda: found(hit(snippet="**a" * 1_000)), id="a snippet longer than its row"),
    ],
)
def test_refuses_hits_that_do_not_hold(make: Callable[[], SourcePage[Any]]) -> None:
    """One thing wrong and nothing of the answer is passed on."""
    with pytest.raises(SourceFailed) as failed:
        make()
    assert failed.value.status is SourceStatus.UNAVAILABLE


def test_a_snippet_is_no_longer_than_its_row_with_all_marks() -> None:
    """What the database cuts out of a row, and marks word by word, passes: the whole text, and 40 words marked."""
    text = "a " * 500
    row = task()
    row.task.description = text
    snippet = f"{row.task.title} ... {'**a** ' * 40}{'a ' * 460}"
    [passed] = found(hit(row, snippet=snippet)).rows
    assert passed.snippet == snippet


def capable(**fields: Any) -> SourcePage[Any]:
    values: dict[str, Any] = {"resources": ["tasks"], "max_rows_per_query": 5, "server_version": "1.0.0", **fields}
    return AnswerVerifier("work", [], NOW).verified_capabilities(GetCapabilitiesResponse(**values))


def test_capabilities_are_passed_on_without_the_head() -> None:
    """It is kept by our own grants, and is nothing that the user asked for; a verb is named once, and only one that exists."""
    [told] = capable(audit_head=head(MAX_AUDIT_HEAD), supported_verbs=[1, 77, 1]).rows
    assert not told.HasField("audit_head")
    assert list(told.supported_verbs) == [1]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"resources": ["users"]}, id="a resource that is none"),
        pytest.param({"excluded_resources": ["users"]}, id="an excluded one that is none"),
        pytest.param({"resources": ["tasks"] * 6}, id="more than there are"),
        pytest.param({"max_rows_per_query": 0}, id="no rows"),
        pytest.param({"max_rows_per_query": 10_001}, id="more rows than any grant shows"),
        pytest.param({"server_version": "1.0\x1b[2J"}, id="a version that a terminal obeys"),
    ],
)
def test_refuses_capabilities_that_do_not_hold(fields: dict[str, Any]) -> None:
    """One thing wrong and nothing of the answer is passed on."""
    with pytest.raises(SourceFailed) as failed:
        capable(**fields)
    assert failed.value.status is SourceStatus.UNAVAILABLE


def test_one_row_is_the_one_that_was_asked_for() -> None:
    """Marked with the connection's name."""
    answered = GetResourceResponse(resource=task(7))
    page: SourcePage[Any] = AnswerVerifier("work", ["tasks"], NOW).verified_row(answered, row_id=str(UUID(int=7)))
    assert [(row.id, row.source) for row in page.rows] == [(str(UUID(int=7)), "federated:work")]


@pytest.mark.parametrize(
    "row",
    [pytest.param(task(8), id="another row"), pytest.param(Resource(), id="none"), pytest.param(None, id="another kind")],
)
def test_refuses_a_row_that_was_not_asked_for(row: Resource | None) -> None:
    """Neither another id nor another kind under the right id."""
    unverified = GetResourceResponse(resource=row if row is not None else _with(_set(Resource(), id=str(UUID(int=7))), "note"))
    with pytest.raises(SourceFailed):
        AnswerVerifier("work", ["tasks"], NOW).verified_row(unverified, row_id=str(UUID(int=7)))


def _with(row: Resource, kind: str) -> Resource:
    getattr(row, kind).SetInParent()
    return row


def _set(row: Resource, **fields: str) -> Resource:
    for name, value in fields.items():
        setattr(row, name, value)
    return row


def _text(row: Resource, size: int) -> Resource:
    row.task.description = "x" * size
    return row


def error(*details: Packed | bytes, key: str = "grpc-status-details-bin") -> grpc.aio.AioRpcError:
    if details and isinstance(details[0], bytes):
        raw = details[0]
    else:
        raw = Status(code=7, message="anything", details=details).SerializeToString()
    return grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, grpc.aio.Metadata(), grpc.aio.Metadata((key, raw)))


def info(reason: str, domain: str = "federation.mosaicstack.dev", **metadata: str) -> Packed:
    packed = Packed()
    packed.Pack(ErrorInfo(reason=reason, domain=domain, metadata={"anything": "\x1b[2J", **metadata}))
    return packed


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        pytest.param(error(info("GRANT_NOT_ACTIVE")), Reason.GRANT_NOT_ACTIVE, id="one of ours"),
        pytest.param(error(), None, id="no details"),
        pytest.param(error(info("<script>")), None, id="a reason that does not exist"),
        pytest.param(error(info("GRANT_NOT_ACTIVE", "example.com")), None, id="another domain's"),
        pytest.param(error(b"\xff\xff\xff"), None, id="bytes that are no status"),
        pytest.param(
            error(Packed(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")), None, id="a detail that is none"
        ),
        pytest.param(error(b"", key="other-bin"), None, id="another trailer"),
    ],
)
def test_of_a_peers_error_only_a_known_reason_is_read(refused: grpc.aio.AioRpcError, reason: Reason | None) -> None:
    """Hostile details neither reach the user nor break the query."""
    info = find_error_info(refused)
    assert (Reason(info.reason) if info else None) is reason


class Refusing(PeerChannels):
    """Channels on which every call is refused with one error."""

    def __init__(self, refused: grpc.aio.AioRpcError) -> None:
        super().__init__()
        self._refused = refused

    def get(self, connection: Connection) -> Any:
        return self

    def unary_unary(self, *_arguments: Any, **_named: Any) -> Any:
        async def refuse(*_arguments: Any, **_named: Any) -> bytes:
            raise self._refused

        return refuse


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        pytest.param("revoked", "revoked", id="revoked"),
        pytest.param("expired", "expired", id="expired"),
        pytest.param("pending", "", id="a status that is no end"),
        pytest.param("\x1b[2Jrevoked", "", id="words of its own"),
    ],
)
async def test_of_a_grants_end_only_known_words_are_kept(said: str, kept: str) -> None:
    """It is stored, and shown to operators: a peer puts no text of its own there."""
    connection = Connection(UUID(int=1), "work", "work", "work.example.com:7443", b"", b"", b"a root")
    peers = Peers(Refusing(error(info("GRANT_NOT_ACTIVE", grant_status=said))), FakeClock())
    with pytest.raises(SourceFailed) as failed:
        await peers.ask(connection, ListRows("tasks", 1), position="", seconds=1)
    assert (failed.value.reason, failed.value.grant_status, failed.value.refuses_us) == (Reason.GRANT_NOT_ACTIVE, kept, True)
