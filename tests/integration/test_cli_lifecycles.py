"""Lists of any length, ends and returns of grants and peers, and the rotation of the sealing secret, against written answers."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mosaic.grants.v1.grants_pb2 import (
    CreateEnrollmentTokenResponse,
    CreateGrantResponse,
    DeleteGrantResponse,
    DeletePeerResponse,
    GetSealStatusResponse,
    ListGrantsRequest,
    ListGrantsResponse,
    ListPeersResponse,
    Replica,
    ResealResponse,
    ResumePeerResponse,
    RevokeGrantResponse,
    RevokePeerResponse,
    SealingKey,
    SuspendPeerResponse,
)
from mosaic.grants.v1.types_pb2 import (
    GRANT_STATUS_REVOKED,
    PEER_DIRECTION_INBOUND,
    PEER_DIRECTION_OUTBOUND,
    PEER_STATE_SUSPENDED,
    EnrollmentToken,
    Grant,
    Peer,
)
from mosaic_cli.app import app
from mosaic_common.auth import TokenVerifier, operate_audience, own_issuer
from mosaic_common.clock import SystemClock
from mosaic_common.errors import AuthRefused, MosaicError, Reason
from typer.testing import CliRunner, Result

from tests.support.clock import FakeClock
from tests.support.scripted_gateway import ScriptedGateway

ID = "7a0bb1e6-7a05-45e6-b30a-f1547d4186e7"
KEY = "1f" * 8
GRANT = Grant(id=ID, peer_name="home", subject_email="mira@work.example", status=GRANT_STATUS_REVOKED, revoked_reason="left")
PEER = Peer(id=ID, name="home", direction=PEER_DIRECTION_INBOUND, state=PEER_STATE_SUSPENDED)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[ScriptedGateway]:
    with ScriptedGateway.start(tmp_path, "work") as gateway:
        yield gateway


def run(work: ScriptedGateway, *arguments: str) -> Result:
    environment = {"MOSAIC_TOKEN": None, "MOSAIC_CONTEXT": None, **work.environment}
    return CliRunner().invoke(app, list(arguments), env=environment)


def run_at_terminal(work: ScriptedGateway, typed: str, *arguments: str) -> tuple[int, str]:
    """Exit code and what a person saw, who typed this."""
    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    environment = {**os.environ, **work.environment, "COLUMNS": "100"}
    command = [sys.executable, "-P", "-m", "mosaic_cli", *arguments]
    done = subprocess.run(command, stdin=theirs, capture_output=True, env=environment, text=True, timeout=60, check=False)
    os.close(ours)
    os.close(theirs)
    return done.returncode, done.stdout + done.stderr


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def many(work: ScriptedGateway, count: int) -> None:
    """A gateway with so many grants, page by page as it would give them."""

    def page(request: ListGrantsRequest) -> ListGrantsResponse:
        begin = int(request.page_token or 0)
        end = min(begin + request.page_size, count)
        grants = [Grant(id=f"{number:08}", peer_name="home") for number in range(begin, end)]
        return ListGrantsResponse(grants=grants, next_page_token=str(end) if end < count else "")

    work.answer("ListGrants", page)


@pytest.mark.parametrize(
    ("limit", "sizes", "shown"),
    [
        pytest.param(None, [500, 500, 500], 1203, id="all"),
        pytest.param("7", [7], 7, id="fewer than a page"),
        pytest.param("600", [500, 100], 600, id="more than a page"),
        pytest.param("1203", [500, 500, 203], 1203, id="exactly all"),
        pytest.param("5000", [500, 500, 500], 1203, id="more than there are"),
    ],
)
def test_a_limit_stops_the_pages_early(work: ScriptedGateway, limit: str | None, sizes: list[int], shown: int) -> None:
    """No page is asked for that is not needed, and a list that was cut says so on both channels."""
    many(work, 1203)
    result = run(work, "federation", "grant", "list", *(("--limit", limit) if limit else ()), "-o", "json")
    document = json.loads(result.stdout)
    assert [each["id"] for each in document["grants"]] == [f"{number:08}" for number in range(shown)]
    assert [each.page_size for each in work.all_asked("ListGrants")] == sizes
    assert document["truncated"] is (shown < 1203)
    assert ("There are more than these" in result.stderr) is (shown < 1203)


def test_a_limit_holds_whatever_the_page_holds(work: ScriptedGateway) -> None:
    """A gateway that gives more than was asked for does not lengthen the list."""
    work.answer("ListGrants", ListGrantsResponse(grants=[GRANT] * 9))
    assert len(json.loads(run(work, "federation", "grant", "list", "-n", "7", "-o", "json").stdout)["grants"]) == 7


def test_a_long_table_comes_page_by_page_and_a_document_whole(work: ScriptedGateway) -> None:
    """A list that breaks off has shown what it had; as JSON it is one document that says why, not half of another."""
    away = MosaicError(Reason.DEPENDENCY_UNAVAILABLE, "The database is away.")
    begun = ListGrantsResponse(grants=[Grant(id=ID)], next_page_token="next")
    work.answer("ListGrants", begun, away)
    table = run(work, "federation", "grant", "list")
    assert (table.exit_code, ID in table.stdout, "The database is away." in table.stderr) == (1, True, True)
    work.answer("ListGrants", begun, away)
    document = run(work, "federation", "grant", "list", "-o", "json")
    assert json.loads(document.stdout)["error"]["reason"] == "DEPENDENCY_UNAVAILABLE"


def test_an_empty_list_is_said_to_be_empty(work: ScriptedGateway) -> None:
    """Once, in words or as an empty list; an empty page before the last one says nothing."""
    work.answer("ListPeers", ListPeersResponse(next_page_token="next"), ListPeersResponse(peers=[PEER]))
    assert "No peers" not in run(work, "federation", "peer", "list").stdout
    work.answer("ListPeers", ListPeersResponse())
    assert "No peers." in run(work, "federation", "peer", "list").stdout
    assert json.loads(run(work, "federation", "peer", "list", "-o", "json").stdout) == {"peers": [], "truncated": False}


def test_filters_reach_the_gateway(work: ScriptedGateway) -> None:
    """Each by its name in words; what is not given filters nothing."""
    work.answer("ListPeers", ListPeersResponse())
    work.answer("ListGrants", ListGrantsResponse())
    run(work, "federation", "peer", "list", "--direction", "outbound", "--state", "suspended", "--user", "mira@work.example")
    run(work, "federation", "grant", "list", "--peer", "home", "--status", "revoked", "--user", "mira@work.example")
    run(work, "federation", "grant", "list")
    peers, (grants, unfiltered) = work.asked("ListPeers"), work.all_asked("ListGrants")
    assert (peers.direction, peers.state, peers.user) == (PEER_DIRECTION_OUTBOUND, PEER_STATE_SUSPENDED, "mira@work.example")
    assert (grants.peer, grants.status, grants.user) == ("home", GRANT_STATUS_REVOKED, "mira@work.example")
    assert unfiltered == ListGrantsRequest(page_size=500)


# ── ends and returns ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "method", "answer", "asked", "told"),
    [
        pytest.param(
            ("grant", "revoke", ID, "--reason", "left"),
            "RevokeGrant",
            RevokeGrantResponse(grant=GRANT),
            {"id": ID, "reason": "left"},
            "is revoked: home reads nothing more by it.",
            id="grant revoke",
        ),
        pytest.param(("grant", "delete", ID), "DeleteGrant", DeleteGrantResponse(), {"id": ID}, "is deleted.", id="grant delete"),
        pytest.param(
            ("peer", "suspend", "home"),
            "SuspendPeer",
            SuspendPeerResponse(peer=PEER),
            {"peer": "home"},
            "home is suspended",
            id="peer suspend",
        ),
        pytest.param(
            ("peer", "resume", "home"),
            "ResumePeer",
            ResumePeerResponse(peer=PEER),
            {"peer": "home"},
            "home is active again.",
            id="peer resume",
        ),
        pytest.param(
            ("peer", "revoke", "home", "--reason", "left"),
            "RevokePeer",
            RevokePeerResponse(peer=PEER, grants_revoked=2),
            {"peer": "home", "reason": "left"},
            "home is revoked, and 2 grants with it.",
            id="peer revoke",
        ),
        pytest.param(
            ("peer", "delete", "home"), "DeletePeer", DeletePeerResponse(), {"peer": "home"}, "is deleted.", id="peer delete"
        ),
    ],
)
def test_scripts_end_things_without_being_asked(
    work: ScriptedGateway, arguments: tuple[str, ...], method: str, answer: Any, asked: dict[str, str], told: str
) -> None:
    """Without a terminal the command itself is the answer; what became of it is a document, and a sentence."""
    work.answer(method, answer)
    result = run(work, "federation", *arguments)
    assert result.exit_code == 0, result.stderr
    assert told in result.stdout + result.stderr
    assert {name: getattr(work.asked(method), name) for name in asked} == asked
    document = json.loads(run(work, "federation", *arguments, "-o", "json").stdout)
    assert document.get("deleted", document.get("id") == ID)


@pytest.mark.parametrize(
    "arguments", [("grant", "revoke", ID), ("grant", "delete", ID), ("peer", "revoke", "h"), ("peer", "delete", "h")]
)
def test_a_person_is_asked_before_what_cannot_be_undone(work: ScriptedGateway, arguments: tuple[str, ...]) -> None:
    """No is an answer, and then the gateway hears nothing."""
    code, seen = run_at_terminal(work, "n\n", "federation", *arguments)
    assert (code, work.received) == (1, [])
    assert arguments[-1] in seen
    assert "[y/N]" in seen


@pytest.mark.parametrize(("typed", "options"), [("y\n", ()), ("", ("--yes",))])
def test_a_person_who_means_it_goes_on(work: ScriptedGateway, typed: str, options: tuple[str, ...]) -> None:
    """By answering, or by having said so before."""
    work.answer("RevokeGrant", RevokeGrantResponse(grant=GRANT))
    assert run_at_terminal(work, typed, "federation", "grant", "revoke", ID, *options)[0] == 0
    assert work.asked("RevokeGrant").id == ID


def test_a_refused_transition_says_why(work: ScriptedGateway) -> None:
    """The gateway's own sentence and remedy, exit code 1."""
    refusal = MosaicError(Reason.GRANT_STATE_CHANGED, "The grant is active.", remedy="Revoke it instead.")
    work.answer("DeleteGrant", refusal)
    result = run(work, "federation", "grant", "delete", ID)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "GRANT_STATE_CHANGED  The grant is active." in result.stderr
    assert "→ Revoke it instead." in result.stderr


