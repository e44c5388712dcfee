"""What is explained is what is enforced, and what is previewed is what is read: the same calls, asked of both."""

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic.errors.v1 import errors_pb2
from mosaic.federation.v1 import federation_pb2
from mosaic.grants.v1 import grants_pb2 as pb
from mosaic.grants.v1 import types_pb2
from mosaic.grants.v1.types_pb2 import RateLimit
from mosaic_common.auth import Role
from mosaic_common.resources import REGISTRY
from mosaic_common.x509 import fingerprint_sha256

from tests.support.audit_records import reads_of, record_of
from tests.support.forgeries import forge
from tests.support.gateway import Gateway, Pair
from tests.support.peers import PeerClient, Refusal, refusal
from tests.support.rows import Rows
from tests.support.visibility import ids

MAYA: Final = "maya@example.com"
RANDOM_CASES: Final = 100
Verdict: Final = pb.ExplainedLayer


@pytest.fixture(scope="module")
def work(pair: Pair) -> Gateway:
    return pair.work


@pytest.fixture(scope="module")
def rows(work: Gateway) -> Iterator[Rows]:
    with work.database.connect() as owner:
        yield Rows(owner)


async def explain(work: Gateway, grant_id: str, verb: str, *resources: str, **further: Any) -> pb.ExplainGrantResponse:
    request = pb.ExplainGrantRequest(id=grant_id, verb=verb, resources=resources, **further)
    answer: pb.ExplainGrantResponse = await work.grants.ExplainGrant(request, metadata=work.operator_metadata(Role.READ))
    return answer


def reason_of(answer: pb.ExplainGrantResponse) -> str:
    return errors_pb2.Reason.Name(answer.reason).removeprefix("REASON_")


def fingerprint_of(chain_pem: bytes) -> bytes:
    return fingerprint_sha256(x509.load_pem_x509_certificate(chain_pem).public_bytes(Encoding.DER))


def sentences(answer: pb.ExplainGrantResponse, layer: str) -> list[str]:
    return [each.sentence for each in answer.layers if each.layer == layer]


# --- explain and enforcement


