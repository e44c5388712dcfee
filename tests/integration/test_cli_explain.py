"""`grant explain`, `preview` and `limit`: what is asked of the gateway, and how its answer is told."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from mosaic.errors.v1.errors_pb2 import REASON_PEER_NOT_ACTIVE
from mosaic.grants.v1 import types_pb2
from mosaic.grants.v1.grants_pb2 import (
    CreateGrantResponse,
    ExplainedLayer,
    ExplainGrantResponse,
    LimitGrantResponse,
    PreviewGrantResponse,
    ResourcePreview,
)
from mosaic.grants.v1.types_pb2 import GRANT_STATUS_ACTIVE, Grant, RateLimit
from mosaic_cli.app import app
from typer.testing import CliRunner, Result

from tests.support.scripted_gateway import ScriptedGateway

GRANT = str(uuid4())
REFUSED = ExplainGrantResponse(
    allowed=False,
    reason=REASON_PEER_NOT_ACTIVE,
    layer="peer",
    layers=[
        ExplainedLayer(layer="grant", verdict=ExplainedLayer.VERDICT_PASSED, sentence="The grant is active and has no end."),
        ExplainedLayer(layer="peer", verdict=ExplainedLayer.VERDICT_REFUSED, sentence="The peer home is suspended."),
        ExplainedLayer(layer="scope", verdict=ExplainedLayer.VERDICT_NOT_REACHED, sentence="Not looked at: \x1b[2J."),
        ExplainedLayer(layer="rate", verdict=ExplainedLayer.VERDICT_REPORTED, sentence="The limit is the gateway's own."),
    ],
    remedy="`mosaic federation peer resume home` accepts the peer again.",
)
SCOPE = '{"resources": ["tasks"], "max_rows_per_query": 5}'


@pytest.fixture
def work(tmp_path: Path) -> Iterator[ScriptedGateway]:
    with ScriptedGateway.start(tmp_path, "work") as gateway:
        yield gateway


def run(work: ScriptedGateway, *arguments: str) -> Result:
    environment: dict[str, Any] = {"MOSAIC_TOKEN": None, "MOSAIC_CONTEXT": None, **work.environment}
    return CliRunner().invoke(app, ["federation", "grant", *arguments], env=environment)


def test_explain_asks_what_was_said(work: ScriptedGateway) -> None:
    """Verb, resources, row and certificate; a fingerprint is taken with colons, as openssl writes it, and without."""
    work.answer("ExplainGrant", REFUSED)
    run(work, "explain", GRANT, "search", "tasks", "notes", "--fingerprint", ":".join(["ab"] * 32))
    run(work, "explain", GRANT, "get", "tasks", "--id", "7")
    search, get = work.all_asked("ExplainGrant")
    assert (search.id, search.verb, search.resources, search.fingerprint) == (GRANT, "search", ["tasks", "notes"], b"\xab" * 32)
    assert (get.verb, get.row_id, get.fingerprint) == ("get", "7", b"")


def test_explain_tells_every_layer_and_what_to_do(work: ScriptedGateway) -> None:
    """A refusal is an answer: exit code 0, the reason on top, the remedy below, and nothing that a terminal obeys."""
    work.answer("ExplainGrant", REFUSED)
    result = run(work, "explain", GRANT, "list", "tasks")
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first == "This call would be refused  ✗ PEER_NOT_ACTIVE"
    told = "\n".join(rest)
    for words in (
        "✓ passed",
        "✗ refused",
        "· not reached",
        "· reported",
        "The peer home is suspended.",
        "→ `mosaic federation peer",
    ):
        assert words in told
    assert "\x1b" not in result.stdout


def test_explain_as_json(work: ScriptedGateway) -> None:
    """The same for programs."""
    work.answer("ExplainGrant", REFUSED)
    document = json.loads(run(work, "explain", GRANT, "list", "tasks", "-o", "json").stdout)
    assert (document["allowed"], document["reason"], document["layer"]) == (False, "PEER_NOT_ACTIVE", "peer")
    assert [each["verdict"] for each in document["layers"]] == ["passed", "refused", "not_reached", "reported"]
    work.answer("ExplainGrant", ExplainGrantResponse(allowed=True))
    document = json.loads(run(work, "explain", GRANT, "capabilities", "-o", "json").stdout)
    assert document == {"allowed": True, "reason": None, "layer": None, "layers": [], "remedy": None}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("explain", GRANT, "nod"), id="no such verb"),
        pytest.param(("explain", GRANT, "list", "tasks", "--fingerprint", "abc"), id="no fingerprint"),
        pytest.param(("preview",), id="preview of nothing"),
        pytest.param(("preview", GRANT, "--user", "maya"), id="preview of a grant and a user"),
        pytest.param(("preview", "--user", "maya"), id="preview of a user alone"),
        pytest.param(("limit", GRANT), id="limit to nothing"),
        pytest.param(("limit", GRANT, "--rate", "5"), id="rate without burst"),
        pytest.param(("limit", GRANT, "--burst", "5"), id="burst without rate"),
        pytest.param(("limit", GRANT, "--rate", "5", "--burst", "5", "--default"), id="limit and none"),
        pytest.param(("limit", GRANT, "--rate", "0", "--burst", "5"), id="rate of nothing"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(work: ScriptedGateway, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and no gateway is asked."""
    assert run(work, *arguments).exit_code == 2


