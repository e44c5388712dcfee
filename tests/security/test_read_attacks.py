"""A peer with a live grant and every wrong intention: each attack gets its reason, is on record, and costs nobody else anything.

Elsewhere: claims of another in a CSR (test_enrollment_refusals.py, test_forged_orders.py), certificates of every wrong shape
(test_denials_certificates.py), page tokens (test_denials_reads.py), floods (test_floods.py).
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
import mosaic_federation_edge.domain.search
import pytest
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer
from mosaic_common.resources import REGISTRY

from tests.support.authorities import swap_identifiers
from tests.support.denials import SCOPE, WORD, Denial, Edge, Holder, Refused, refused
from tests.support.forgeries import forge
from tests.support.gateway import Gateway
from tests.support.raw_caller import RawCaller, RawHeaders, ResumingTls
from tests.support.rows import Rows

MIB: Final = 1024 * 1024
INVALID_ARGUMENT: Final = grpc.StatusCode.INVALID_ARGUMENT
REQUEST_INVALID: Final = Denial(INVALID_ARGUMENT, 400, "REQUEST_INVALID", Layer.REQUEST)
VERBS: Final = tuple(Verb)
DIMENSION: Final = REGISTRY["memory"].embedding.dimension  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def rows(work: Gateway) -> Iterator[Rows]:
    with work.database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
async def edge(work: Gateway, rows: Rows) -> AsyncIterator[Edge]:
    async with Edge.serve(work, rows) as serving:
        yield serving


@pytest.fixture(scope="module")
async def attacker(edge: Edge) -> AsyncIterator[Holder]:
    """A live grant on one task, one note and one memory."""
    async with edge.holder() as holder:
        yield holder


@pytest.fixture(scope="module")
async def victim(edge: Edge) -> AsyncIterator[Holder]:
    """Somebody else, whose rows say the same word."""
    async with edge.holder() as holder:
        yield holder


@dataclass(slots=True)
class Honest:
    """Asks one question after the other while the attacks go on."""

    victim: Holder
    answered: int = 0
    failed: list[BaseException] = field(default_factory=list)

    async def run(self) -> None:
        try:
            while True:
                answer = await self.victim.ask(Verb.LIST)
                assert ids(answer) == {str(self.victim.own["tasks"])}
                self.answered += 1
                await asyncio.sleep(0.01)
        except (grpc.aio.AioRpcError, AssertionError) as error:
            self.failed.append(error)


@pytest.fixture(scope="module")
async def honest_caller(edge: Edge, victim: Holder) -> AsyncIterator[Honest]:
    caller = Honest(victim)
    running = asyncio.create_task(caller.run())
    yield caller
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    allowed = [row for row in edge.records_of(victim) if row["outcome"] == "allowed"]
    assert len(allowed) >= caller.answered, "every answer is on record, whatever shared its batch"


@pytest.fixture(autouse=True)
async def nobody_else_notices(honest_caller: Honest) -> AsyncIterator[None]:
    """An honest caller is answered before, during and after every attack."""
    yield
    before = honest_caller.answered
    async with asyncio.timeout(5):
        while honest_caller.answered == before and not honest_caller.failed:
            await asyncio.sleep(0.005)
    assert honest_caller.failed == []


def ids(answer: Any) -> set[str]:
    """Of all rows in an answer of any verb."""
    if isinstance(answer, pb.SearchResourcesResponse):
        return {hit.resource.id for hit in answer.hits}
    return {row.id for row in answer.resources}


# ── injection ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_OTHER_HALF: Final = "𝐀"
INJECTIONS: Final = {
    "SQL, quoted": "' OR 1=1 --",
    "SQL, dollar-quoted": "$$; DROP TABLE tasks; $$",
    "SQL, stacked": "lighthouse'); SELECT pg_sleep(10); --",
    "SQL, escaped quote": "\\'; SELECT 1",
    "a placeholder": "$1 %s :query {0}",
    "tsquery: or, not": "lighthouse | !lighthouse & (x)",
    "tsquery: not": "!lighthouse",
    "websearch: nothing but not": "-lighthouse",
    "tsquery: prefix": "a:* | b:*A",
    "tsquery: phrase": "lighthouse <-> keeper <2> x",
    "tsquery: phrase operator in quotes": '"lighthouse <-> \' <-> keeper"',
    "tsquery: unbalanced": "((((lighthouse & ",
    "tsquery: quotes": "'''lighthouse''' \\\\' \"",
    "websearch: a quote that never ends": '"lighthouse keeper',
    "websearch: 512 quotes": '"' * 512,
    "websearch: 30 minus signs": "-" * 30 + "a",
    "websearch: and, 30 minus signs": "lighthouse " + "-" * 30 + "a",
    "websearch: or, and, 30 minus signs": "x or lighthouse y " + "-" * 30 + "a",
    "websearch: phrases, or, and, 30 minus signs": '"a b" or "c d" ' + "-" * 30 + '"e f"',
    "websearch: 256 words": "a " * 256,
    "websearch: or or or": "or " * 170,
    "websearch: not not not": "-a " * 30,
    "a phrase of 250 words": '"' + "x " * 250 + '"',
    "a word of 512 letters": "x" * 512,
    "a word of 512 four-byte letters": _OTHER_HALF * 512,
    "a word of 511 four-byte letters and a letter": _OTHER_HALF * 511 + "x",
    "a hyphenated word": "x-" * 255 + "x",
    "a host with a path": "http://a.example/'<->'?x=" + "y" * 480,
    "a file": "/a/'b'/<->/" + "c/" * 200,
    "an email": "'<2>'@example.com",
    "a tag": "<a href=\"' <-> '\">lighthouse</a>",
    "letters that grow in lower case": "İ" * 512,
    "joined marks": "e" + "\u0301" * 500,
    "right to left": "\u202elighthouse\u202c",
    "the lexeme of whom a row belongs to": "' owner:'",
    "LIKE": "%%__",
    "a regular expression": "(a+)+$",
    "control characters": "\x01\x02\x1b[2J\x7f\x85",
    "line breaks": "light\r\nhouse",
    "noncharacters": "\ufffe\uffff\U0010ffff",
    "a backslash at the end": "lighthouse\\",
}


@pytest.mark.parametrize("resources", [["tasks"], ["memory", "notes", "tasks"]], ids=",".join)
@pytest.mark.parametrize("text", INJECTIONS)
async def test_a_query_is_only_ever_words(edge: Edge, attacker: Holder, text: str, resources: list[str]) -> None:
    """SQL, tsquery and whatever a parser stumbles over: the asker's own rows or none, never an error, never another's."""
    answer = await attacker.ask(Verb.SEARCH, resources=resources, query=INJECTIONS[text])
    assert ids(answer) <= {str(row) for row in attacker.own.values()}


async def test_a_query_for_whom_a_row_belongs_to_finds_nothing(edge: Edge, attacker: Holder) -> None:
    """The index says whose a row is, in lexemes that no query can name."""
    for text in (
        f" owner:{attacker.subject}",
        f"owner:{attacker.subject}",
        f'" owner:{attacker.subject}"',
        f"' owner:{attacker.subject}'",
    ):
        assert ids(await attacker.ask(Verb.SEARCH, query=text)) == set()


# PostgreSQL keeps 32 operators in hand while it reads a query, an OR and an AND among them, and answers more with an internal error
# (XX000).
@pytest.mark.parametrize(
    "text",
    [
        *("-" * 33, "- " * 256, "lighthouse " + "-&(!" * 100, "-<" * 40 + "lighthouse"),
        *("lighthouse " + "-" * 32 + "a", "x or lighthouse y " + "-" * 31 + "a", '"a b" or "c d" ' + "-" * 32 + '"e f"'),
    ],
    ids=["minus", "spaces between", "operators between", "then a word", "and", "or, and", "phrases"],
)
async def test_more_minus_signs_than_the_database_can_hold(attacker: Holder, text: str) -> None:
    """Bad input, not an outage: whoever sends it must not raise an alarm about the database."""
    answer = await attacker.refused(Verb.SEARCH, query=text)
    denial = replace(REQUEST_INVALID, violations=("query",))
    answer.assert_is(denial)
    attacker.assert_recorded(answer, Verb.SEARCH, denial)


async def test_what_only_the_database_finds_too_much_is_bad_input_too(
    edge: Edge, attacker: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a release of PostgreSQL have less room than this edge believes: the database was asked, and it is no outage either."""
    monkeypatch.setattr(mosaic_federation_edge.domain.search, "MAX_EXCLUSIONS", 100)
    with edge.relay.noting() as asked:
        answer = await attacker.refused(Verb.SEARCH, query="-" * 33 + "a")
    assert asked.functions.count("search_tasks") == 1  # an honest caller lists beside it
    denial = replace(REQUEST_INVALID, violations=("query",))
    answer.assert_is(denial)
    attacker.assert_recorded(answer, Verb.SEARCH, denial, hashed=True)