@dataclass(frozen=True, slots=True)
class Told:
    """What a call came to; layer and reason are "" when it was answered."""

    allowed: bool
    layer: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One call, and what is wrong with whoever makes it.

    Attributes:
        spoils: of SPOILS and CERTIFICATES.
        row: of ROWS; of a get.
        excluded: named in the scope as excluded, too.
        with_team: the filter of tasks includes the team whose row is else out of scope.
    """

    spoils: tuple[str, ...]
    verb: str
    resources: tuple[str, ...]
    row: str = ""
    page_size: int = 0
    excluded: tuple[str, ...] = ()
    with_team: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """What of a case lies in the database: a user, their rows, a grant and the certificate presented.

    Attributes:
        row_ids: by what a get of them meets, as in ROWS.
    """

    peer: PeerClient
    named_subject: UUID
    row_ids: Mapping[str, str]


_PEER: Final = "(SELECT peer_id FROM federation.federation_grants WHERE id = %s)"
_SUBJECT: Final = "(SELECT subject_user_id FROM federation.federation_grants WHERE id = %s)"
_CERTIFICATE: Final = "UPDATE federation.federation_certificates SET {} WHERE grant_id = %s"
SPOILS: Final[Mapping[str, str]] = {
    "grant revoked": "UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %s",
    "grant past its end": "UPDATE federation.federation_grants SET expires_at = now() WHERE id = %s",
    "peer suspended": "UPDATE federation.federation_peers SET state = 'suspended', revoked_at = NULL,"
    f" activated_at = coalesce(activated_at, now()) WHERE id = {_PEER}",
    "peer revoked": f"UPDATE federation.federation_peers SET state = 'revoked', revoked_at = now() WHERE id = {_PEER}",
    "certificate revoked": _CERTIFICATE.format("state = 'revoked', revoked_at = now()"),
    "certificate superseded": _CERTIFICATE.format("state = 'superseded', revoked_at = NULL, superseded_at = now()"),
    "certificate superseded long ago": _CERTIFICATE.format(
        "state = 'superseded', revoked_at = NULL, superseded_at = now() - interval '25 hours'"
    ),
    "certificate past its end": _CERTIFICATE.format("not_after = now() - interval '1 second'"),
    "user disabled": f"UPDATE public.users SET active = false WHERE id = {_SUBJECT}",
    "user gone": f"DELETE FROM public.users WHERE id = {_SUBJECT}",
}
ROWS: Final = ("visible", "out of scope", "a stranger's", "absent", "malformed")
CERTIFICATES: Final = ("never pinned", "of another subject", "of a pending grant")


async def make_world(
    work: Gateway, rows: Rows, spoils: Sequence[str], *, excluded: Sequence[str] = (), with_team: bool = False
) -> World:
    """A grant of its own on rows of its own, spoiled before anybody asks under it: no edge remembers it otherwise."""
    user, stranger = rows.user(), rows.user()
    team = rows.team(user)
    row_ids = {
        "visible": str(rows.resource("tasks", user)),
        "out of scope": str(rows.resource("tasks", stranger, team)),
        "a stranger's": str(rows.resource("tasks", stranger)),
        "absent": str(uuid4()),
        "malformed": "17",
    }
    grant_id = await work.create_grant(
        user=str(user),
        peer=f"p{uuid4().hex}",
        scope={
            "resources": [name for name in ("tasks", "notes") if name not in excluded],
            "excluded_resources": list(excluded),
            "filters": {} if "tasks" in excluded else {"tasks": {"include_teams": [str(team)] if with_team else []}},
            "max_rows_per_query": 5,
        },
    )
    named = stranger if "of another subject" in spoils else user
    peer = await make_peer(work, rows, grant_id, named, spoils)
    for spoil in spoils:
        if spoil in SPOILS:
            work.execute(SPOILS[spoil], grant_id)
    return World(peer, named, row_ids)


async def make_peer(work: Gateway, rows: Rows, grant_id: str, named: UUID, spoils: Sequence[str]) -> PeerClient:
    """A client with the grant's own certificate, or with one that the authority signed and nobody ordered."""
    if "of a pending grant" not in spoils:
        own = work.peer_client(await work.redeem(await work.create_token(grant_id)))
        if "never pinned" not in spoils and "of another subject" not in spoils:
            return own
    key, chain = forge(work, UUID(grant_id), named)
    if "of another subject" in spoils and "never pinned" not in spoils:
        _pin(rows, grant_id, chain)
    return work.peer_client_with(key, chain, grant_id)


def _pin(rows: Rows, grant_id: str, chain_pem: bytes, **values: object) -> None:
    """Beside the grant's active one, of which there is only one: as superseded a moment ago, and so accepted."""
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
            **(values or {"state": "superseded", "superseded_at": datetime.now(UTC)}),
        },
    )


