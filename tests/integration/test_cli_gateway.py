"""Commands against a gateway whose answers are written here: real TLS, real tokens, nothing behind it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mosaic.federation.v1.query_pb2 import SOURCE_STATUS_OK, SOURCE_STATUS_UNAVAILABLE, QueryResponse, SourceResult
from mosaic.federation.v1.resources_pb2 import Resource, Task
from mosaic.grants.v1.grants_pb2 import (
    CreateEnrollmentTokenResponse,
    CreateGrantResponse,
    FindUserResponse,
    GetPeerResponse,
    ListGrantsResponse,
    ListPeersResponse,
)
from mosaic.grants.v1.types_pb2 import GRANT_STATUS_ACTIVE, GRANT_STATUS_PENDING, EnrollmentToken, Grant
from mosaic_cli.app import app
from mosaic_cli.contexts import Context, Contexts, save
from mosaic_common.errors import MosaicError, Reason, Violation
from mosaic_common.tokens import EnrollmentUrl, token_id
from typer.testing import CliRunner, Result

from tests.support.scripted_gateway import REQUEST_ID, ScriptedGateway

USER = "5d2ff1f8-8a3c-4f10-bd66-96b26d3ebd53"
GRANT = Grant(
    id="7a0bb1e6-7a05-45e6-b30a-f1547d4186e7",
    subject_email="mira@work.example",
    peer_name="home",
    status=GRANT_STATUS_PENDING,
    scope_json='{"resources":["tasks"],"excluded_resources":[],"filters":{},"max_rows_per_query":50}',
    created_at_us=1_772_000_000_000_000,
)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[ScriptedGateway]:
    with ScriptedGateway.start(tmp_path, "work") as gateway:
        yield gateway


def run(work: ScriptedGateway, *arguments: str, **settings: Any) -> Result:
    environment = {"MOSAIC_TOKEN": None, "MOSAIC_CONTEXT": None, **work.environment, **settings.pop("env", {})}
    return CliRunner().invoke(app, list(arguments), env=environment, **settings)


def test_a_grant_is_created_with_everything_that_was_asked(work: ScriptedGateway, tmp_path: Path) -> None:
    """User, peer, the scope as its author wrote it, the duration in seconds, the approval."""
    work.answer("CreateGrant", CreateGrantResponse(grant=GRANT))
    scope = tmp_path / "scope.json"
    scope.write_text('{ "resources": ["tasks"], "max_rows_per_query": 50 }')
    options = ("--user", "mira@work.example", "--peer", "home", "--scope", str(scope), "--expires-in", "90d", "--approve-sensitive")
    result = run(work, "federation", "grant", "create", *options, "-o", "json")
    assert result.exit_code == 0
    asked = work.asked("CreateGrant")
    assert (asked.user, asked.peer, asked.scope_json) == ("mira@work.example", "home", scope.read_text())
    assert (asked.expires_in_seconds, asked.approve_sensitive) == (90 * 86_400, True)
    document = json.loads(result.stdout)
    assert (document["status"], document["scope"]["resources"], document["expires_at"]) == ("pending", ["tasks"], None)


def test_every_violation_of_the_gateway_is_shown(work: ScriptedGateway, tmp_path: Path) -> None:
    """Reason, sentence, each field with its sentence, and the remedy."""
    violations = [Violation("/resources/3", "must be one of tasks"), Violation("/filters/tasks/include_teams/0", "is unknown here")]
    work.answer(
        "CreateGrant", MosaicError(Reason.SCOPE_INVALID, "The scope has 2 problems.", violations=violations, remedy="Correct.")
    )
    (tmp_path / "scope.json").write_text("{}")
    result = run(work, "federation", "grant", "create", "-u", "m", "-p", "home", "-s", str(tmp_path / "scope.json"))
    assert (result.exit_code, result.stdout) == (1, "")
    for told in ("SCOPE_INVALID", "2 problems", "/resources/3", "is unknown here", "→ Correct."):
        assert told in result.stderr


def test_lists_follow_every_page(work: ScriptedGateway) -> None:
    """Nobody sees the first page and believes it is all."""
    second = Grant(id="718859ad-f373-434d-b464-d03de2b481c1", status=GRANT_STATUS_ACTIVE)
    work.answer("ListGrants", ListGrantsResponse(grants=[GRANT], next_page_token="next"), ListGrantsResponse(grants=[second]))
    result = run(work, "federation", "grant", "list", "--status", "active", "-o", "json")
    assert [each["id"] for each in json.loads(result.stdout)["grants"]] == [GRANT.id, second.id]
    assert [(each.page_token, each.status) for each in work.all_asked("ListGrants")] == [
        ("", GRANT_STATUS_ACTIVE),
        ("next", GRANT_STATUS_ACTIVE),
    ]


def test_an_enrollment_url_is_completed_here_and_its_seed_stays_here(work: ScriptedGateway) -> None:
    """The gateway gets the public key and the URL is bare on stdout; the seed is in no request."""
    work.answer(
        "CreateEnrollmentToken",
        CreateEnrollmentTokenResponse(token=EnrollmentToken(expires_at_us=1), url_without_token=work.offer().format()),
    )
    result = run(work, "federation", "grant", "token", GRANT.id, "--ttl", "10m")
    url = EnrollmentUrl.parse(result.stdout.strip())
    asked = work.asked("CreateEnrollmentToken")
    assert (asked.token_public_key, asked.ttl_seconds) == (url.token.public_key, 600)
    assert url.token.seed not in asked.SerializeToString()
    assert token_id(url.token.public_key).hex() in result.stderr


def test_a_partial_answer_is_said_loudly_and_is_no_failure(work: ScriptedGateway) -> None:
    """Exit code 0, `_partial` in the document, and a warning that names who is missing."""
    sources = [
        SourceResult(source="local", status=SOURCE_STATUS_OK, row_count=1),
        SourceResult(source="federated:lab", status=SOURCE_STATUS_UNAVAILABLE, reason="DEPENDENCY_UNAVAILABLE"),
    ]
    row = Resource(id="i", source="local", task=Task(title="Oat milk"))
    work.answer("Query", QueryResponse(rows=[row], partial=True, sources=sources))
    for output in ("json", "table"):
        result = run(work, "federation", "query", "tasks", "--source", "all", "--user", USER, "-o", output)
        assert result.exit_code == 0
        assert "PARTIAL ANSWER" in result.stderr
        assert "federated:lab (unavailable)" in result.stderr
        assert "Oat milk" in result.stdout
    assert json.loads(run(work, "federation", "query", "tasks", "--user", USER, "-o", "json").stdout)["_partial"] is True


def test_a_query_asks_as_a_user_whom_the_gateway_knows_by_email(work: ScriptedGateway) -> None:
    """A token names its user by UUID: whose the email is, grants says, whether or not that user has a connection."""
    work.answer("FindUser", FindUserResponse(id=USER), MosaicError(Reason.SUBJECT_NOT_ELIGIBLE, "'nobody' is no user."))
    work.answer("Query", QueryResponse())
    assert run(work, "federation", "query", "notes", "--user", "mira@home.example").exit_code == 0
    assert work.asked("FindUser").user == "mira@home.example"
    unknown = run(work, "federation", "query", "notes", "--user", "nobody")
    assert unknown.exit_code == 1
    assert "SUBJECT_NOT_ELIGIBLE  'nobody' is no user." in unknown.stderr


@pytest.mark.parametrize("output", ["json", "table"])
def test_a_refusal_names_its_request(work: ScriptedGateway, output: str) -> None:
    """The request id is what two operators compare, and what finds the line in the gateway's log."""
    work.answer("GetPeer", MosaicError(Reason.PEER_NOT_FOUND, "There is no peer 'ghost'.", metadata={"peer": "ghost"}))
    refused = run(work, "federation", "peer", "show", "ghost", "-o", output)
    assert refused.exit_code == 1
    assert f"request id {REQUEST_ID}" in refused.stderr
    if output == "json":
        assert json.loads(refused.stdout)["error"]["metadata"] == {"peer": "ghost", "request_id": REQUEST_ID}