def test_preview_of_a_grant(work: ScriptedGateway) -> None:
    """A line for each resource; what could not be counted is no zero, and is said."""
    answer = PreviewGrantResponse(
        scope_json=SCOPE,
        resources=[ResourcePreview(resource="tasks", visible=12345, per_query=500), ResourcePreview(resource="notes")],
    )
    work.answer("PreviewGrant", answer)
    result = run(work, "preview", GRANT)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["tasks", "12,345", "500"] in lines
    assert ["notes", "–", "–"] in lines
    assert "GAINED" not in result.stdout
    assert "This grant is" not in result.stdout
    assert "notes could not be counted within 2 s." in result.stderr
    document = json.loads(run(work, "preview", GRANT, "-o", "json").stdout)
    assert [each["visible"] for each in document["resources"]] == [12345, None]


@pytest.mark.parametrize("status", ["pending", "revoked", "expired"])
def test_preview_of_a_grant_that_is_not_active_says_so(work: ScriptedGateway, status: str) -> None:
    """In one line above the counts, and in JSON: nobody takes what would be shown for what is."""
    value = types_pb2.GrantStatus.Value(f"GRANT_STATUS_{status.upper()}")
    counted = [ResourcePreview(resource="tasks", visible=8, per_query=5)]
    work.answer("PreviewGrant", PreviewGrantResponse(scope_json=SCOPE, resources=counted, grant_status=value))
    shown = " ".join(run(work, "preview", GRANT).stdout.split())
    assert shown.startswith(f"! This grant is {status} and shows nothing")
    assert json.loads(run(work, "preview", GRANT, "-o", "json").stdout)["grant_status"] == status


def test_preview_of_a_scope_against_another(work: ScriptedGateway, tmp_path: Path) -> None:
    """Both files as their authors wrote them, and what the second would change."""
    scope, other = tmp_path / "scope.json", tmp_path / "other.json"
    scope.write_text(SCOPE)
    other.write_text(SCOPE.replace("5", "6"))
    counted = ResourcePreview(resource="tasks", visible=8, per_query=5, visible_against=7, per_query_against=6, gained=1, lost=2)
    work.answer("PreviewGrant", PreviewGrantResponse(scope_json=SCOPE, resources=[counted]))
    result = run(work, "preview", "--scope", str(scope), "--user", "maya", "--against", str(other))
    asked = work.asked("PreviewGrant")
    assert (asked.id, asked.user, asked.scope_json, asked.against_scope_json) == ("", "maya", scope.read_text(), other.read_text())
    assert ["tasks", "8", "5", "7", "6", "1", "2"] in [line.split() for line in result.stdout.splitlines()]


def test_limit_sets_and_takes_back(work: ScriptedGateway) -> None:
    """With what `show` says of it: the grant's own limit, or that it has none."""
    limited = Grant(id=GRANT, status=GRANT_STATUS_ACTIVE, scope_json=SCOPE, limit=RateLimit(per_second=5, burst=20))
    work.answer("LimitGrant", LimitGrantResponse(grant=limited))
    assert "at most 5 a second, 20 at once" in run(work, "limit", GRANT, "--rate", "5", "--burst", "20").stdout
    work.answer("LimitGrant", LimitGrantResponse(grant=Grant(id=GRANT, status=GRANT_STATUS_ACTIVE, scope_json=SCOPE)))
    assert "the gateway's own limit" in run(work, "limit", GRANT, "--default").stdout
    limit, default = work.all_asked("LimitGrant")
    assert (limit.id, limit.limit.per_second, limit.limit.burst) == (GRANT, 5, 20)
    assert not default.HasField("limit")


def test_a_grant_is_created_with_its_limit(work: ScriptedGateway, tmp_path: Path) -> None:
    """From its first call on."""
    (tmp_path / "scope.json").write_text(SCOPE)
    limited = Grant(id=GRANT, scope_json=SCOPE, limit=RateLimit(per_second=2, burst=9))
    work.answer("CreateGrant", CreateGrantResponse(grant=limited))
    options = ("--user", "m", "--peer", "p", "--scope", str(tmp_path / "scope.json"), "--rate", "2", "--burst", "9")
    document = json.loads(run(work, "create", *options, "-o", "json").stdout)
    assert document["limit"] == {"per_second": 2.0, "burst": 9}
    asked = work.asked("CreateGrant")
    assert (asked.limit.per_second, asked.limit.burst) == (2, 9)