@pytest.mark.parametrize("verb", [Verb.LIST, Verb.GET, Verb.SEARCH])
@pytest.mark.parametrize(
    "name",
    [
        "tasks'; DROP TABLE tasks; --",
        "tasks(",
        "public.tasks",
        "tasks\0",
        "tasks ",
        "TASKS",
        "tаsks",
        "ｔasks",
        "tasks\u200b",
        "ta\u00adsks",
        "taſks",
        "tasks\r\n\x1b[2J",
        "../tasks",
        "*",
        "tasks,notes",
        "x" * 60_000,
    ],
    ids=ascii,
)
async def test_a_resource_is_one_of_five_spellings(edge: Edge, attacker: Holder, verb: Verb, name: str) -> None:
    """Injected, look-alike, oversized or padded: there is no such resource, and the record shows at most 64 harmless characters."""
    field = "resources" if verb is Verb.SEARCH else "resource"
    with edge.relay.noting() as asked:
        fields: dict[str, Any] = {field: [name] if verb is Verb.SEARCH else name}
        answer = await attacker.refused(verb, **fields)
    assert not [each for each in asked.reads if "list_tasks" not in each.text], "the honest caller's alone"
    denial = Denial(INVALID_ARGUMENT, 400, "RESOURCE_UNKNOWN", Layer.REQUEST, violations=(field,))
    answer.assert_is(denial)
    [row] = edge.recorded(answer.request_id)
    assert (row["denied_reason"], row["outcome"]) == ("RESOURCE_UNKNOWN", "denied")
    assert len(row["resource"]) <= 64
    assert row["resource"].isascii()
    assert row["resource"].isprintable()


