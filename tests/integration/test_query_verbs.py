"""Get, search, capabilities and the sources of a user's query: who is asked what, and how the answers become one."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from mosaic.federation.v1.query_pb2 import (
    SOURCE_STATUS_DENIED,
    SOURCE_STATUS_OK,
    ListSourcesRequest,
    QueryRequest,
    QueryResponse,
)
from mosaic_common.errors import Layer

from tests.support.audit_records import assert_recorded
from tests.support.connections import connect, connect_to_stranger
from tests.support.federated_verbs import CAPABILITIES, GET, LIST, ROW, SEARCH, VERBS, FederatedVerb, hits_of, task
from tests.support.gateway import Gateway, Pair
from tests.support.lying_peer import LyingPeer
from tests.support.peers import Refusal, refusal
from tests.support.rows import Rows

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
OK: Final = SOURCE_STATUS_OK
EVERYTHING: Final = {"resources": ["tasks", "notes", "memory"], "max_rows_per_query": 500}
EVERY_VERB: Final = pytest.mark.parametrize("verb", VERBS, ids=str)


@pytest.fixture(scope="module")
def home(pair: Pair) -> Gateway:
    return pair.home


@pytest.fixture(scope="module")
def work(pair: Pair) -> Gateway:
    return pair.work


@pytest.fixture(scope="module")
def rows(home: Gateway) -> Iterator[Rows]:
    with home.database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
def rows_at_work(work: Gateway) -> Iterator[Rows]:
    with work.database.connect() as owner:
        yield Rows(owner)


@pytest.fixture
def user(rows: Rows) -> UUID:
    return rows.user()


@pytest.fixture
async def connected(home: Gateway, work: Gateway, user: UUID, rows_at_work: Rows) -> UUID:
    """Whom the user's connection `work` reads there."""
    subject = rows_at_work.user()
    await connect(home, user, work, remote_user=str(subject), scope=EVERYTHING)
    return subject


@pytest.fixture(scope="module")
def asking(home: Gateway) -> "Asking":
    return Asking(home)


class Asking:
    """Users' queries, over one connection to the gateway's user listener."""

    def __init__(self, home: Gateway) -> None:
        self._home: Final = home
        self._stub: Final = home.queries

    def __call__(self, user: UUID, request: QueryRequest, *, seconds: float = 7) -> Any:
        return self._stub.Query(request, metadata=self._home.user_metadata(user), timeout=seconds)

    async def sources(self, user: UUID) -> list[str]:
        answer = await self._stub.ListSources(ListSourcesRequest(), metadata=self._home.user_metadata(user), timeout=7)
        return list(answer.sources)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the service PKI of a stand-in for a peer lies, by its name."""
    base = tmp_path_factory.mktemp("peers")
    return lambda name: base / name


Said = Message | tuple[grpc.StatusCode, str]


@asynccontextmanager
async def peers(
    home: Gateway, user: UUID, folders: Callable[[str], Path], says: Mapping[str, Said]
) -> AsyncIterator[dict[str, LyingPeer]]:
    """Connections of the user to gateways that each say one thing: a message, or a refusal with its reason."""
    async with AsyncExitStack() as stack:
        started = {}
        for name, said in says.items():
            started[name] = await stack.enter_async_context(LyingPeer.start(folders(name), name, saying(said)))
            await connect_to_stranger(home, user, name=name, endpoint=started[name].address, root_pem=started[name].root_pem)
        yield started


def saying(said: Said) -> Callable[[Message, Any], Any]:
    async def say(_request: Message, context: Any) -> Message:
        if isinstance(said, Message):
            return said
        code, reason = said
        status = Status(code=code.value[0])
        status.details.add().Pack(ErrorInfo(reason=reason, domain="federation.mosaicstack.dev"))
        await context.abort(code, "", (("grpc-status-details-bin", status.SerializeToString()),))
        raise AssertionError

    return say


def statuses(answer: QueryResponse) -> dict[str, tuple[int, str]]:
    return {each.source: (each.status, each.reason) for each in answer.sources}


NOT_THERE: Final = (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")


# --- get


async def test_one_row_from_whoever_has_it(asking: Asking, user: UUID, connected: UUID, rows: Rows, rows_at_work: Rows) -> None:
    """At home, at work or nowhere: who has none says so, and that is an answer."""
    here, there = rows.resource("tasks", user), rows_at_work.resource("tasks", connected)
    no_row = (OK, "RESOURCE_NOT_FOUND")
    for row_id, found_in, told in [
        (here, ["local"], {"local": (OK, ""), "federated:work": no_row}),
        (there, ["federated:work"], {"local": no_row, "federated:work": (OK, "")}),
        (uuid4(), [], {"local": no_row, "federated:work": no_row}),
    ]:
        answer = await asking(user, GET.query(id=str(row_id)))
        assert [(row.id, row.source) for row in answer.rows] == [(str(row_id), source) for source in found_in]
        assert statuses(answer) == told
        assert [each.row_count for each in answer.sources] == [int(each.reason == "") for each in answer.sources]
        assert (answer.partial, answer.next_page_token, len(answer.hits)) == (False, "", 0)


async def test_a_row_that_nobody_shows_is_nowhere(
    asking: Asking, user: UUID, connected: UUID, rows: Rows, rows_at_work: Rows
) -> None:
    """Another user's row, here and there, looks like one that does not exist."""
    for hidden in (rows.resource("tasks", rows.user()), rows_at_work.resource("tasks", rows_at_work.user())):
        answer = await asking(user, GET.query(id=str(hidden)))
        assert (list(answer.rows), answer.partial) == ([], False)
        assert set(statuses(answer).values()) == {(OK, "RESOURCE_NOT_FOUND")}


