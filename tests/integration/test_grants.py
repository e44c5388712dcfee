"""Operators and the ledger: what may be created, what is refused, and that a refusal leaves nothing behind but its audit row."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import grpc
import pytest
from mosaic.grants.v1 import grants_pb2, grants_pb2_grpc, types_pb2
from mosaic_common.auth import Role
from mosaic_common.identity import GRANTS

from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway, Pair
from tests.support.peers import refusal

SUBJECT = "maya@example.com"


@pytest.fixture(scope="module")
async def work(pair: Pair) -> Gateway:
    await pair.work.peers.CreatePeer(grants_pb2.CreatePeerRequest(name="home"), metadata=pair.work.operator_metadata())
    return pair.work


def create(work: Gateway, scope: object, **further: Any) -> Any:
    text = scope if isinstance(scope, str) else json.dumps(scope)
    wanted = {"user": SUBJECT, "peer": "home"} | further
    return work.grants.CreateGrant(grants_pb2.CreateGrantRequest(scope_json=text, **wanted), metadata=work.operator_metadata())


async def test_a_grant_is_written_pending_with_its_scope(work: Gateway) -> None:
    """Acceptance 1: create writes a pending row whose scope is the one that was given, defaults written out."""
    grant = (await create(work, TASKS_NOTES_MEMORY)).grant
    [(status, scope)] = work.rows("SELECT status, scope FROM federation.federation_grants WHERE id = %s", grant.id)
    assert status == "pending"
    assert scope == {"resources": ["tasks", "notes", "memory"], "excluded_resources": [], "filters": {}, "max_rows_per_query": 500}
    assert work.audit("grant.created")[-1]["outcome"] == "allowed"


async def test_every_problem_of_a_scope_is_reported_at_once_and_nothing_is_written(work: Gateway) -> None:
    """An author of a scope gets every mistake in one answer, a foreign team among them, and no row comes of it."""
    before = work.rows("SELECT count(*) FROM federation.federation_grants")
    [(foreign_team,)] = work.rows(
        """SELECT t.id::text FROM public.teams t WHERE NOT EXISTS (
               SELECT FROM public.team_members m JOIN public.users u ON u.id = m.user_id
               WHERE m.team_id = t.id AND u.email = %s) LIMIT 1""",
        SUBJECT,
    )
    scope = {
        "resources": ["tasks", "tasks", "calendars"],
        "excluded_resources": ["tasks"],
        "filters": {"tasks": {"include_teams": [foreign_team]}},
        "max_rows_per_query": True,
        "colour": "blue",
    }
    refused = await refusal(create(work, scope))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SCOPE_INVALID")
    assert set(refused.violations) == {
        "/resources/1",
        "/resources/2",
        "/excluded_resources/0",
        "/filters/tasks/include_teams/0",
        "/max_rows_per_query",
        "/colour",
    }
    assert work.rows("SELECT count(*) FROM federation.federation_grants") == before
    last = work.audit("grant.created")[-1]
    assert (last["outcome"], last["denied_layer"], last["denied_reason"]) == ("denied", "scope", "SCOPE_INVALID")


@pytest.mark.parametrize("cap", [0, 10_001, 1.5, True, -1, None], ids=str)
async def test_refuses_a_cap_that_is_no_whole_number_from_1_to_10000(work: Gateway, cap: object) -> None:
    """A cap that reads as something else in another language is no cap."""
    refused = await refusal(create(work, {"resources": ["tasks"], "max_rows_per_query": cap}))
    assert (refused.reason, set(refused.violations)) == ("SCOPE_INVALID", {"/max_rows_per_query"})


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        pytest.param({"user": "nobody@example.com"}, "SUBJECT_NOT_ELIGIBLE", id="no such user"),
        pytest.param({"user": str(uuid4())}, "SUBJECT_NOT_ELIGIBLE", id="no such user id"),
        pytest.param({"peer": "nowhere"}, "PEER_NOT_FOUND", id="no such peer"),
        pytest.param({"expires_in_seconds": 0}, "REQUEST_INVALID", id="over before it begins"),
        pytest.param({"expires_in_seconds": 2**62}, "REQUEST_INVALID", id="beyond the calendar"),
    ],
)
async def test_refuses_a_grant_for_whom_or_what_is_not_eligible(work: Gateway, wanted: dict[str, Any], reason: str) -> None:
    """A grant is for an active user of this gateway and a peer that it knows."""
    refused = await refusal(create(work, TASKS_NOTES_MEMORY, **wanted))
    assert refused.reason == reason
    assert work.audit("grant.created")[-1]["denied_reason"] == reason


async def test_sensitive_resources_need_an_approval_that_is_recorded(work: Gateway) -> None:
    """Nobody gives credentials away by a line in a file: the operator says so, and the log says who."""
    scope = {"resources": ["tasks", "credentials"], "max_rows_per_query": 10}
    refused = await refusal(create(work, scope))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "APPROVAL_REQUIRED")
    grant = (await create(work, scope, approve_sensitive=True)).grant
    approved = work.audit("grant.approved")[-1]
    assert (approved["actor"], approved["resource"], str(approved["grant_id"])) == ("otto", "credentials", grant.id)


@pytest.mark.parametrize(
    ("roles", "code", "reason"),
    [
        pytest.param((Role.READ,), grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED", id="read is not admin"),
        pytest.param((Role.QUERY,), grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED", id="query is not admin"),
        pytest.param((), grpc.StatusCode.UNAUTHENTICATED, "AUTH_TOKEN_MISSING", id="no token"),
    ],
)
async def test_refuses_operators_without_the_role(
    work: Gateway, roles: tuple[Role, ...], code: grpc.StatusCode, reason: str
) -> None:
    """Only an admin creates; whoever else tries is refused and recorded."""
    request = grants_pb2.CreatePeerRequest(name="elsewhere")
    metadata = work.operator_metadata(*roles) if roles else None
    refused = await refusal(work.peers.CreatePeer(request, metadata=metadata))
    assert (refused.code, refused.reason) == (code, reason)
    # What anybody can send without a token is counted, and written once a second.
    async with asyncio.timeout(5):
        while work.audit("peer.created")[-1]["denied_reason"] != reason:
            await asyncio.sleep(0.05)


async def test_an_operator_token_does_not_query_and_a_query_token_does_not_operate(work: Gateway) -> None:
    """Each audience refuses the other's tokens, so that a broken edge cannot replay an admin."""
    metadata = work.user_metadata(uuid4())
    refused = await refusal(work.peers.ListPeers(grants_pb2.ListPeersRequest(), metadata=metadata))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "AUTH_TOKEN_INVALID")