@pytest.mark.parametrize(
    "row_id",
    [
        "' OR '1'='1",
        "\0" * 36,
        "0" * 36,
        "１" * 32,
        "x" * 60_000,
        "%",
        str(UUID(int=0)).upper() + "A",
        "urn:uuid:" + str(UUID(int=1)),
    ],
    ids=lambda text: ascii(text[:12]),
)
async def test_an_id_is_a_uuid_or_nothing(attacker: Holder, row_id: str) -> None:
    """Whatever else stands there reaches no statement."""
    answer = await attacker.refused(Verb.GET, id=row_id)
    denial = replace(REQUEST_INVALID, violations=("id",))
    answer.assert_is(denial)
    attacker.assert_recorded(answer, Verb.GET, denial)


@pytest.mark.parametrize("order", [2, -1, 2**31 - 1, -(2**31)])
async def test_an_order_is_one_there_is(attacker: Holder, order: int) -> None:
    """An enum takes any number; a listing does not."""
    answer = await attacker.refused(Verb.LIST, order=order)
    denial = replace(REQUEST_INVALID, violations=("order",))
    answer.assert_is(denial)
    attacker.assert_recorded(answer, Verb.LIST, denial)


@pytest.mark.parametrize("text", ["\0", "light\0house", "x" * 513, "𝐀" * 513, "x" * 60_000], ids=lambda text: ascii(text[:3]))
async def test_a_query_that_is_none(attacker: Holder, text: str) -> None:
    """NUL, which PostgreSQL's text cannot hold, and what is longer than a query may be."""
    answer = await attacker.refused(Verb.SEARCH, query=text)
    denial = replace(REQUEST_INVALID, violations=("query",))
    answer.assert_is(denial)
    attacker.assert_recorded(answer, Verb.SEARCH, denial)