def test_a_url_for_a_lost_key_is_asked_for_as_such(work: ScriptedGateway) -> None:
    """--reenroll reaches the gateway, which revokes every older certificate when it is redeemed."""
    token = EnrollmentToken(expires_at_us=1)
    work.answer("CreateEnrollmentToken", CreateEnrollmentTokenResponse(token=token, url_without_token=work.offer().format()))
    assert "`mosaic federation peer add --reenroll`" in run(work, "federation", "grant", "token", ID, "--reenroll").stderr
    assert "--reenroll" not in run(work, "federation", "grant", "token", ID).stderr
    assert [each.reenroll for each in work.all_asked("CreateEnrollmentToken")] == [True, False]


@pytest.mark.parametrize(
    ("resources", "warned"),
    [
        pytest.param(["tasks", "credentials", "api_keys"], True, id="sensitive ones"),
        pytest.param(["tasks"], False, id="none that needed it"),
    ],
)
def test_approving_sensitive_resources_is_said_loudly(
    work: ScriptedGateway, tmp_path: Path, resources: list[str], warned: bool
) -> None:
    """Which ones, to whom and whose, by the scope that the gateway recorded."""
    scope = json.dumps({"resources": resources, "max_rows_per_query": 5})
    work.answer("CreateGrant", CreateGrantResponse(grant=Grant(id=ID, peer_name="home", subject_email="mira@x", scope_json=scope)))
    (tmp_path / "scope.json").write_text(scope)
    options = ("--user", "mira@x", "--peer", "home", "--scope", str(tmp_path / "scope.json"), "--approve-sensitive")
    result = run(work, "federation", "grant", "create", *options)
    assert ("! You approved that home may read credentials and api_keys of mira@x" in result.stderr) is warned