async def test_one_id_in_two_places_is_two_rows(
    asking: Asking, home: Gateway, user: UUID, rows: Rows, folders: Callable[[str], Path]
) -> None:
    """Each under its own source: nobody's row replaces another's."""
    own = str(rows.resource("tasks", user))
    async with peers(home, user, folders, {"lab": GET.answer([task(id=own)])}):
        answer = await asking(user, GET.query(id=own))
    assert sorted((row.id, row.source) for row in answer.rows) == [(own, "federated:lab"), (own, "local")]


async def test_a_peer_that_has_no_such_row_is_asked_again_over_the_same_connection(
    asking: Asking, home: Gateway, user: UUID, folders: Callable[[str], Path]
) -> None:
    """It is no refusal: nothing that is held for the user is thrown away."""
    async with peers(home, user, folders, {"lab": NOT_THERE}) as started:
        released = len(home.audit("credential.released"))
        for _ in range(3):
            assert statuses(await asking(user, GET.query("federated:lab"))) == {"federated:lab": (OK, "RESOURCE_NOT_FOUND")}
        assert len(started["lab"].asked) == 3
        assert len(home.audit("credential.released")) == released + 1


@pytest.mark.parametrize("verb", [LIST, SEARCH, CAPABILITIES], ids=str)
async def test_no_such_row_is_no_answer_to_anything_else(
    asking: Asking, home: Gateway, user: UUID, folders: Callable[[str], Path], verb: FederatedVerb
) -> None:
    """A refusal, where no row was asked for."""
    async with peers(home, user, folders, {"lab": NOT_THERE}):
        answer = await asking(user, verb.query())
    assert statuses(answer)["federated:lab"] == (SOURCE_STATUS_DENIED, "RESOURCE_NOT_FOUND")
    assert answer.partial


# --- search


async def test_hits_stand_by_position(asking: Asking, home: Gateway, user: UUID, folders: Callable[[str], Path]) -> None:
    """Every source's first, then every source's second, in the order of the sources, whatever their ranks and times are."""
    lists = {name: [task(id=str(uuid4())) for _ in range(count)] for name, count in {"one": 3, "three": 2, "two": 1}.items()}
    says: dict[str, Any] = {name: hits_of(found, rank=len(found)) for name, found in lists.items()}
    async with peers(home, user, folders, says):
        answers = [await asking(user, SEARCH.query()) for _ in range(2)]
    assert [each.source for each in answers[0].sources] == ["local", "federated:one", "federated:three", "federated:two"]
    expected = [row.id for row in chain(*zip_longest(*lists.values())) if row is not None]
    assert [[hit.resource.id for hit in answer.hits] for answer in answers] == [expected, expected]
    assert (answers[0].partial, answers[0].next_page_token, len(answers[0].rows)) == (False, "", 0)
    assert [each.row_count for each in answers[0].sources] == [0, 3, 2, 1]