async def test_lists_page_without_loss_or_repetition(work: Gateway) -> None:
    """Every grant once, newest first, whatever the page size."""
    for _ in range(5):
        await create(work, TASKS_NOTES_MEMORY)
    metadata, seen, token = work.operator_metadata(Role.READ), [], ""
    while True:
        page = await work.grants.ListGrants(grants_pb2.ListGrantsRequest(page_size=2, page_token=token), metadata=metadata)
        seen += [(grant.created_at_us, grant.id) for grant in page.grants]
        if not (token := page.next_page_token):
            break
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == work.rows("SELECT count(*) FROM federation.federation_grants")[0][0]


async def test_a_newer_token_voids_the_older_ones(work: Gateway) -> None:
    """One open token per grant: whoever finds an old URL finds nothing."""
    grant_id = (await create(work, TASKS_NOTES_MEMORY)).grant.id
    await work.create_token(grant_id)
    await work.create_token(grant_id)
    request = grants_pb2.GetGrantRequest(id=grant_id)
    shown = (await work.grants.GetGrant(request, metadata=work.operator_metadata(Role.READ))).grant
    assert [token.state for token in shown.tokens] == [
        types_pb2.ENROLLMENT_TOKEN_STATE_OPEN,
        types_pb2.ENROLLMENT_TOKEN_STATE_VOIDED,
    ]


@pytest.mark.parametrize("ttl", [901, -1], ids=str)
async def test_refuses_a_token_that_lives_longer_than_fifteen_minutes(work: Gateway, ttl: int) -> None:
    """A token in a mailbox is a token for whoever reads it next week."""
    grant_id = (await create(work, TASKS_NOTES_MEMORY)).grant.id
    refused = await refusal(work.create_token(grant_id, ttl_seconds=ttl))
    assert (refused.reason, set(refused.violations)) == ("REQUEST_INVALID", {"ttl_seconds"})


async def test_a_second_peer_of_the_same_name_is_refused(work: Gateway) -> None:
    """A common name belongs to one inbound peer."""
    request = grants_pb2.CreatePeerRequest(name="home")
    refused = await refusal(work.peers.CreatePeer(request, metadata=work.operator_metadata()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN")


async def test_a_list_for_a_peer_that_is_not_there_is_refused(work: Gateway) -> None:
    """An empty list would say that the peer was given nothing, while its name was mistyped."""
    request = grants_pb2.ListGrantsRequest(peer="ghost")
    refused = await refusal(work.grants.ListGrants(request, metadata=work.operator_metadata(Role.READ)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PEER_NOT_FOUND")


async def test_operators_learn_which_user_an_email_is(work: Gateway) -> None:
    """Any user of this gateway, connected or not, by email or UUID; nobody else has an answer."""
    users, metadata = grants_pb2_grpc.UserServiceStub(work.channel(GRANTS, "operator")), work.operator_metadata(Role.READ)
    found = await users.FindUser(grants_pb2.FindUserRequest(user=SUBJECT), metadata=metadata)
    assert [(found.id, found.active)] == work.rows("SELECT id::text, active FROM public.users WHERE email = %s", SUBJECT)
    assert await users.FindUser(grants_pb2.FindUserRequest(user=found.id), metadata=metadata) == found
    refused = await refusal(users.FindUser(grants_pb2.FindUserRequest(user="nobody@example.com"), metadata=metadata))
    assert refused.reason == "SUBJECT_NOT_ELIGIBLE"