async def enforced(work: Gateway, call: Any) -> Told:
    """Make the call; of a refusal the layer is what the audit log says."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        refused = Refusal.of(error)
        return Told(False, record_of(work, refused)["denied_layer"], refused.reason)
    return Told(True)


async def explained(work: Gateway, world: World, case: Case) -> Told:
    answer = await explain(
        work,
        world.peer.grant_id,
        case.verb,
        *case.resources,
        fingerprint=fingerprint_of(world.peer.chain),
        subject_user_id=str(world.named_subject),
        row_id=world.row_ids[case.row] if case.row else "",
        page_size=case.page_size,
    )
    verdicts = [each.verdict for each in answer.layers if each.verdict != Verdict.VERDICT_REPORTED]
    passed = [each for each in verdicts if each == Verdict.VERDICT_PASSED]
    assert verdicts[: len(passed)] == passed, "what has passed comes first"
    assert (Verdict.VERDICT_REFUSED in verdicts) == (not answer.allowed)
    assert bool(answer.remedy) == (not answer.allowed)
    return Told(answer.allowed, answer.layer, "" if answer.allowed else reason_of(answer))


def call_of(world: World, case: Case) -> Any:
    """The same call, of the edge."""
    match case.verb:
        case "list":
            listed = federation_pb2.ListResourcesRequest(resource=case.resources[0], page_size=case.page_size)
            return world.peer.stub.ListResources(listed)
        case "get":
            got = federation_pb2.GetResourceRequest(resource=case.resources[0], id=world.row_ids[case.row])
            return world.peer.stub.GetResource(got)
        case "search":
            searched = federation_pb2.SearchResourcesRequest(resources=case.resources, query="title", page_size=case.page_size)
            return world.peer.stub.SearchResources(searched)
        case _:
            return world.peer.stub.GetCapabilities(federation_pb2.GetCapabilitiesRequest())


def random_cases() -> Iterator[Case]:
    """Each thing that can be wrong once alone, each row that a get can meet; then anything with anything, half of it unspoiled."""
    chance = random.Random(20310504)
    spoils = [*SPOILS, *CERTIFICATES]
    yield from (_random_case(chance, (spoil,)) for spoil in spoils)
    yield from (Case((), "get", ("tasks",), row=row) for row in ROWS)
    for _ in range(RANDOM_CASES):
        case = _random_case(chance, tuple(chance.sample(spoils, chance.choice([0, 0, 0, 1, 2, 3]))))
        excluded = chance.choice([(), (), ("memory",), ("api_keys", "notes"), ("tasks",)])
        yield replace(case, excluded=excluded, with_team=chance.choice([False, True]))


def _random_case(chance: random.Random, spoils: tuple[str, ...]) -> Case:
    verb = chance.choice(["list", "get", "search", "capabilities"])
    resource = chance.choice(["tasks", "tasks", "tasks", "notes", "memory", "users"])
    further = chance.sample(["tasks", "notes", "users"], chance.randint(0, 2))
    page_size = chance.choice([0, 0, 1, 501, -1])
    match verb:
        case "list":
            return Case(spoils, verb, (resource,), page_size=page_size)
        case "get":
            return Case(spoils, verb, (resource,), row=chance.choice(ROWS))
        case "search":
            return Case(spoils, verb, (resource, *further), page_size=page_size)
        case _:
            return Case(spoils, verb, ())


async def test_explains_what_is_enforced(work: Gateway, rows: Rows) -> None:
    """Random grants, peers, certificates, users and requests: allowed or not, layer and reason are the same at the edge, and every
    reason that the engine and the database have is among them."""
    seen = set()
    for case in random_cases():
        world = await make_world(work, rows, case.spoils, excluded=case.excluded, with_team=case.with_team)
        at_the_edge = await enforced(work, call_of(world, case))
        assert await explained(work, world, case) == at_the_edge, case
        seen.add((at_the_edge.layer, at_the_edge.reason))

    assert seen == {
        ("", ""),
        ("grant", "GRANT_NOT_ACTIVE"),
        ("certificate", "CERTIFICATE_NOT_PINNED"),
        ("peer", "PEER_NOT_ACTIVE"),
        ("certificate", "CERTIFICATE_REVOKED"),
        ("certificate", "CERTIFICATE_NOT_ACCEPTED"),
        ("subject", "SUBJECT_MISMATCH"),
        ("subject", "SUBJECT_INACTIVE"),
        ("request", "RESOURCE_UNKNOWN"),
        ("scope", "RESOURCE_NOT_GRANTED"),
        ("request", "PAGE_SIZE_INVALID"),
        ("request", "REQUEST_INVALID"),
        ("row", "RESOURCE_NOT_FOUND"),
        ("scope", "RESOURCE_NOT_FOUND"),
    }


@pytest.mark.parametrize(
    ("row", "layer", "sentence"),
    [
        pytest.param("visible", "", "The scope's filter shows this row.", id="visible"),
        pytest.param("out of scope", "scope", "The scope's filter does not show this row.", id="out of scope"),
        pytest.param("a stranger's", "row", "neither theirs nor a team's of theirs", id="not natively visible"),
        pytest.param("absent", "row", "there is none, or", id="absent"),
    ],
)
async def test_an_operator_learns_why_a_row_is_not_found(work: Gateway, rows: Rows, row: str, layer: str, sentence: str) -> None:
    """The peer hears one answer; whoever explains hears whether it is the user's rights or the scope."""
    world = await make_world(work, rows, [])
    answer = await explain(work, world.peer.grant_id, "get", "tasks", row_id=world.row_ids[row])
    assert (answer.allowed, answer.layer) == (not layer, layer)
    assert sentence in " ".join(sentences(answer, layer or "scope"))
    if layer:
        assert reason_of(answer) == "RESOURCE_NOT_FOUND"
        assert (
            await refusal(world.peer.stub.GetResource(federation_pb2.GetResourceRequest(resource="tasks", id=world.row_ids[row])))
        ).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("verb", "resources", "verdict", "sentence"),
    [
        pytest.param("list", ["tasks"], Verdict.VERDICT_PASSED, "the scope shows 2 of tasks.", id="list"),
        pytest.param("search", ["tasks", "notes"], Verdict.VERDICT_PASSED, "shows 2 of tasks and 0 of notes.", id="search"),
        pytest.param(
            "get", ["tasks"], Verdict.VERDICT_NOT_REACHED, "Not looked at: whether the user sees the row, since", id="get"
        ),
        pytest.param("list", ["memory"], Verdict.VERDICT_NOT_REACHED, "Not looked at: which rows the user sees.", id="refused"),
    ],
)
async def test_native_rights_are_a_lock_of_every_read(
    work: Gateway, rows: Rows, verb: str, resources: list[str], verdict: int, sentence: str
) -> None:
    """What the user sees here narrows what the scope shows: named for each verb, with how much is left, or as not looked at."""
    user = rows.user()
    for _ in range(2):
        rows.resource("tasks", user)
    rows.resource("tasks", rows.user())
    peer = await work.enroll(user=str(user), scope={"resources": ["tasks", "notes"], "max_rows_per_query": 5})
    answer = await explain(work, peer.grant_id, verb, *resources)
    [layer] = [each for each in answer.layers if each.layer == "row"]
    assert layer.verdict == verdict
    assert sentence in layer.sentence


