"""A federated read, from a client certificate to the rows and their audit row: nothing between is replaced."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import Message
from mosaic.federation.v1 import federation_pb2 as pb
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.audit import ChainBroken, Outcome
from mosaic_common.clock import Clock
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer
from mosaic_common.identity import EDGE_INBOUND, GRANTS
from mosaic_common.page_tokens import KEY_BYTES, LIFETIME, PageBinding, PagePosition, PageTokens
from mosaic_common.x509 import fingerprint_sha256

from tests.support.audit_records import assert_recorded, chains_of, reads_of, record_of
from tests.support.authorities import with_not_before
from tests.support.clock import FakeClock
from tests.support.forgeries import forge, forged_peer
from tests.support.gateway import Gateway, Pair
from tests.support.peers import PeerClient, Refusal, refusal
from tests.support.rows import Rows
from tests.support.visibility import Rule, ids, visible_rows

MAYA: Final = "maya@example.com"
MIB: Final = 1024 * 1024
NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
CARELESS_CAP: Final = 10_000
LEFT: Final = "Incident Response"
"""The team that Maya has left; what she wrote there is still hers."""


@pytest.fixture(scope="module")
def work(pair: Pair) -> Gateway:
    return pair.work


@pytest.fixture(scope="module")
def rows(work: Gateway) -> Iterator[Rows]:
    with work.database.connect() as owner:
        yield Rows(owner)


@pytest.fixture(scope="module")
async def maya(work: Gateway) -> PeerClient:
    """A peer that may read everything Maya sees, at most 500 rows at a time."""
    return await work.enroll(user=MAYA)


@pytest.fixture(scope="module")
async def ten_tasks(work: Gateway, rows: Rows) -> UUID:
    """A user who owns ten tasks and nothing else."""
    user = rows.user()
    for age in range(10):
        rows.resource("tasks", user, updated_at=NOW - timedelta(hours=age))
    return user


def user_id(work: Gateway, email: str) -> str:
    [(found,)] = work.rows("SELECT id::text FROM public.users WHERE email = %s", email)
    return str(found)


def team_id(work: Gateway, name: str) -> str:
    [(found,)] = work.rows("SELECT id::text FROM public.teams WHERE name = %s", name)
    return str(found)


def scope_of(*resources: str, cap: int = CARELESS_CAP, rule: Rule | None = None) -> dict[str, Any]:
    """A scope of these resources, each with the same filter or none of them with any."""
    filters = {} if rule is None else dict.fromkeys(resources, rule)
    return {"resources": list(resources), "filters": filters, "max_rows_per_query": cap}


def set_in_scope(work: Gateway, peer: PeerClient, field: str, value: object) -> None:
    work.execute(
        "UPDATE federation.federation_grants SET scope = jsonb_set(scope, ARRAY[%s], %s::text::jsonb) WHERE id = %s",
        field,
        json.dumps(value),
        peer.grant_id,
    )


def rows_of(pages: Sequence[pb.ListResourcesResponse]) -> list[Any]:
    return [row for page in pages for row in page.resources]


async def assert_refused(
    work: Gateway, call: Any, code: grpc.StatusCode, reason: str, layer: Layer, *, outcome: Outcome = Outcome.DENIED
) -> Refusal:
    refused = await refusal(call)
    assert (refused.code, refused.reason) == (code, reason)
    assert_recorded(work, refused, layer, outcome=outcome)
    return refused


# --- which rows


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that names teams as people do."""

    teams: tuple[str, ...] = ()
    personal: bool | None = None

    def rule(self, work: Gateway) -> Rule:
        rule: dict[str, Any] = {"include_teams": [team_id(work, team) for team in self.teams]} if self.teams else {}
        return rule if self.personal is None else {**rule, "include_personal": self.personal}


@contextmanager
def member_meanwhile(work: Gateway, user: str, teams: Sequence[str]) -> Iterator[None]:
    """No grant is created for a team that its subject is not in: whoever has left is in it until the grant is there."""
    lacking = [
        team_id(work, team)
        for team in teams
        if not work.rows(
            "SELECT FROM public.team_members WHERE user_id = %s AND team_id = %s", user_id(work, user), team_id(work, team)
        )
    ]
    for team in lacking:
        work.execute("INSERT INTO public.team_members (user_id, team_id) VALUES (%s, %s)", user_id(work, user), team)
    yield
    for team in lacking:
        work.execute("DELETE FROM public.team_members WHERE user_id = %s AND team_id = %s", user_id(work, user), team)