def test_what_the_gateway_does_not_offer_is_said_as_such(work: ScriptedGateway) -> None:
    """An older gateway, or a method whose turn has not come: not `cannot be reached`."""
    work.answer("ListPeers", MosaicError(Reason.NOT_IMPLEMENTED, "Not yet."))
    assert "NOT_IMPLEMENTED  Not yet." in run(work, "federation", "peer", "list").stderr
    assert "NOT_OFFERED" in run(work, "federation", "peer", "show", "home").stderr


def test_another_service_behind_the_address_gets_no_token(work: ScriptedGateway) -> None:
    """The operator listener has to prove its own name; a neighbour's certificate under the same root is not enough."""
    work.answer("GetPeer", GetPeerResponse())
    result = run(work, "--operator-address", work.context.user_address, "federation", "peer", "show", "home")
    assert result.exit_code == 1
    assert "NOT_VERIFIED" in result.stderr
    assert work.received == []


def test_a_stopped_service_is_said_to_be_unreachable(work: ScriptedGateway) -> None:
    """With the address, and what to look at."""
    result = run(work, "--operator-address", "127.0.0.1:1", "federation", "peer", "list")
    assert result.exit_code == 1
    assert "UNREACHABLE  grants of work at 127.0.0.1:1: nothing listens there." in result.stderr


def test_a_context_without_a_key_needs_a_token(work: ScriptedGateway, tmp_path: Path) -> None:
    """MOSAIC_TOKEN is used as it is; without it and without a key, the command says how to get one."""
    save(tmp_path / "bare.json", Contexts("work", {"work": _without_key(work.context)}))
    work.answer("ListPeers", ListPeersResponse())
    bare = {"MOSAIC_CONTEXTS": str(tmp_path / "bare.json")}
    assert "TOKEN_MISSING" in run(work, "federation", "peer", "list", env=bare).stderr
    assert run(work, "federation", "peer", "list", env={**bare, "MOSAIC_TOKEN": "given"}).exit_code == 0


def _without_key(context: Context) -> Context:
    return Context(context.gateway, context.operator_address, context.user_address, context.root)