async def test_names_people_teams_and_peers_as_operators_do(work: Gateway) -> None:
    """No operator knows a user or a team by its id."""
    [(team,)] = work.rows("SELECT id::text FROM public.teams WHERE name = 'Platform'")
    scope = {"resources": ["tasks"], "filters": {"tasks": {"include_teams": [team]}}, "max_rows_per_query": 3}
    grant_id = await work.create_grant(user=MAYA, peer="home", scope=scope)
    pending = await explain(work, grant_id, "list", "tasks")
    assert (pending.allowed, pending.layer, reason_of(pending)) == (False, "grant", "GRANT_NOT_ACTIVE")
    assert f"mosaic federation grant token {grant_id}" in pending.remedy
    await work.redeem(await work.create_token(grant_id))
    answer = await explain(work, grant_id, "list", "tasks")
    assert answer.allowed
    assert (answer.layer, answer.remedy, answer.reason) == ("", "", errors_pb2.REASON_UNSPECIFIED)
    assert sentences(answer, "peer") == ["The peer home is active."]
    assert sentences(answer, "subject")[-1] == f"The user {MAYA} is active."
    assert sentences(answer, "scope") == ["The scope shows tasks (personal rows and rows of Platform)."]


async def test_reports_cap_and_rate_without_deciding_them(work: Gateway, rows: Rows) -> None:
    """How many rows there are and how many one query gives; how many calls the last minute saw, as the audit log has them."""
    user = rows.user()
    for _ in range(7):
        rows.resource("tasks", user)
    peer = await work.enroll(user=str(user), scope={"resources": ["tasks"], "max_rows_per_query": 5})
    for _ in range(3):
        await peer.list("tasks")
    answer = await explain(work, peer.grant_id, "list", "tasks")
    assert sentences(answer, "cap") == ["7 rows are visible; one query gives at most 5 over all its pages (cap 5)."]
    [(email,)] = work.rows("SELECT email FROM public.users WHERE id = %s", user)
    assert sentences(answer, "row") == [f"Of the rows that {email} sees here, the scope shows 7 of tasks."]
    [rate] = sentences(answer, "rate")
    assert "the last minute saw 3 calls under this grant, 0 of them refused with RATE_LIMITED" in rate
    reported = [each.layer for each in answer.layers if each.verdict == Verdict.VERDICT_REPORTED]
    assert reported == ["cap", "rate"]