# ── claims of somebody else ───────────────────────────────────────────────────────────────────────────────────────────────────────

NOT_PINNED: Final = Denial(grpc.StatusCode.UNAUTHENTICATED, 401, "CERTIFICATE_NOT_PINNED", Layer.CERTIFICATE)
NOT_ACTIVE: Final = Denial(grpc.StatusCode.PERMISSION_DENIED, 403, "GRANT_NOT_ACTIVE", Layer.GRANT)
NOT_FOUND: Final = Denial(grpc.StatusCode.NOT_FOUND, 404, "RESOURCE_NOT_FOUND", Layer.ROW, recorded="ROW_NOT_VISIBLE")


@pytest.mark.parametrize("verb", VERBS)
async def test_a_certificate_with_the_claims_of_another(edge: Edge, attacker: Holder, victim: Holder, verb: Verb) -> None:
    """Signed by the right authority for the attacker's key: the victim's grant or user, either with one's own, or swapped."""
    claims = [
        (victim.grant_id, victim.subject, (), NOT_PINNED),
        (victim.grant_id, attacker.subject, (), NOT_PINNED),
        (attacker.grant_id, victim.subject, (), NOT_PINNED),
        (attacker.grant_id, victim.subject, (swap_identifiers,), NOT_ACTIVE),
    ]
    for grant_id, subject, told, denial in claims:
        key, chain = forge(edge.gateway, grant_id, subject, *told)
        async with edge.connected(key, chain) as channel:
            answer = await replace(attacker, channel=channel).refused(verb)
        answer.assert_is(denial)
        [row] = edge.recorded(answer.request_id)
        assert (row["peer_id"], row["denied_reason"], row["result_count"]) == (None, denial.reason, 0)


async def test_rows_of_another_grant_stay_there(edge: Edge, attacker: Holder, victim: Holder) -> None:
    """The ids of somebody else's rows, the words in them, or any page: nothing but one's own."""
    for resource, row_id in victim.own.items():
        answer = await attacker.refused(Verb.GET, resource, id=str(row_id))
        answer.assert_is(NOT_FOUND)
        attacker.assert_recorded(answer, Verb.GET, NOT_FOUND, resource=resource, hashed=True)
        assert ids(await attacker.ask(Verb.LIST, resource)) == {str(attacker.own[resource])}
    found = await attacker.ask(Verb.SEARCH, resources=list(victim.own), query=WORD, page_size=500)
    assert ids(found) == {str(row) for row in attacker.own.values()}


# ── more than was asked for ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_in_a_message_can_say_who_asks(edge: Edge, attacker: Holder, victim: Holder) -> None:
    """Fields that the protocol does not have change no answer; a field given twice counts once, and is checked as it counts."""
    request = attacker.request(Verb.LIST).SerializeToString()
    smuggled = b"".join(
        bytes([number << 3 | 2, len(value)]) + value
        for number, value in [
            (10, str(victim.grant_id).encode()),
            (11, str(victim.subject).encode()),
            (12, b'{"include_teams": []}'),
        ]
    )
    answer = pb.ListResourcesResponse.FromString(await attacker.raw(Verb.LIST)(only(request + smuggled)))
    assert ids(answer) == {str(attacker.own["tasks"])}

    twice = request + pb.ListResourcesRequest(resource="credentials").SerializeToString()
    assert (await refused(attacker.raw(Verb.LIST)(only(twice)))).reason == "RESOURCE_NOT_GRANTED"


async def only(message: bytes) -> AsyncIterator[bytes]:
    yield message


SMUGGLED: Final[Mapping[str, tuple[Mapping[str, object], str]]] = {
    "a key of another level": ({"include_teams": []}, "/include_teams"),
    "an owner": ({"subject_user_id": str(UUID(int=1))}, "/subject_user_id"),
    "a key in a filter": ({"filters": {"tasks": {"owner_id": str(UUID(int=1))}}}, "/filters/tasks/owner_id"),
    "a filter of what is not shown": ({"filters": {"credentials": {}}}, "/filters/credentials"),
    "a null filter": ({"filters": {"tasks": None}}, "/filters/tasks"),
    "Cyrillic": ({"resources": ["tаsks"]}, "/resources/0"),
    "full width": ({"resources": ["ｔasks"]}, "/resources/0"),
    "with a NUL": ({"resources": ["tasks\0"]}, "/resources/0"),
    "twice": ({"resources": ["tasks", "tasks"]}, "/resources/1"),
    "a thousand times": ({"resources": ["tasks"] * 1000}, "/resources/1"),
    "a cap of infinity": ({"max_rows_per_query": float("inf")}, "/max_rows_per_query"),
    "a cap as text": ({"max_rows_per_query": "1; DROP TABLE tasks"}, "/max_rows_per_query"),
}