@pytest.mark.parametrize(
    ("user", "filtered"),
    [
        pytest.param(MAYA, None, id="no filter: everything she natively sees"),
        pytest.param(MAYA, Filter(), id="an empty filter: personal"),
        pytest.param(MAYA, Filter(personal=True), id="personal"),
        pytest.param(MAYA, Filter(("Platform",), personal=False), id="one team"),
        pytest.param(MAYA, Filter(("Platform", "Field Operations")), id="two teams and personal"),
        pytest.param(MAYA, Filter((LEFT,), personal=False), id="a team that she has left: her own rows"),
        pytest.param(MAYA, Filter(("Platform", LEFT)), id="a team, one that she has left, and personal"),
        pytest.param("tomas@example.com", Filter(("Platform", LEFT)), id="another user with other teams"),
        pytest.param("lucia@example.com", None, id="a user of one team"),
    ],
)
async def test_shows_exactly_what_grant_and_native_rights_allow(work: Gateway, user: str, filtered: Filter | None) -> None:
    """Every row that grant ∩ native RBAC allow, whole and in order, and no other, of each resource, over pages of any size."""
    rule = filtered.rule(work) if filtered else None
    with member_meanwhile(work, user, filtered.teams if filtered else ()):
        peer = await work.enroll(user=user, scope=scope_of("tasks", "notes", "memory", rule=rule))
    for resource, page_size in (("tasks", 500), ("notes", 17), ("memory", 40)):
        pages = await peer.list_all(resource, page_size=page_size)
        expected = visible_rows(work, resource, user_id(work, user), rule)
        assert rows_of(pages) == expected
        assert expected, "a comparison with nothing proves nothing"
        assert len(pages) == max(1, -(-len(expected) // page_size))
        assert [page.truncated for page in pages] == [False] * len(pages)
        assert {page.source for page in pages} == {"work"}


OWN, OWN_IN_TEAM, TEAM, OWN_LEFT_BEHIND, LEFT_BEHIND, FOREIGN = (
    "own, no team",
    "own, of a team",
    "of a team",
    "own, of a team left",
    "of a team left",
    "of somebody else",
)


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        pytest.param(None, {OWN, OWN_IN_TEAM, TEAM, OWN_LEFT_BEHIND}, id="no filter"),
        pytest.param({}, {OWN}, id="an own row of a team is not personal"),
        pytest.param({"include_personal": False}, set(), id="nothing"),
        pytest.param({"include_teams": ["in"], "include_personal": False}, {OWN_IN_TEAM, TEAM}, id="a team"),
        pytest.param({"include_teams": ["in"]}, {OWN, OWN_IN_TEAM, TEAM}, id="a team and personal"),
        pytest.param({"include_teams": ["left"], "include_personal": False}, {OWN_LEFT_BEHIND}, id="a team left: own rows only"),
        pytest.param(
            {"include_teams": ["left", "in"]}, {OWN, OWN_IN_TEAM, TEAM, OWN_LEFT_BEHIND}, id="a team, a team left, personal"
        ),
    ],
)
async def test_personal_team_and_left_rows(work: Gateway, rows: Rows, rule: dict[str, Any] | None, shown: set[str]) -> None:
    """Native RBAC row by row, written out by hand: this table and contracts.md, no model between them."""
    subject, colleague = rows.user(), rows.user()
    teams = {"in": rows.team(subject, colleague), "left": rows.team(subject, colleague)}
    written = {
        str(rows.resource("notes", owner, team)): name
        for name, owner, team in [
            (OWN, subject, None),
            (OWN_IN_TEAM, subject, teams["in"]),
            (TEAM, colleague, teams["in"]),
            (OWN_LEFT_BEHIND, subject, teams["left"]),
            (LEFT_BEHIND, colleague, teams["left"]),
            (FOREIGN, colleague, None),
        ]
    }
    if rule and "include_teams" in rule:
        rule = rule | {"include_teams": [str(teams[name]) for name in rule["include_teams"]]}
    peer = await work.enroll(user=str(subject), scope=scope_of("notes", rule=rule))
    work.execute("DELETE FROM public.team_members WHERE user_id = %s AND team_id = %s", subject, teams["left"])

    answer = await peer.list("notes")
    assert {written[row.id] for row in answer.resources} == shown
    assert not answer.truncated


@pytest.mark.parametrize("resource", ["credentials", "api_keys"])
async def test_a_sensitive_resource_shows_what_it_is_about_and_never_the_secret(work: Gateway, resource: str) -> None:
    """Approved, it lists label, provider and times; the secret column is in no byte of the answer."""
    grant_id = await work.create_grant(user=MAYA, peer="home", scope=scope_of(resource), approve_sensitive=True)
    peer = work.peer_client(await work.redeem(await work.create_token(grant_id)))
    answer = await peer.list(resource)
    assert list(answer.resources) == visible_rows(work, resource, user_id(work, MAYA))
    column = {"credentials": "secret_value", "api_keys": "key_hash"}[resource]
    secrets = [secret for (secret,) in work.rows(f"SELECT {column} FROM public.{resource}")]
    assert secrets
    assert not any(secret.encode() in answer.SerializeToString() for secret in secrets)


@pytest.mark.parametrize("resource", ["notes", "credentials", "memory"])
async def test_a_resource_outside_the_scope_is_refused(work: Gateway, resource: str) -> None:
    """Excluded by name, sensitive, or just not listed: one refusal, and the row of the log says so."""
    peer = await work.enroll(user=MAYA, scope={**scope_of("tasks"), "excluded_resources": ["notes"]})
    refused = await assert_refused(
        work, peer.list(resource), grpc.StatusCode.PERMISSION_DENIED, "RESOURCE_NOT_GRANTED", Layer.SCOPE
    )
    assert refused.metadata["http_status"] == "403"
    assert refused.message == "The grant does not show this resource."


async def test_a_resource_that_does_not_exist_is_bad_input(work: Gateway, maya: PeerClient) -> None:
    """After the grant checks, and with the names that do exist."""
    refused = await assert_refused(work, maya.list("users"), grpc.StatusCode.INVALID_ARGUMENT, "RESOURCE_UNKNOWN", Layer.REQUEST)
    assert refused.violations == {"resource": "must be one of tasks, notes, memory, credentials, api_keys"}


# --- pages


async def test_pages_lose_and_repeat_nothing_while_rows_come_in(work: Gateway, rows: Rows) -> None:
    """Between any two pages rows come in newer, older, and with the very time of the last row served; what was there before the
    first page comes exactly once, in order, although many rows share one time."""
    user = rows.user()
    there = {str(rows.resource("tasks", user, updated_at=NOW - timedelta(microseconds=number % 3))) for number in range(40)}
    peer = await work.enroll(user=str(user), scope=scope_of("tasks"))

    pages = [await peer.list("tasks", page_size=7)]
    while pages[-1].next_page_token:
        last = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=pages[-1].resources[-1].updated_at_us)
        for moment in (NOW + timedelta(seconds=1), last, NOW - timedelta(microseconds=1), last - timedelta(days=1)):
            if len(pages) < 6:
                rows.resource("tasks", user, updated_at=moment)
        pages.append(await peer.list("tasks", page_size=7, page_token=pages[-1].next_page_token))

    served = rows_of(pages)
    assert len(served) == len(set(ids(served)))
    assert there <= set(ids(served))
    assert served == sorted(served, key=lambda row: (-row.updated_at_us, row.id))
    assert all(len(page.resources) == 7 for page in pages[:-1])