async def test_reports_the_grants_own_limit_and_what_it_refused(work: Gateway, rows: Rows) -> None:
    """As many refusals as the peer was told of."""
    grant_id = await work.create_grant(
        user=str(rows.user()),
        peer="home",
        scope={"resources": ["tasks"], "max_rows_per_query": 5},
        limit=RateLimit(per_second=1, burst=2),
    )
    peer = work.peer_client(await work.redeem(await work.create_token(grant_id)))
    answers = await asyncio.gather(*(peer.list("tasks") for _ in range(6)), return_exceptions=True)
    refused = [Refusal.of(each) for each in answers if isinstance(each, grpc.RpcError)]
    assert {each.reason for each in refused} == {"RATE_LIMITED"}
    async with asyncio.timeout(5):  # refusals beyond the limit are counted, and written once a second
        while sum(row["repeated"] for row in reads_of(work, grant_id)) < len(answers):
            await asyncio.sleep(0.05)
    assert sentences(await explain(work, grant_id, "list", "tasks"), "rate") == [
        "The limit is 1 calls a second, 2 at once; the last minute saw 6 calls under this grant, "
        f"{len(refused)} of them refused with RATE_LIMITED."
    ]


async def test_explaining_is_no_call_of_the_peer(work: Gateway, rows: Rows) -> None:
    """Nothing is recorded as a read, and nothing is spent."""
    peer = await work.enroll(user=str(rows.user()))
    await explain(work, peer.grant_id, "list", "tasks")
    assert reads_of(work, peer.grant_id) == []


async def test_presents_the_newest_accepted_certificate_unless_told(work: Gateway, rows: Rows) -> None:
    """A newer one that was revoked is not what the other gateway would show."""
    user = rows.user()
    peer = await work.enroll(user=str(user))
    _, newer = forge(work, UUID(peer.grant_id), user)
    now = datetime.now(UTC)
    _pin(rows, peer.grant_id, newer, state="revoked", revoked_at=now, not_before=now)
    assert (await explain(work, peer.grant_id, "capabilities")).allowed
    told = await explain(work, peer.grant_id, "capabilities", fingerprint=fingerprint_of(newer))
    assert (told.layer, reason_of(told)) == ("certificate", "CERTIFICATE_REVOKED")


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        pytest.param({"verb": "delete"}, {"verb"}, id="no such verb"),
        pytest.param({"verb": ""}, {"verb"}, id="no verb"),
        pytest.param({"verb": "list"}, {"resources"}, id="list of nothing"),
        pytest.param({"verb": "get", "resources": ["tasks", "notes"]}, {"resources"}, id="get of two"),
        pytest.param({"verb": "capabilities", "resources": ["tasks"]}, {"resources"}, id="capabilities of a resource"),
        pytest.param({"verb": "list", "resources": ["tasks"], "row_id": "x"}, {"row_id"}, id="list of a row"),
        pytest.param({"verb": "get", "resources": ["tasks"], "page_size": 5}, {"page_size"}, id="pages of a get"),
        pytest.param(
            {"verb": "list", "resources": ["tasks"], "fingerprint": b"short"}, {"fingerprint"}, id="fingerprint of another length"
        ),
        pytest.param({"verb": "list", "resources": ["tasks"], "subject_user_id": "maya"}, {"subject_user_id"}, id="no user id"),
        pytest.param({"verb": "nod", "fingerprint": b"x", "row_id": "x"}, {"verb", "fingerprint", "row_id"}, id="all at once"),
    ],
)
async def test_refuses_what_is_no_call(work: Gateway, rows: Rows, request_: dict[str, Any], fields: set[str]) -> None:
    """Every problem in one answer; what the edge itself would refuse is explained instead."""
    grant_id = await work.create_grant(user=str(rows.user()), peer="home", scope={"resources": ["tasks"], "max_rows_per_query": 1})
    call = work.grants.ExplainGrant(pb.ExplainGrantRequest(id=grant_id, **request_), metadata=work.operator_metadata())
    refused = await refusal(call)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert set(refused.violations) == fields