async def test_a_search_is_passed_on_as_it_was_asked(
    asking: Asking, home: Gateway, user: UUID, folders: Callable[[str], Path]
) -> None:
    """Words, resources in their order, number of hits; of an embedding its direction, which is all that counts."""
    embedding = [0.5, -2.0, *[0.25] * 382]
    length = sum(each * each for each in embedding) ** 0.5
    asked = SEARCH.query(resources=["memory", "tasks", "memory"], query='  "oat  milk" -soy ', embedding=embedding, page_size=7)
    async with peers(home, user, folders, {"lab": SEARCH.answer([])}) as started:
        await asking(user, asked)
    [heard] = started["lab"].asked
    assert (list(heard.resources), heard.query, heard.page_size) == (["memory", "tasks"], '"oat  milk" -soy', 7)
    assert list(heard.embedding) == pytest.approx([each / length for each in embedding], rel=1e-6)


async def test_a_search_finds_here_and_there(asking: Asking, user: UUID, connected: UUID, rows: Rows, rows_at_work: Rows) -> None:
    """Real rows of both, each once, with what was found; another user's are not among them."""
    here, there = str(rows.resource("tasks", user)), str(rows_at_work.resource("notes", connected))
    rows.resource("tasks", rows.user())
    rows_at_work.resource("notes", rows_at_work.user())
    answer = await asking(user, SEARCH.query(resources=["tasks", "notes"], query="title"))
    assert [(hit.resource.id, hit.resource.source) for hit in answer.hits] == [(here, "local"), (there, "federated:work")]
    assert all("**title**" in hit.snippet and hit.rank > 0 for hit in answer.hits)
    assert statuses(answer) == {"local": (OK, ""), "federated:work": (OK, "")}


async def test_what_was_searched_for_is_nowhere_on_record(asking: Asking, home: Gateway, user: UUID) -> None:
    """Verb, resources and number of hits; never the words."""
    word = f"canary{uuid4().hex}"
    await asking(user, SEARCH.query("local", resources=["tasks", "notes"], query=word))
    last = home.audit("query")[-1]
    assert (last["outcome"], last["verb"], last["resource"], last["result_count"]) == ("allowed", "search", "tasks,notes", 0)
    assert word not in str(last)


# --- sources


async def test_sources_are_the_users_own(
    asking: Asking, home: Gateway, user: UUID, rows: Rows, connected: UUID, folders: Callable[[str], Path]
) -> None:
    """This gateway's rows first, then the user's connections by name; nobody else's."""
    async with peers(home, user, folders, {"zoo": GET.answer([task()]), "lab": GET.answer([task()])}):
        assert await asking.sources(user) == ["local", "federated:lab", "federated:work", "federated:zoo"]
        assert await asking.sources(rows.user()) == ["local"]


@EVERY_VERB
async def test_another_users_connection_is_not_there(
    asking: Asking, home: Gateway, user: UUID, connected: UUID, rows: Rows, verb: FederatedVerb
) -> None:
    """For no verb: byte for byte what a name answers that nobody has."""
    assert connected
    stranger = rows.user()
    assert (await asking(user, verb.query("federated:work"))).sources[0].source == "federated:work"
    foreign, unknown = [await refusal_bytes(asking(stranger, verb.query(f"federated:{name}"))) for name in ("work", "no-such-name")]
    assert foreign == unknown
    refused = await refusal(asking(stranger, verb.query("federated:work")))
    assert_recorded(home, refused, Layer.PEER)