@pytest.mark.parametrize("document", SMUGGLED)
async def test_a_scope_says_nothing_that_it_should_not(work: Gateway, rows: Rows, document: str) -> None:
    """Whoever writes the scope's text cannot slip a right past the operator who reads it: refused, at its place."""
    changed, where = SMUGGLED[document]
    user = str(rows.user())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await work.create_grant(user=user, peer="smuggler", scope={**SCOPE, **changed})
    answer = Refused.of(error.value)
    assert (answer.code, answer.reason, answer.metadata["http_status"]) == (INVALID_ARGUMENT, "SCOPE_INVALID", "400")
    assert where in answer.violations
    assert work.rows("SELECT FROM federation.federation_grants WHERE subject_user_id = %s", user) == []


async def test_a_huge_list_of_resources_is_what_it_names(edge: Edge, attacker: Holder) -> None:
    """One resource nine thousand times is one search; one that is not granted among them refuses all."""
    with edge.relay.noting() as asked:
        answer = await attacker.ask(Verb.SEARCH, resources=["tasks"] * 9_000)
    assert ids(answer) == {str(attacker.own["tasks"])}
    assert asked.functions.count("search_tasks") == 1
    last = await attacker.refused(Verb.SEARCH, resources=[*["tasks"] * 5_000, "api_keys"])
    assert last.reason == "RESOURCE_NOT_GRANTED"
    many = await attacker.refused(Verb.SEARCH, resources=[f"r{number}" for number in range(7_000)])
    assert many.reason == "RESOURCE_UNKNOWN"
    [row] = edge.recorded(many.request_id)
    assert len(row["resource"]) == 64


@pytest.mark.parametrize("page_size", [500, 501, 10**6, 2**31 - 1])
async def test_a_page_has_at_most_five_hundred_rows(edge: Edge, page_size: int) -> None:
    """However many are asked for, of a list and of a search."""
    async with edge.holder(scope={**SCOPE, "max_rows_per_query": 10_000}) as holder:
        edge.rows.owner.execute(
            "INSERT INTO public.tasks (id, owner_id, updated_at, title, description, status)"
            " SELECT gen_random_uuid(), %s, now(), 'lighthouse', '', 'open' FROM generate_series(1, 520)",
            (holder.subject,),
        )
        listed = await holder.ask(Verb.LIST, page_size=page_size)
        assert (len(listed.resources), bool(listed.next_page_token)) == (500, True)
        found = await holder.ask(Verb.SEARCH, page_size=page_size)
        assert (len(found.hits), found.truncated) == (500, True)


@pytest.mark.parametrize(
    "embedding",
    [
        pytest.param([1.0], id="one dimension"),
        pytest.param([1.0] * (DIMENSION - 1), id="one too few"),
        pytest.param([1.0] * (DIMENSION + 1), id="one too many"),
        pytest.param([1.0] * 15_000, id="as many as a message holds"),
        pytest.param([math.nan] * DIMENSION, id="NaN"),
        pytest.param([1.0] * (DIMENSION - 1) + [math.nan], id="NaN, the last"),
        pytest.param([math.inf] + [0.0] * (DIMENSION - 1), id="infinity"),
        pytest.param([-math.inf] + [1.0] * (DIMENSION - 1), id="minus infinity"),
        pytest.param([0.0] * DIMENSION, id="zero"),
        pytest.param([-0.0] * DIMENSION, id="minus zero"),
        pytest.param([1e-60] * DIMENSION, id="too small for float32: zero on the wire"),
    ],
)
async def test_an_embedding_that_is_no_direction(attacker: Holder, embedding: list[float]) -> None:
    """Of the registry's dimension, finite, and not all zero: anything else reaches no index."""
    answer = await attacker.refused(Verb.SEARCH, resources=["memory"], query="", embedding=embedding)
    denial = replace(REQUEST_INVALID, violations=("embedding",))
    answer.assert_is(denial)
    attacker.assert_recorded(answer, Verb.SEARCH, denial, resource="memory")