@pytest.mark.parametrize("method", ["explain", "preview"])
@pytest.mark.parametrize("name", [str(uuid4()), "no id"], ids=["unknown", "no id"])
async def test_refuses_a_grant_that_there_is_not(work: Gateway, method: str, name: str) -> None:
    """GRANT_NOT_FOUND, before anything else is looked at."""
    request = pb.ExplainGrantRequest(id=name, verb="capabilities") if method == "explain" else pb.PreviewGrantRequest(id=name)
    stub = work.grants.ExplainGrant if method == "explain" else work.grants.PreviewGrant
    refused = await refusal(stub(request, metadata=work.operator_metadata()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "GRANT_NOT_FOUND")


# --- preview


async def preview(work: Gateway, **request: Any) -> dict[str, pb.ResourcePreview]:
    metadata = work.operator_metadata(Role.READ)
    answer = await work.grants.PreviewGrant(pb.PreviewGrantRequest(**request), metadata=metadata)
    return {each.resource: each for each in answer.resources}


async def read_all(peer: PeerClient, resource: str) -> set[str]:
    """The id of every row that paging through everything returns."""
    if resource not in (await peer.capabilities()).resources:
        return set()
    return {row for page in await peer.list_all(resource, page_size=500) for row in ids(page.resources)}


def scope(*resources: str, cap: int = 10_000, **filters: object) -> dict[str, object]:
    return {"resources": list(resources), "filters": filters, "max_rows_per_query": cap}


async def test_preview_counts_what_paging_returns(work: Gateway) -> None:
    """Of each resource as many rows as a peer can read by it, with the difference to another scope row by row."""
    teams = dict(work.rows("SELECT name, id::text FROM public.teams"))
    one = scope("tasks", "notes", "memory", tasks={"include_teams": [teams["Platform"]]}, notes={"include_personal": True})
    other = scope("tasks", "memory", tasks={"include_teams": [teams["Field Operations"]], "include_personal": False}, memory={})
    first, second = [await work.enroll(user=MAYA, scope=each) for each in (one, other)]
    previewed = await preview(work, id=first.grant_id, against_scope_json=json.dumps(other))
    assert list(previewed) == ["tasks", "notes", "memory"]
    for resource, counted in previewed.items():
        read, read_then = [await read_all(peer, resource) for peer in (first, second)]
        assert read, "a comparison with nothing proves nothing"
        assert (counted.visible, counted.visible_against) == (len(read), len(read_then))
        assert (counted.gained, counted.lost) == (len(read_then - read), len(read - read_then))
    assert any(each.gained for each in previewed.values())
    by_file = await preview(work, scope_json=json.dumps(one), user=MAYA, against_scope_json=json.dumps(other))
    assert by_file == previewed


@pytest.mark.parametrize("cap", [1, 4, 5, 6, 10_000])
async def test_preview_says_what_one_query_gives(work: Gateway, rows: Rows, cap: int) -> None:
    """min(visible, cap), as all pages of one query have it."""
    user = rows.user()
    for _ in range(5):
        rows.resource("notes", user)
    peer = await work.enroll(user=str(user), scope=scope("notes", cap=cap))
    counted = (await preview(work, id=peer.grant_id, against_scope_json=json.dumps(scope("notes", cap=3))))["notes"]
    assert (counted.visible, counted.per_query, counted.per_query_against) == (5, len(await read_all(peer, "notes")), 3)


async def test_preview_says_what_became_of_the_grant(work: Gateway) -> None:
    """Pending, active, revoked; of a scope alone nothing."""
    seen = []
    grant_id = await work.create_grant(user=MAYA, peer="home", scope=scope("tasks"))
    metadata = work.operator_metadata()

    async def look(**request: Any) -> None:
        seen.append((await work.grants.PreviewGrant(pb.PreviewGrantRequest(**request), metadata=metadata)).grant_status)

    await look(id=grant_id)
    await work.redeem(await work.create_token(grant_id))
    await look(id=grant_id)
    await work.grants.RevokeGrant(pb.RevokeGrantRequest(id=grant_id), metadata=metadata)
    await look(id=grant_id)
    await look(scope_json=json.dumps(scope("tasks")), user=MAYA)
    assert [types_pb2.GrantStatus.Name(each) for each in seen] == [
        f"GRANT_STATUS_{status}" for status in ("PENDING", "ACTIVE", "REVOKED", "UNSPECIFIED")
    ]


async def test_preview_without_another_scope_compares_nothing(work: Gateway, rows: Rows) -> None:
    """Absent is not zero."""
    counted = await preview(work, scope_json=json.dumps(scope(*REGISTRY)), user=str(rows.user()))
    assert list(counted) == list(REGISTRY)
    for each in counted.values():
        assert (each.visible, each.per_query) == (0, 0)
        assert not any(each.HasField(field) for field in ("visible_against", "per_query_against", "gained", "lost"))


async def test_preview_leaves_out_what_cannot_be_counted_in_time(work: Gateway, rows: Rows) -> None:
    """One resource that takes too long costs the others nothing, and the answer takes no longer than it."""
    user = rows.user()
    rows.resource("notes", user)
    with work.database.connect() as owner, owner.transaction():
        owner.execute("LOCK TABLE public.tasks IN ACCESS EXCLUSIVE MODE")
        counted = await preview(work, scope_json=json.dumps(scope("tasks", "notes")), user=str(user))
    assert not any(counted["tasks"].HasField(field) for field in ("visible", "per_query"))
    assert counted["notes"].visible == 1


async def test_preview_reports_every_problem_of_both_scopes(work: Gateway) -> None:
    """Each with the field that it came in; a team that is not the subject's is one of them."""
    strange = str(uuid4())
    request = pb.PreviewGrantRequest(
        user=MAYA,
        scope_json=json.dumps({"resources": ["tasks", "tasks"], "colour": "blue", "max_rows_per_query": 1}),
        against_scope_json=json.dumps(scope("tasks", cap=0, tasks={"include_teams": [strange]})),
    )
    refused = await refusal(work.grants.PreviewGrant(request, metadata=work.operator_metadata()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SCOPE_INVALID")
    assert set(refused.violations) == {
        "scope_json/resources/1",
        "scope_json/colour",
        "against_scope_json/max_rows_per_query",
        "against_scope_json/filters/tasks/include_teams/0",
    }


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        pytest.param({}, {"scope_json", "user"}, id="nothing"),
        pytest.param({"user": MAYA}, {"scope_json"}, id="a user alone"),
        pytest.param({"scope_json": "{}"}, {"user"}, id="a scope alone"),
        pytest.param({"id": str(uuid4()), "scope_json": "{}", "user": MAYA}, {"scope_json", "user"}, id="both"),
    ],
)
async def test_preview_is_of_a_grant_or_of_a_scope(work: Gateway, request_: dict[str, str], fields: set[str]) -> None:
    """Never of both, for it would be nobody's guess which one was counted."""
    refused = await refusal(work.grants.PreviewGrant(pb.PreviewGrantRequest(**request_), metadata=work.operator_metadata()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert set(refused.violations) == fields


@pytest.mark.parametrize("active", [False, None], ids=["disabled", "unknown"])
async def test_preview_of_nobody_is_refused(work: Gateway, rows: Rows, active: bool | None) -> None:
    """A user who is not active sees nothing, and a zero would look like a narrow scope."""
    user = uuid4() if active is None else rows.user(active=active)
    request = pb.PreviewGrantRequest(user=str(user), scope_json=json.dumps(scope("tasks")))
    refused = await refusal(work.grants.PreviewGrant(request, metadata=work.operator_metadata()))
    assert refused.reason == "SUBJECT_NOT_ELIGIBLE"


@pytest.mark.parametrize("method", ["ExplainGrant", "PreviewGrant"])
async def test_only_operators_explain_and_preview(work: Gateway, method: str) -> None:
    """Counts and reasons are as good as rows to whoever may not see them."""
    request = pb.ExplainGrantRequest() if method == "ExplainGrant" else pb.PreviewGrantRequest()
    refused = await refusal(getattr(work.grants, method)(request, metadata=work.operator_metadata(Role.QUERY)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