@pytest.mark.parametrize(
    ("cap", "page_size", "pages", "truncated"),
    [
        pytest.param(11, 0, [10], False, id="one row below the cap"),
        pytest.param(10, 0, [10], False, id="exactly cap rows is not truncated"),
        pytest.param(9, 0, [9], True, id="one row more than the cap"),
        pytest.param(10, 10, [10], False, id="page, rows and cap of one size"),
        pytest.param(10, 5, [5, 5], False, id="exactly cap rows over full pages"),
        pytest.param(9, 5, [5, 4], True, id="the cap ends within the second page"),
        pytest.param(6, 3, [3, 3], True, id="the cap ends where a page ends"),
        pytest.param(10, 3, [3, 3, 3, 1], False, id="the last page is the rest"),
        pytest.param(5, 5, [5], True, id="the first page is the cap"),
        pytest.param(1, 500, [1], True, id="a cap of one"),
    ],
)
async def test_the_cap_bounds_all_pages_together(
    work: Gateway, ten_tasks: UUID, cap: int, page_size: int, pages: list[int], truncated: bool
) -> None:
    """Ten rows: all pages of one query never exceed the cap, and the last says whether it hid a row."""
    peer = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks", cap=cap))
    answers = await peer.list_all("tasks", page_size=page_size)
    assert [len(answer.resources) for answer in answers] == pages
    assert [answer.truncated for answer in answers] == [*[False] * (len(pages) - 1), truncated]
    assert rows_of(answers) == visible_rows(work, "tasks", str(ten_tasks))[:cap]


async def test_a_cap_that_is_lowered_between_two_pages_holds_for_the_second(work: Gateway, ten_tasks: UUID) -> None:
    """The rows already served count against the cap as it is now."""
    peer = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks", cap=8))
    first = await peer.list("tasks", page_size=4)
    set_in_scope(work, peer, "max_rows_per_query", 5)
    second = await peer.list("tasks", page_size=4, page_token=first.next_page_token)
    assert (len(second.resources), second.truncated, second.next_page_token) == (1, True, "")
    set_in_scope(work, peer, "max_rows_per_query", 3)
    second = await peer.list("tasks", page_size=4, page_token=first.next_page_token)
    assert (len(second.resources), second.truncated, second.next_page_token) == (0, True, "")


@pytest.fixture(scope="module")
async def many(work: Gateway, rows: Rows) -> PeerClient:
    """A peer of a user with 510 tasks."""
    user = rows.user()
    work.execute(
        """INSERT INTO public.tasks (id, owner_id, updated_at, title, description, status)
           SELECT gen_random_uuid(), %s, now() - number * interval '1 minute', 'Count', '', 'open'
           FROM generate_series(1, 510) number""",
        user,
    )
    return await work.enroll(user=str(user), scope=scope_of("tasks"))


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (499, 499), (500, 500), (501, 500), (2**31 - 1, 500)], ids=str)
async def test_page_sizes(many: PeerClient, asked: int, given: int) -> None:
    """0 means 50, more than 500 means 500."""
    answer = await many.list("tasks", page_size=asked)
    assert len(answer.resources) == given
    assert answer.next_page_token


@pytest.mark.parametrize("asked", [-1, -500, -(2**31)])
async def test_a_negative_page_size_is_refused(work: Gateway, many: PeerClient, asked: int) -> None:
    """It is not rounded to anything."""
    refused = await assert_refused(
        work, many.list("tasks", page_size=asked), grpc.StatusCode.INVALID_ARGUMENT, "PAGE_SIZE_INVALID", Layer.REQUEST
    )
    assert set(refused.violations) == {"page_size"}