@pytest.mark.parametrize(
    "embedding",
    [
        pytest.param([1e-45] * DIMENSION, id="all subnormal"),
        pytest.param([1e-45] + [0.0] * (DIMENSION - 1), id="one subnormal"),
        pytest.param([3.4e38] * DIMENSION, id="as long as float32 holds"),
        pytest.param([3.4e38, 1e-45] + [-0.0] * (DIMENSION - 2), id="both ends"),
    ],
)
async def test_an_embedding_at_the_ends_of_float32_is_a_direction(edge: Edge, embedding: list[float]) -> None:
    """Its squares would overflow or vanish; its distance is a number all the same."""
    async with edge.holder() as holder:
        row = edge.rows.resource("memory", holder.subject, embedding=[1.0] + [0.0] * (DIMENSION - 1))
        answer = await holder.ask(Verb.SEARCH, resources=["memory"], query="", embedding=embedding)
    [hit] = answer.hits
    assert hit.resource.id == str(row)
    assert 0.0 <= hit.distance < 1.0


async def test_an_embedding_for_what_has_none(attacker: Holder) -> None:
    """Tasks have no embedding, whatever is sent."""
    answer = await attacker.refused(Verb.SEARCH, embedding=[1.0] * DIMENSION)
    assert (answer.reason, answer.violations) == ("REQUEST_INVALID", ("embedding",))