def test_a_gateway_whose_clock_is_ahead_is_named(work: ScriptedGateway) -> None:
    """A token that was made a moment ago has not expired: what is wrong is a clock, and both times are told."""
    later = FakeClock(SystemClock().now() + timedelta(hours=2))
    jwks = json.loads(work.pki.identity("grants").jwks.read_bytes())
    audience = operate_audience("work")
    there = TokenVerifier(jwks, issuer=own_issuer("work"), audience=audience, gateway="work", clock=later)
    token = run(work, "auth", "token", "--subject", "ruth", "--role", "read").stdout.strip()
    with pytest.raises(AuthRefused) as refused:
        there.verify(token)
    work.answer("ListPeers", refused.value)
    result = run(work, "federation", "peer", "list")
    assert result.exit_code == 1
    assert "CLOCK" in result.stderr
    assert "its clock is at least 4 minutes ahead of this machine's" in result.stderr


# ── sealing ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sealing(to_reseal: int) -> GetSealStatusResponse:
    replicas = [Replica(id=name, current_key_id=KEY, readable_key_ids=[KEY, "00" * 8]) for name in ("a", "b")]
    keys = [SealingKey(key_id=KEY, rows=1), SealingKey(key_id="00" * 8, rows=to_reseal)]
    return GetSealStatusResponse(
        current_key_id=KEY, readable_key_ids=[KEY, "00" * 8], keys=keys, replicas=replicas, rows_to_reseal=to_reseal
    )