async def test_pages_end_at_a_mebibyte_but_hold_at_least_one_row(work: Gateway, rows: Rows) -> None:
    """Large rows make more pages, a row above the limit a page of its own; none is lost, none comes twice, none is cut."""
    user = rows.user()
    sizes = [300_000] * 4 + [MIB] + [600_000, 600_000] + [10] * 3 + [MIB]
    bodies = {}
    for age, size in enumerate(sizes):
        note = rows.resource("notes", user, updated_at=NOW - timedelta(hours=age))
        bodies[str(note)] = "ö" * (size // 2)
        work.execute("UPDATE public.notes SET body = %s WHERE id = %s", bodies[str(note)], note)
    peer = await work.enroll(user=str(user), scope=scope_of("notes"))
    pages = await peer.list_all("notes", page_size=500)
    assert [(row.id, row.note.body) for row in rows_of(pages)] == list(bodies.items())
    assert [len(page.resources) for page in pages] == [3, 1, 1, 1, 4, 1]
    assert all(len(page.resources) == 1 or page.ByteSize() <= MIB + 1024 for page in pages)
    assert not any(page.truncated for page in pages)


# --- page tokens


@dataclass(frozen=True, slots=True)
class Begun:
    """A query whose first page was served."""

    peer: PeerClient
    token: str
    rest: list[Any]


@pytest.fixture(scope="module")
async def begun(work: Gateway, ten_tasks: UUID) -> Begun:
    peer = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks", "notes"))
    first = await peer.list("tasks", page_size=4)
    return Begun(peer, first.next_page_token, visible_rows(work, "tasks", str(ten_tasks))[4:])


def flipped(byte: int) -> Callable[[str], str]:
    """One bit of the sealed bytes is another."""

    def alter(token: str) -> str:
        raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        raw[byte] ^= 0x10
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    return alter


def of_another_key(token: str) -> str:
    """As our own code seals, but not with this gateway's key."""
    binding = PageBinding(uuid4(), bytes(32), Verb.LIST, bytes(32), "newest_first")
    return PageTokens(bytes(KEY_BYTES), FakeClock()).seal(PagePosition(0, uuid4().bytes, 0), binding)


ALTERED = [
    pytest.param(flipped(0), id="a bit of the version"),
    pytest.param(flipped(1), id="a bit of the key id"),
    pytest.param(flipped(8), id="the last bit of the key id"),
    pytest.param(flipped(9), id="a bit of the salt"),
    pytest.param(flipped(24), id="the salt's end"),
    pytest.param(flipped(25), id="a bit of the nonce"),
    pytest.param(flipped(36), id="the nonce's end"),
    pytest.param(flipped(37), id="a bit of the expiry"),
    pytest.param(flipped(52), id="a bit of the time"),
    pytest.param(flipped(60), id="a bit of the row id"),
    pytest.param(flipped(72), id="a bit of the rows served: the cap would move"),
    pytest.param(flipped(73), id="the first bit of the tag"),
    pytest.param(flipped(-1), id="the last bit of the tag"),
    pytest.param(lambda token: token[:-1], id="shortened"),
    pytest.param(lambda token: token + "A", id="lengthened"),
    pytest.param(lambda token: token + "=", id="padded: another spelling"),
    pytest.param(lambda token: token[:-1] + chr(ord(token[-1]) + 1), id="another spelling of the last character"),
    pytest.param(lambda token: token.swapcase(), id="swapped case"),
    pytest.param(lambda token: "A" * len(token), id="made up"),
    pytest.param(lambda token: "😀" * len(token), id="not ASCII"),
    pytest.param(lambda token: " ", id="a space"),
    pytest.param(lambda token: "A" * 60_000, id="very long"),
    pytest.param(of_another_key, id="forged under another key"),
]


async def test_a_page_token_continues_its_query(begun: Begun) -> None:
    """As often as it is used, with any page size: it keeps no state."""
    for page_size in (500, 500, 6):
        answer = await begun.peer.list("tasks", page_size=page_size, page_token=begun.token)
        assert list(answer.resources) == begun.rest


@pytest.mark.parametrize("alter", ALTERED)
async def test_an_altered_or_forged_page_token_is_refused(work: Gateway, begun: Begun, alter: Callable[[str], str]) -> None:
    """Nobody moves the position, the count against the cap, or the end by touching a token."""
    await refused_token(work, begun.peer, "tasks", alter(begun.token))


async def refused_token(work: Gateway, peer: PeerClient, resource: str, token: str) -> None:
    """Every token that does not open is refused with the same words: which check failed is nobody's business."""
    call = peer.list(resource, page_token=token)
    refused = await assert_refused(work, call, grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", Layer.REQUEST)
    assert refused.message == "The page token does not belong to this query: start the query again."
    assert refused.metadata["http_status"] == "400"


async def test_a_page_token_of_another_resource_is_refused(work: Gateway, begun: Begun) -> None:
    """A position among tasks is none among notes."""
    await refused_token(work, begun.peer, "notes", begun.token)


async def test_a_page_token_of_another_grant_is_refused(work: Gateway, begun: Begun, ten_tasks: UUID) -> None:
    """Though it is the same user, peer and resource."""
    other = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks", "notes"))
    assert await other.list("tasks")
    await refused_token(work, other, "tasks", begun.token)


async def test_a_page_token_of_another_certificate_is_refused(work: Gateway, rows: Rows, ten_tasks: UUID) -> None:
    """Though both certificates are accepted for the one grant: whoever finds a token in a log cannot use it."""
    peer = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks"))
    key, chain = forge(work, UUID(peer.grant_id), ten_tasks)
    pin_beside(rows, peer.grant_id, chain)
    other = work.peer_client_with(key, chain, peer.grant_id)

    first = await peer.list("tasks", page_size=4)
    own = await other.list("tasks", page_size=4)
    await refused_token(work, other, "tasks", first.next_page_token)
    await refused_token(work, peer, "tasks", own.next_page_token)


def pin_beside(rows: Rows, grant_id: str, chain_pem: bytes) -> None:
    """As after a renewal: the grant has two certificates for a day."""
    leaf = x509.load_pem_x509_certificate(chain_pem)
    rows.insert(
        "federation.federation_certificates",
        {
            "fingerprint_sha256": fingerprint_of(chain_pem),
            "grant_id": grant_id,
            "serial": leaf.serial_number,
            "der": leaf.public_bytes(Encoding.DER),
            "chain_pem": chain_pem.decode(),
            "spki_sha256": bytes(32),
            "not_before": leaf.not_valid_before_utc,
            "not_after": leaf.not_valid_after_utc,
            "state": "superseded",
            "superseded_at": datetime.now(UTC),
        },
    )


def fingerprint_of(chain_pem: bytes) -> bytes:
    return fingerprint_sha256(x509.load_pem_x509_certificate(chain_pem).public_bytes(Encoding.DER))


@asynccontextmanager
async def replica(work: Gateway, clock: Clock) -> AsyncIterator[Gateway]:
    """One more inbound edge of the same gateway, with a clock of its own."""
    public, internal = (f"127.0.0.1:{port}" for port in choose_free_ports(2))
    addresses = work.addresses | {(EDGE_INBOUND, "public"): public, (EDGE_INBOUND, "internal"): internal}
    other = replace(work, clock=clock, addresses=addresses, apps={}, _channels=[])
    await other.start(EDGE_INBOUND)
    try:
        yield other
    finally:
        await other.close()


async def test_a_page_token_is_good_for_ten_minutes_at_every_replica(
    work: Gateway, rows: Rows, begun: Begun, ten_tasks: UUID
) -> None:
    """Another replica opens it until its time is over, and then says that it has expired, not that it is forged."""
    # The replica's clock starts behind: the database records nothing that lies more than 5 minutes ahead.
    clock = FakeClock(datetime.now(UTC) - timedelta(minutes=6))
    grant_id = (await work.enroll(user=str(ten_tasks), scope=scope_of("tasks"))).grant_id
    key, chain = forge(work, UUID(grant_id), ten_tasks, with_not_before(clock.now()))
    pin_beside(rows, grant_id, chain)
    async with replica(work, clock) as other:
        peer = other.peer_client_with(key, chain, grant_id)
        token = (await peer.list("tasks", page_size=4)).next_page_token
        elsewhere = work.peer_client_with(key, chain, grant_id)
        assert rows_of([await elsewhere.list("tasks", page_token=token)]) == begun.rest

        clock.advance(LIFETIME - timedelta(microseconds=1))
        assert rows_of([await peer.list("tasks", page_token=token)]) == begun.rest
        clock.advance(timedelta(microseconds=1))
        call = peer.list("tasks", page_token=token)
        refused = await assert_refused(work, call, grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_EXPIRED", Layer.REQUEST)
        assert refused.metadata["http_status"] == "400"


# --- the other verbs


async def test_capabilities_say_what_the_grant_is(work: Gateway, rows: Rows) -> None:
    """Scope in its own order, cap, end and verbs."""
    scope = {"resources": ["notes", "tasks"], "excluded_resources": ["api_keys", "credentials"], "max_rows_per_query": 77}
    before = datetime.now(UTC)
    grant_id = await work.create_grant(user=MAYA, peer="home", scope=scope, expires_in_seconds=3600)
    peer = work.peer_client(await work.redeem(await work.create_token(grant_id)))
    answer = await peer.capabilities()
    assert list(answer.resources) == ["notes", "tasks"]
    assert list(answer.excluded_resources) == ["api_keys", "credentials"]
    assert answer.max_rows_per_query == 77
    assert list(answer.supported_verbs) == [pb.VERB_LIST, pb.VERB_GET, pb.VERB_SEARCH, pb.VERB_CAPABILITIES]
    assert answer.server_version
    expires_at = datetime.fromtimestamp(answer.grant_expires_at_us / 1e6, UTC)
    assert timedelta() <= expires_at - before - timedelta(hours=1) < timedelta(seconds=10)
    [record] = reads_of(work, grant_id)
    assert (record["verb"], record["outcome"]) == ("capabilities", "allowed")


async def test_a_grant_without_an_end_says_so(maya: PeerClient) -> None:
    """Absent is not zero."""
    assert not (await maya.capabilities()).HasField("grant_expires_at_us")


# --- one row, and a search


@pytest.mark.parametrize("resource", ["tasks", "notes", "memory"])
async def test_one_row_by_its_id(work: Gateway, maya: PeerClient, resource: str) -> None:
    """Whole, and the same as in the list."""
    expected = visible_rows(work, resource, user_id(work, MAYA))[3]
    answer = await maya.stub.GetResource(pb.GetResourceRequest(resource=resource, id=expected.id))
    assert answer.resource == expected
    assert answer.source == "work"
    record = reads_of(work, maya.grant_id)[-1]
    assert (record["verb"], record["resource"], record["result_count"], record["bytes_out"]) == (
        "get",
        resource,
        1,
        answer.ByteSize(),
    )
    assert record["query_hash"]


async def test_a_row_that_is_not_there_looks_like_one_that_is_not_hers(work: Gateway, rows: Rows) -> None:
    """One answer but for the id that was asked; which of the three it was, only the record says."""
    subject, colleague = rows.user(), rows.user()
    team = rows.team(subject, colleague)
    peer = await work.enroll(user=str(subject), scope=scope_of("notes", rule={"include_personal": True}))
    asked = {
        "absent": uuid4(),
        "somebody else's": rows.resource("notes", colleague),
        "outside the filter": rows.resource("notes", colleague, team),
    }
    refusals = [
        await refusal(peer.stub.GetResource(pb.GetResourceRequest(resource="notes", id=str(row)))) for row in asked.values()
    ]
    assert {(each.code, each.reason, each.message) for each in refusals} == {
        (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", "There is no such row.")
    }
    recorded = [record_of(work, each) for each in refusals]
    assert [(each["denied_layer"], each["denied_reason"], each["result_count"]) for each in recorded] == [
        ("row", "ROW_NOT_VISIBLE", 0),
        ("row", "ROW_NOT_VISIBLE", 0),
        ("scope", "ROW_OUT_OF_SCOPE", 0),
    ]


@pytest.mark.parametrize(
    "unverified",
    ["", "1", "../etc", (canonical := "0a5e0000-beef-4000-8000-000000000001").upper(), f"{canonical} ", f"{{{canonical}}}"],
)
async def test_an_id_that_is_none_is_bad_input(work: Gateway, maya: PeerClient, unverified: str) -> None:
    """Only the canonical spelling of a UUID is an id."""
    call = maya.stub.GetResource(pb.GetResourceRequest(resource="tasks", id=unverified))
    refused = await assert_refused(work, call, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID", Layer.REQUEST)
    assert list(refused.violations) == ["id"]


async def test_the_cap_hides_no_row_from_a_get(work: Gateway, rows: Rows, ten_tasks: UUID) -> None:
    """The cap bounds a query; each row of the grant can be asked for."""
    peer = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks", cap=1))
    oldest = visible_rows(work, "tasks", str(ten_tasks))[-1]
    assert (await peer.stub.GetResource(pb.GetResourceRequest(resource="tasks", id=oldest.id))).resource == oldest


async def test_a_search_finds_words_in_several_resources(work: Gateway, rows: Rows) -> None:
    """The best of each resource first, then the second of each; nothing of anybody else."""
    subject, colleague = rows.user(), rows.user()
    task = rows.resource("tasks", subject, title="Repaint the lighthouse", description="The lighthouse keeper is back")
    other_task = rows.resource("tasks", subject, title="Paint", description="for a lighthouse")
    note = rows.resource("notes", subject, title="Lighthouses", body="A list of lighthouses")
    rows.resource("tasks", colleague, title="A lighthouse of my own")
    rows.resource("notes", subject, title="Nothing", body="of the kind")
    peer = await work.enroll(user=str(subject), scope=scope_of("tasks", "notes"))
    answer = await peer.stub.SearchResources(pb.SearchResourcesRequest(resources=["notes", "tasks"], query="lighthouse"))
    assert [hit.resource.id for hit in answer.hits] == [str(note), str(task), str(other_task)]
    assert all(hit.rank > 0 and "**" in hit.snippet and not hit.HasField("distance") for hit in answer.hits)
    assert {hit.resource.source for hit in answer.hits} == {"work"}
    assert not answer.truncated
    record = reads_of(work, peer.grant_id)[-1]
    assert (record["verb"], record["resource"], record["result_count"]) == ("search", "notes,tasks", 3)
    assert record["query_hash"]


@pytest.mark.parametrize(("cap", "page_size", "given"), [(2, 0, 2), (10, 2, 2), (3, 0, 3), (10, 0, 3)])
async def test_a_search_gives_no_more_than_page_and_cap(work: Gateway, rows: Rows, cap: int, page_size: int, given: int) -> None:
    """Over all resources together; and it says when more was found."""
    subject = rows.user()
    for resource in ("tasks", "tasks", "notes"):
        rows.resource(resource, subject, title="Buoy")
    peer = await work.enroll(user=str(subject), scope=scope_of("tasks", "notes", cap=cap))
    request = pb.SearchResourcesRequest(resources=["tasks", "notes"], query="buoy", page_size=page_size)
    answer = await peer.stub.SearchResources(request)
    assert (len(answer.hits), answer.truncated) == (given, given < 3)


async def test_memory_is_searched_by_likeness(work: Gateway, rows: Rows) -> None:
    """Nearest first, with its distance; a row without an embedding is found by its words only."""
    subject = rows.user()
    near = rows.resource("memory", subject, content="A quay", embedding=_vector(1.0, 0.1))
    far = rows.resource("memory", subject, content="A harbour", embedding=_vector(0.1, 1.0))
    wordy = rows.resource("memory", subject, content="A quay without a vector")
    peer = await work.enroll(user=str(subject), scope=scope_of("memory"))

    async def search(**fields: Any) -> Any:
        return await peer.stub.SearchResources(pb.SearchResourcesRequest(resources=["memory"], **fields))

    alike = await search(embedding=_vector(1e30, 0.0))
    assert [hit.resource.id for hit in alike.hits] == [str(near), str(far)]
    assert [round(hit.distance, 3) for hit in alike.hits] == [0.005, 0.9]
    both = await search(query="quay", embedding=_vector(1.0, 0.0))
    assert both.hits[0].resource.id == str(near)
    assert {hit.resource.id for hit in both.hits} == {str(near), str(far), str(wordy)}


def _vector(*beginning: float) -> list[float]:
    return [*beginning, *[0.0] * (384 - len(beginning))]


async def test_a_search_that_is_none_is_bad_input(work: Gateway, maya: PeerClient) -> None:
    """With all that is wrong with it; the details are tests/unit/test_edge_search.py's."""
    call = maya.stub.SearchResources(pb.SearchResourcesRequest(resources=["memory"], query="a\0b", embedding=[float("nan")]))
    refused = await assert_refused(work, call, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID", Layer.REQUEST)
    assert sorted(refused.violations) == ["embedding", "query"]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        pytest.param("GetResource", pb.GetResourceRequest(resource="credentials", id=str(uuid4())), id="get"),
        pytest.param("SearchResources", pb.SearchResourcesRequest(resources=["tasks", "credentials"], query="x"), id="search"),
    ],
)
async def test_every_verb_passes_the_same_checks_first(work: Gateway, maya: PeerClient, method: str, request_: Message) -> None:
    """Neither get nor search is a way around the scope; one resource too many refuses the whole search."""
    call = getattr(maya.stub, method)(request_)
    await assert_refused(work, call, grpc.StatusCode.PERMISSION_DENIED, "RESOURCE_NOT_GRANTED", Layer.SCOPE)


# --- the record


async def test_every_allowed_read_is_on_record_when_its_answer_arrives(work: Gateway, maya: PeerClient) -> None:
    """Who asked what, how many rows and bytes left, how long it took; never what was in them."""
    answer = await maya.list("notes", page_size=9)
    last = reads_of(work, maya.grant_id)[-1]
    [(peer_id,)] = work.rows("SELECT peer_id FROM federation.federation_grants WHERE id = %s", maya.grant_id)
    recorded = {
        name: last[name] for name in ("outcome", "verb", "resource", "result_count", "bytes_out", "status_code", "repeated")
    }
    assert recorded == {
        "outcome": "allowed",
        "verb": "list",
        "resource": "notes",
        "result_count": 9,
        "bytes_out": answer.ByteSize(),
        "status_code": 0,
        "repeated": 1,
    }
    assert (last["denied_layer"], last["denied_reason"]) == (None, None)
    assert (str(last["grant_id"]), last["peer_id"]) == (maya.grant_id, peer_id)
    assert str(last["subject_user_id"]) == user_id(work, MAYA)
    assert last["actor"] == fingerprint_of(maya.chain).hex()[:16]
    assert last["source_address"] == "127.0.0.1"
    assert 0 < last["latency_us"] < 10_000_000
    assert abs(last["time_us"] / 1e6 - time.time()) < 10


async def test_the_same_query_has_the_same_hash_and_another_another(work: Gateway, maya: PeerClient) -> None:
    """The record tells equal queries without telling the query."""
    hashes = []
    for resource in ("tasks", "notes", "tasks"):
        await maya.list(resource)
        hashes.append(bytes(reads_of(work, maya.grant_id)[-1]["query_hash"]))
    assert hashes[0] == hashes[2] != hashes[1]
    assert {len(each) for each in hashes} == {32}


async def test_a_search_for_something_else_has_another_hash(work: Gateway, maya: PeerClient) -> None:
    """Text and embedding are each part of what was asked."""
    questions: list[dict[str, Any]] = [
        {"query": "quay"},
        {"query": "harbour"},
        {"query": "quay", "embedding": _vector(1.0)},
        {"query": "quay", "embedding": _vector(0.0, 1.0)},
        {"embedding": _vector(1.0)},
    ]
    hashes = []
    for question in (*questions, *questions):
        await maya.stub.SearchResources(pb.SearchResourcesRequest(resources=["memory"], **question))
        hashes.append(bytes(reads_of(work, maya.grant_id)[-1]["query_hash"]))
    assert hashes[: len(questions)] == hashes[len(questions) :]
    assert len(set(hashes)) == len(questions)


async def test_concurrent_reads_have_a_row_each(work: Gateway, maya: PeerClient) -> None:
    """Group commit loses none and invents none. On a machine that stands still for seconds a call may run out of its time: such an
    answer is withheld, and its row stands there or not."""
    before = {row["request_id"] for row in reads_of(work, maya.grant_id)}
    calls = (maya.list("tasks", page_size=number + 1) for number in range(60))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    given = {len(answer.resources) for answer in answers if isinstance(answer, pb.ListResourcesResponse)}
    new = [row for row in reads_of(work, maya.grant_id) if row["request_id"] not in before]
    allowed = sorted(row["result_count"] for row in new if row["outcome"] == Outcome.ALLOWED)
    assert given
    assert given <= set(allowed)
    assert len(allowed) == len(set(allowed))
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert refused or allowed == list(range(1, 61))
    assert {Refusal.of(each).code for each in refused if isinstance(each, grpc.aio.AioRpcError)} <= {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }


async def test_the_chain_verifies_up_to_a_countersigned_head(work: Gateway, maya: PeerClient) -> None:
    """With the public audit key alone: every row of the edge is linked, and sealed within seconds; an edited one is found."""
    await maya.list("tasks")
    due = reads_of(work, maya.grant_id)[-1]
    async with asyncio.timeout(5):
        while True:
            [chain] = [each for each in chains_of(work, EDGE_INBOUND) if each.start.chain_id == due["chain_id"]]
            if chain.verify().sealed_through >= due["seq"]:
                break
            await asyncio.sleep(0.1)

    edited = chain.rows[due["seq"] - 1]
    chain.rows[due["seq"] - 1] = replace(edited, row=replace(edited.row, result_count=edited.row.result_count + 1))
    with pytest.raises(ChainBroken) as broken:
        chain.verify()
    assert broken.value.seq == due["seq"]


# --- whoever has no live grant


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a certificate can be forged for."""

    work: Gateway
    peer: PeerClient
    subject: UUID

    async def pending_grant(self) -> UUID:
        return UUID(await self.work.create_grant(user=str(self.subject), peer="home", scope=scope_of("tasks")))


async def of_no_grant(ledger: Ledger) -> PeerClient:
    return forged_peer(ledger.work, uuid4(), ledger.subject)


async def of_a_pending_grant(ledger: Ledger) -> PeerClient:
    return forged_peer(ledger.work, await ledger.pending_grant(), ledger.subject)


async def of_a_live_grant(ledger: Ledger) -> PeerClient:
    return forged_peer(ledger.work, UUID(ledger.peer.grant_id), ledger.subject)


async def of_a_revoked_grant(ledger: Ledger) -> PeerClient:
    peer = await ledger.work.enroll(user=str(ledger.subject))
    ledger.work.execute(REVOKE, peer.grant_id)
    return forged_peer(ledger.work, UUID(peer.grant_id), ledger.subject)


REVOKE: Final = "UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %s"


@pytest.mark.parametrize(
    ("stranger", "code", "reason", "layer"),
    [
        pytest.param(of_no_grant, grpc.StatusCode.PERMISSION_DENIED, "GRANT_NOT_ACTIVE", Layer.GRANT, id="no such grant"),
        pytest.param(of_a_pending_grant, grpc.StatusCode.PERMISSION_DENIED, "GRANT_NOT_ACTIVE", Layer.GRANT, id="grant pending"),
        pytest.param(
            of_a_live_grant, grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_NOT_PINNED", Layer.CERTIFICATE, id="never pinned"
        ),
        pytest.param(
            of_a_revoked_grant,
            grpc.StatusCode.UNAUTHENTICATED,
            "CERTIFICATE_NOT_PINNED",
            Layer.CERTIFICATE,
            id="never pinned: how the grant ended is not told",
        ),
    ],
)
async def test_a_certificate_that_the_authority_signed_and_nobody_pinned_reads_nothing(
    work: Gateway, begun: Begun, ten_tasks: UUID, stranger: Any, code: grpc.StatusCode, reason: str, layer: Layer
) -> None:
    """Whoever gets a certificate out of the CA past grants has a key to nothing."""
    peer = await stranger(Ledger(work, begun.peer, ten_tasks))
    for call in (peer.list("tasks"), peer.capabilities(), peer.list("no such resource", page_size=-1)):
        refused = await assert_refused(work, call, code, reason, layer)
        assert "grant_status" not in refused.metadata


async def test_an_unknown_and_a_pending_grant_answer_the_same(work: Gateway, begun: Begun, ten_tasks: UUID) -> None:
    """Byte-equal but for the request id: guessing grant ids tells nothing."""
    ledger = Ledger(work, begun.peer, ten_tasks)
    refused = [await refusal((await stranger(ledger)).list("tasks")) for stranger in (of_no_grant, of_a_pending_grant)]
    unknown, pending = (replace(each, metadata=each.metadata | {"request_id": ""}) for each in refused)
    assert unknown == pending


# --- what ends, ends for the next answer

_PEER: Final = "(SELECT peer_id FROM federation.federation_grants WHERE id = %s)"
_SUBJECT: Final = "(SELECT subject_user_id FROM federation.federation_grants WHERE id = %s)"

ENDINGS = [
    pytest.param(
        REVOKE,
        grpc.StatusCode.PERMISSION_DENIED,
        "GRANT_NOT_ACTIVE",
        Layer.GRANT,
        {"grant_status": "revoked"},
        id="grant revoked",
    ),
    pytest.param(
        "UPDATE federation.federation_grants SET expires_at = now() WHERE id = %s",
        grpc.StatusCode.PERMISSION_DENIED,
        "GRANT_NOT_ACTIVE",
        Layer.GRANT,
        {"grant_status": "expired"},
        id="grant expired",
    ),
    pytest.param(
        f"UPDATE federation.federation_peers SET state = 'suspended' WHERE id = {_PEER}",
        grpc.StatusCode.PERMISSION_DENIED,
        "PEER_NOT_ACTIVE",
        Layer.PEER,
        {},
        id="peer suspended",
    ),
    pytest.param(
        "UPDATE federation.federation_certificates SET state = 'revoked', revoked_at = now() WHERE grant_id = %s",
        grpc.StatusCode.UNAUTHENTICATED,
        "CERTIFICATE_REVOKED",
        Layer.CERTIFICATE,
        {},
        id="certificate revoked",
    ),
    pytest.param(
        "UPDATE federation.federation_certificates SET state = 'superseded', superseded_at = now() - interval '25 hours'"
        " WHERE grant_id = %s",
        grpc.StatusCode.UNAUTHENTICATED,
        "CERTIFICATE_REVOKED",
        Layer.CERTIFICATE,
        {},
        id="certificate superseded yesterday",
    ),
    pytest.param(
        f"UPDATE public.users SET active = false WHERE id = {_SUBJECT}",
        grpc.StatusCode.PERMISSION_DENIED,
        "SUBJECT_INACTIVE",
        Layer.SUBJECT,
        {},
        id="user disabled",
    ),
    pytest.param(
        f"DELETE FROM public.users WHERE id = {_SUBJECT}",
        grpc.StatusCode.PERMISSION_DENIED,
        "SUBJECT_INACTIVE",
        Layer.SUBJECT,
        {},
        id="user gone",
    ),
]


@pytest.mark.parametrize(("ending", "code", "reason", "layer", "metadata"), ENDINGS)
async def test_what_has_ended_is_refused_by_the_next_answer(
    work: Gateway,
    rows: Rows,
    ending: str,
    code: grpc.StatusCode,
    reason: str,
    layer: Layer,
    metadata: Mapping[str, str],
) -> None:
    """On the same connection, while the edge still remembers the grant as live: the database is asked, and it says no."""
    user = rows.user()
    rows.resource("tasks", user)
    rows.resource("tasks", user)
    peer = await work.enroll(user=str(user), peer=f"p{uuid4().hex}", scope=scope_of("tasks"))
    page = await peer.list("tasks", page_size=1)
    work.execute(ending, peer.grant_id)
    for call in (peer.list("tasks"), peer.list("tasks", page_token=page.next_page_token), peer.capabilities()):
        refused = await assert_refused(work, call, code, reason, layer)
        assert {**refused.metadata, **metadata} == refused.metadata


async def test_a_team_that_the_subject_has_just_left_is_gone_from_the_next_answer(work: Gateway, rows: Rows) -> None:
    """Rights are read with the rows, not with the grant."""
    user, colleague = rows.user(), rows.user()
    team = rows.team(user, colleague)
    rows.resource("tasks", colleague, team)
    own = rows.resource("tasks", user, team)
    peer = await work.enroll(user=str(user), scope=scope_of("tasks"))
    assert len((await peer.list("tasks")).resources) == 2
    work.execute("DELETE FROM public.team_members WHERE user_id = %s", user)
    assert ids((await peer.list("tasks")).resources) == [str(own)]


async def test_a_scope_that_was_narrowed_holds_for_the_next_answer(work: Gateway, begun: Begun, ten_tasks: UUID) -> None:
    """The resource is refused, capabilities say what is left."""
    peer = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks", "notes"))
    await peer.list("tasks")
    set_in_scope(work, peer, "resources", ["notes"])
    await assert_refused(work, peer.list("tasks"), grpc.StatusCode.PERMISSION_DENIED, "RESOURCE_NOT_GRANTED", Layer.SCOPE)
    assert list((await peer.capabilities()).resources) == ["notes"]


async def test_without_grants_a_view_serves_for_five_seconds_and_then_nothing_is_answered(
    work: Gateway, begun: Begun, ten_tasks: UUID
) -> None:
    """What is remembered keeps serving, for seconds; then, and at once for a grant never seen, DEPENDENCY_UNAVAILABLE, which does
    not tell a peer what is down. When grants is back, so are the answers."""
    unseen = await work.enroll(user=str(ten_tasks), scope=scope_of("tasks"))
    await begun.peer.list("tasks")
    await work.stop(GRANTS)
    stopped_at = time.monotonic()
    try:
        assert rows_of([await begun.peer.list("tasks", page_token=begun.token)]) == begun.rest
        await assert_dependency_unnamed(work, unseen)
        while (refused := await refused_or_none(begun.peer)) is None:
            assert time.monotonic() - stopped_at < 5.5
            await asyncio.sleep(0.1)
        assert refused.reason == "DEPENDENCY_UNAVAILABLE"
        await assert_dependency_unnamed(work, begun.peer)
    finally:
        await work.start(GRANTS)
    async with asyncio.timeout(5):
        while await refused_or_none(begun.peer) is not None:
            await asyncio.sleep(0.1)


async def refused_or_none(peer: PeerClient) -> Refusal | None:
    try:
        await peer.list("tasks")
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    return None


async def assert_dependency_unnamed(work: Gateway, peer: PeerClient) -> None:
    refused = await assert_refused(
        work,
        peer.list("tasks"),
        grpc.StatusCode.UNAVAILABLE,
        "DEPENDENCY_UNAVAILABLE",
        Layer.DEPENDENCY,
        outcome=Outcome.ERROR,
    )
    assert set(refused.metadata) == {"http_status", "request_id", "remediation"}
    assert "grants" not in str(refused).lower()