async def refusal_bytes(call: Any) -> bytes:
    """The whole error, its request id replaced."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        refused = Refusal.of(error)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PEER_NOT_FOUND")
        details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
        assert isinstance(details, bytes)
        return details.replace(refused.metadata["request_id"].encode(), b"")
    raise AssertionError("not refused")


async def test_capabilities_of_every_source(asking: Asking, user: UUID, connected: UUID) -> None:
    """Here everything, without an end or a cap; through a connection what its grant says."""
    answer = await asking(user, CAPABILITIES.query())
    assert statuses(answer) == {"local": (OK, ""), "federated:work": (OK, "")}
    local, remote = (each.capabilities for each in answer.sources)
    assert list(local.resources) == ["tasks", "notes", "memory", "credentials", "api_keys"]
    assert not local.HasField("grant_expires_at_us")
    assert (list(remote.resources), remote.max_rows_per_query) == (EVERYTHING["resources"], 500)
    assert {each.row_count for each in answer.sources} == {0}


# --- what may not be asked

SOMEWHERE: Final = [1.0, *[0.0] * 383]


@pytest.mark.parametrize(
    ("asked", "reason", "fields"),
    [
        pytest.param(
            LIST.query(query="x", embedding=[1.0], id=ROW),
            "REQUEST_INVALID",
            {"query", "embedding", "id"},
            id="a list that searches",
        ),
        pytest.param(
            GET.query(query="x", embedding=[1.0], page_size=1, page_token="x"),
            "REQUEST_INVALID",
            {"query", "embedding", "page_size", "page_token"},
            id="a get that searches and turns pages",
        ),
        pytest.param(
            SEARCH.query(id=ROW, page_token="x"), "REQUEST_INVALID", {"id", "page_token"}, id="a search of one row, in pages"
        ),
        pytest.param(
            CAPABILITIES.query(resources=["tasks"], id=ROW, page_size=1),
            "REQUEST_INVALID",
            {"resources", "id", "page_size"},
            id="capabilities of one resource",
        ),
        pytest.param(GET.query(resources=["tasks", "notes"]), "REQUEST_INVALID", {"resources"}, id="a get of two resources"),
        pytest.param(GET.query(resources=["users"]), "RESOURCE_UNKNOWN", {"resources"}, id="a get of no resource"),
        pytest.param(GET.query(id=""), "REQUEST_INVALID", {"id"}, id="a get of nothing"),
        pytest.param(GET.query(id=ROW.upper()), "REQUEST_INVALID", {"id"}, id="an id in another spelling"),
        pytest.param(GET.query(id="' OR true --"), "REQUEST_INVALID", {"id"}, id="an id that is none"),
        pytest.param(SEARCH.query(resources=[]), "RESOURCE_UNKNOWN", {"resources"}, id="a search of nothing"),
        pytest.param(SEARCH.query(resources=["tasks", "users"]), "RESOURCE_UNKNOWN", {"resources"}, id="a search of no resource"),
        pytest.param(SEARCH.query(query=" \n"), "REQUEST_INVALID", {"query"}, id="a search for nothing"),
        pytest.param(SEARCH.query(query="\0" * 513), "REQUEST_INVALID", {"query"}, id="a search for NUL"),
        pytest.param(SEARCH.query(page_size=-1), "PAGE_SIZE_INVALID", {"page_size"}, id="a search for less than nothing"),
        pytest.param(SEARCH.query(embedding=SOMEWHERE), "REQUEST_INVALID", {"embedding"}, id="an embedding for tasks"),
        pytest.param(
            SEARCH.query(resources=["memory"], query="\0", embedding=[float("nan")] * 3),
            "REQUEST_INVALID",
            {"query", "embedding"},
            id="words and an embedding that are none",
        ),
        *(
            pytest.param(SEARCH.query(resources=["memory"], embedding=wrong), "REQUEST_INVALID", {"embedding"}, id=what)
            for what, wrong in {
                "a dimension too many": [*SOMEWHERE, 0.0],
                "an infinite embedding": [float("inf"), *SOMEWHERE[1:]],
                "an embedding without direction": [0.0] * 384,
            }.items()
        ),
    ],
)
async def test_a_query_that_cannot_be_answered_says_why(
    asking: Asking, home: Gateway, user: UUID, asked: QueryRequest, reason: str, fields: set[str]
) -> None:
    """Each field that is wrong, and each that would not count; on record, and nobody is asked."""
    refused = await refusal(asking(user, asked))
    assert (refused.code, refused.reason) == (INVALID, reason)
    assert set(refused.violations) == fields
    assert_recorded(home, refused, Layer.REQUEST)


@pytest.mark.parametrize(
    "verb",
    [
        *map(pytest.param, (LIST, GET, SEARCH)),
        CAPABILITIES,
    ],
    ids=str,
)
async def test_a_disabled_user_is_told_nothing(asking: Asking, home: Gateway, user: UUID, verb: FederatedVerb) -> None:
    """Whatever is asked with a token that is still valid."""
    home.execute("UPDATE public.users SET active = false WHERE id = %s", user)
    refused = await refusal(asking(user, verb.query()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SUBJECT_INACTIVE")
    assert refused.metadata["remediation"].startswith("Ask as a user that there is")
    assert_recorded(home, refused, Layer.SUBJECT)