def test_the_sealing_is_told_in_words_and_as_a_document(work: ScriptedGateway) -> None:
    """Phase, situation and next step beside the numbers that they follow from."""
    work.answer("GetSealStatus", sealing(250))
    assert "Phase 3 of 3." in run(work, "seal", "status").stdout
    document = json.loads(run(work, "seal", "status", "-o", "json").stdout)
    assert (document["phase"], document["rows_to_reseal"], document["current_key_id"]) == (3, 250, KEY)
    assert "`mosaic seal rotate`" in document["next"]
    assert [each["id"] for each in document["replicas"]] == ["a", "b"]


def test_rotating_goes_on_until_nothing_is_left(work: ScriptedGateway) -> None:
    """Batch after batch under the key that the status named; plain lines where nobody watches."""
    work.answer("GetSealStatus", sealing(250))
    work.answer("Reseal", *(ResealResponse(resealed=done, remaining=left) for done, left in ((100, 150), (100, 50), (50, 0))))
    result = run(work, "seal", "rotate", "--batch-size", "100", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"key_id": KEY, "resealed": 250, "remaining": 0}
    assert [(each.key_id, each.batch_size) for each in work.all_asked("Reseal")] == [(KEY, 100)] * 3
    told = [line for line in result.stderr.splitlines() if line.startswith("Rows sealed anew")]
    assert told == [f"Rows sealed anew: {done} of 250" for done in (100, 200, 250)]
    assert "_PREVIOUS" in result.stderr


def test_nothing_to_rotate_is_no_failure(work: ScriptedGateway) -> None:
    """A rerun after the end changes nothing and says so."""
    work.answer("GetSealStatus", sealing(0))
    result = run(work, "seal", "rotate")
    assert (result.exit_code, work.all_asked("Reseal")) == (0, [])
    assert "Every row is sealed under" in result.stdout


def test_rows_that_do_not_open_are_named_at_the_end(work: ScriptedGateway) -> None:
    """Everything else is rotated first; then each is named once, with what can be done, and the exit code is 1."""
    work.answer("GetSealStatus", sealing(3))
    work.answer(
        "Reseal",
        ResealResponse(resealed=1, remaining=2, broken_row_ids=["row-1"]),
        ResealResponse(resealed=1, remaining=1, broken_row_ids=["row-1"]),
        ResealResponse(resealed=0, remaining=1, broken_row_ids=["row-1"]),
    )
    result = run(work, "seal", "rotate", "-o", "json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["reason"]) == (1, "SEAL_BROKEN")
    assert [each["field"] for each in error["violations"]] == ["row-1"]
    assert error["message"].startswith("Sealed anew: 2. ")
    assert error["message"].endswith(": 1.")
    assert "_PREVIOUS" in error["remediation"]
    assert "row-1" in result.stderr
    assert len(work.all_asked("Reseal")) == 3


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(
            MosaicError(Reason.SEALING_KEY_NOT_READABLE, "The replica b cannot read the key."), id="a replica lacks the key"
        ),
        pytest.param(MosaicError(Reason.DEPENDENCY_UNAVAILABLE, "The database is away."), id="it breaks off in the middle"),
    ],
)
def test_a_rotation_that_stops_says_that_nothing_is_lost(work: ScriptedGateway, failure: MosaicError) -> None:
    """The gateway's sentence, and that the same command continues; which it does, from where the gateway is."""
    work.answer("GetSealStatus", sealing(200))
    work.answer("Reseal", ResealResponse(resealed=100, remaining=100), failure)
    stopped = run(work, "seal", "rotate")
    assert stopped.exit_code == 1
    assert failure.message in stopped.stderr
    assert "100 rows are sealed anew and stay so; the same command continues" in stopped.stderr
    work.answer("GetSealStatus", sealing(100))
    work.answer("Reseal", ResealResponse(resealed=100, remaining=0))
    assert run(work, "seal", "rotate").exit_code == 0


def test_an_interrupted_rotation_says_that_nothing_is_lost(work: ScriptedGateway) -> None:
    """Ctrl-C between two batches, or within one: no traceback, and what is done stays done."""
    ended = threading.Event()

    def interrupted(_: object) -> ResealResponse:
        rotating.send_signal(signal.SIGINT)
        ended.wait(timeout=30)
        return ResealResponse()

    work.answer("GetSealStatus", sealing(200))
    work.answer("Reseal", ResealResponse(resealed=100, remaining=100), interrupted)
    command = [sys.executable, "-P", "-m", "mosaic_cli", "seal", "rotate"]
    with subprocess.Popen(command, env={**os.environ, **work.environment}, stderr=subprocess.PIPE, text=True) as rotating:
        _, told = rotating.communicate(timeout=60)
        ended.set()
    assert rotating.returncode
    assert "100 rows are sealed anew and stay so" in told
    assert "Traceback" not in told