# ── answers that are bombs ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rows_of_a_mebibyte_and_more(edge: Edge) -> None:
    """No answer grows beyond what a caller takes: a page of large rows is cut, and so is a text that no answer can hold."""
    async with edge.holder() as holder:
        large = [edge.rows.resource("notes", holder.subject, body=(f"{WORD} " * MIB)[:MIB]) for _ in range(3)]
        for row_id in large:
            assert len((await holder.ask(Verb.GET, "notes", id=str(row_id))).resource.note.body) == MIB
        for answer in (await holder.ask(Verb.LIST, "notes"), await holder.ask(Verb.SEARCH, "notes")):
            assert len(ids(answer)) == 1
            assert answer.ByteSize() < MIB + 4096

        # Anybody in a team can write one: it must not end every list that comes to it.
        huge = edge.rows.resource("notes", holder.subject, body=(f"{WORD} é " * MIB)[: 5 * MIB])
        listed = await holder.ask(Verb.LIST, "notes")
        assert ids(listed) == {str(huge)}
        assert ids(await holder.ask(Verb.LIST, "notes", page_token=listed.next_page_token)) == {str(large[-1])}
        for row in (listed.resources[0], (await holder.ask(Verb.GET, "notes", id=str(huge))).resource):
            assert (len(row.note.body), row.note.body[-1]) == (MIB // 4, "…")
        assert len(ids(await holder.ask(Verb.SEARCH, "notes"))) == 1
        assert await holder.ask(Verb.GET, "notes")
        assert ids(await holder.ask(Verb.SEARCH)) == {str(holder.own["tasks"])}


# ── metadata and frames ───────────────────────────────────────────────────────────────────────────────────────────────────────────

LIST: Final = "/mosaic.federation.v1.FederationService/ListResources"
ANSWERED, REFUSED = "answered", "refused"


def added(*more: tuple[str, str | bytes]) -> Callable[[RawHeaders], RawHeaders]:
    return lambda usual: [*usual, *more]


def instead(name: str, *values: str) -> Callable[[RawHeaders], RawHeaders]:
    """A header with another value, with several, or without any."""

    def change(usual: RawHeaders) -> RawHeaders:
        at = next(position for position, (key, _) in enumerate(usual) if key == name)
        return [*usual[:at], *((name, value) for value in values), *usual[at + 1 :]]

    return change


HEADERS: Final = {
    "NUL in a client's id": (added(("x-request-id", b"a\0b")), ANSWERED),
    "CR and LF in a client's id": (added(("x-request-id", b"a\r\nlevel=error b")), ANSWERED),
    "escapes in a client's id": (added(("x-request-id", b"\x1b[2J\x9b2J\xff")), ANSWERED),
    "a long client's id": (added(("x-request-id", "x" * 8_000)), ANSWERED),
    "NUL in any header": (added(("x-any", b"\0" * 100)), ANSWERED),
    "a trace context": (
        added(("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"), ("tracestate", "x=y"), ("baggage", "user=admin")),
        ANSWERED,
    ),
    "a trace context that is none": (
        added(("traceparent", b"00-\0\r\n"), ("tracestate", "=" * 4_000), ("baggage", "," * 4_000)),
        ANSWERED,
    ),
    "a hundred trace contexts": (added(*[("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")] * 100), ANSWERED),
    "four hundred headers": (added(*[(f"x-{number}", "") for number in range(400)]), ANSWERED),
    "somebody's bearer token": (added(("authorization", "Bearer e30.e30.e30")), ANSWERED),
    "an identity of one's own": (added(("x-forwarded-for", "10.0.0.1"), ("x-grant-id", str(UUID(int=1)))), ANSWERED),
    "more metadata than there may be": (added(("x-any", "x" * 20_000)), REFUSED),
    "binary metadata that is none": (added(("x-any-bin", "!!!")), REFUSED),
    "another content type": (instead("content-type", "text/html"), ANSWERED),
    "a content type with escapes": (instead("content-type", "application/grpc+\x1b[2J"), ANSWERED),
    "no content type": (instead("content-type"), ANSWERED),
    "GET": (instead(":method", "GET"), REFUSED),
    "no method": (instead(":method"), REFUSED),
    "another path": (instead(":path", "/mosaic.grants.v1.GrantService/ListGrants"), REFUSED),
    "a path with escapes": (instead(":path", "/\x1b[2J\r\n"), REFUSED),
    "another authority": (instead(":authority", "grants.work.mosaic.internal"), ANSWERED),
    "an unknown pseudo-header": (added((":grant", "x")), REFUSED),
    "no te": (instead("te"), REFUSED),
}


@pytest.mark.parametrize("headers", HEADERS)
async def test_whatever_stands_in_a_header(edge: Edge, attacker: Holder, tmp_path: Path, headers: str) -> None:
    """Frame by frame, as no library would send it: answered or refused, with nothing of it in the record; the gateway goes on."""
    change, expected = HEADERS[headers]
    before = len(edge.records_of(attacker))
    async with RawCaller.connect(attacker, ResumingTls.of(attacker, tmp_path)) as caller:
        answer = await caller.call(change(caller.usual(LIST)), attacker.request(Verb.LIST).SerializeToString())
    assert (ANSWERED if answer.grpc_status == 0 else REFUSED) == expected, answer
    new = edge.records_of(attacker)[before:]
    assert [(row["outcome"], row["verb"]) for row in new] == ([("allowed", "list")] if expected == ANSWERED else [])
    for row in new:
        assert (row["source_address"], row["grant_id"], row["subject_user_id"]) == (
            "127.0.0.1",
            attacker.grant_id,
            attacker.subject,
        )
    assert await attacker.ask(Verb.LIST)


async def test_the_record_says_which_of_two_paths_was_served(edge: Edge, attacker: Holder, tmp_path: Path) -> None:
    """A call that names two methods gets one of them, and that one is on record."""
    paths = (LIST, "/mosaic.federation.v1.FederationService/GetCapabilities")
    before = len(edge.records_of(attacker))
    async with RawCaller.connect(attacker, ResumingTls.of(attacker, tmp_path)) as caller:
        answer = await caller.call(instead(":path", *paths)(caller.usual(LIST)), b"")
    assert answer.grpc_status == 0
    assert list(pb.GetCapabilitiesResponse.FromString(answer.data[5:]).resources) == SCOPE["resources"]
    assert [(row["outcome"], row["verb"]) for row in edge.records_of(attacker)[before:]] == [("allowed", "capabilities")]
