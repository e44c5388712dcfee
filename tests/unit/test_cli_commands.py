"""The command line itself: its tree, its options, its exit codes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
from mosaic_cli.app import app
from mosaic_cli.contexts import Context, Contexts, save
from mosaic_cli.lazy import LazyCommand
from mosaic_common import pki
from mosaic_common.auth import Role, TokenVerifier, own_issuer, query_audience
from mosaic_common.clock import SystemClock
from mosaic_common.pki import PkiDirectory
from typer.testing import CliRunner, Result

TREE = {
    "federation grant": {"create", "list", "show", "revoke", "delete", "token", "limit", "explain", "preview"},
    "federation peer": {"create", "add", "list", "show", "suspend", "resume", "revoke", "delete"},
    "federation scope": {"schema", "validate"},
    "pki": {"init", "issue", "show"},
    "auth": {"token"},
    "context": {"list", "use"},
    "seal": {"status", "rotate"},
    "db": {"upgrade"},
}
SINGLE = ["federation enroll", "federation query", "version"]
SCOPE = {"resources": ["tasks", "notes"], "max_rows_per_query": 500}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No context, no token and no terminal of whoever runs the tests."""
    monkeypatch.setenv("MOSAIC_CONTEXTS", str(tmp_path / "contexts.json"))
    monkeypatch.delenv("MOSAIC_CONTEXT", raising=False)
    monkeypatch.delenv("MOSAIC_TOKEN", raising=False)


def run(*arguments: str, **settings: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **settings)


@pytest.mark.parametrize(("group", "commands"), TREE.items(), ids=TREE)
def test_every_command_explains_itself_and_takes_an_output_format(group: str, commands: set[str]) -> None:
    """The tree is the specification's; each command has a help text and --output."""
    listed = run(*group.split(), "--help")
    assert listed.exit_code == 0
    for command in commands:
        helped = run(*group.split(), command, "--help")
        assert helped.exit_code == 0
        assert "--output" in helped.stdout
        assert command in listed.stdout
        assert run(*group.split(), command, "-h").stdout == helped.stdout


@pytest.mark.parametrize("command", SINGLE)
def test_single_commands_explain_themselves_too(command: str) -> None:
    """The same for the commands that stand in no group."""
    helped = run(*command.split(), "--help")
    assert (helped.exit_code, "--output" in helped.stdout) == (0, True)


def test_help_does_not_pay_for_what_it_does_not_use() -> None:
    """`mosaic --help`, and a shell that completes, load neither gRPC nor cryptography."""
    program = (
        "import sys; from mosaic_cli.app import app; from typer.testing import CliRunner;"
        "assert CliRunner().invoke(app, ['federation', '--help']).exit_code == 0;"
        "assert not {'grpc', 'cryptography', 'google.protobuf'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mosaic federation peer ", ["create", "add", "list", "show", "suspend", "resume", "revoke", "delete"]),
        ("mosaic federation grant list --status ", ["pending", "active", "revoked", "expired"]),
        ("mosaic federation peer list --direction ", ["inbound", "outbound"]),
        ("mosaic seal ", ["status", "rotate"]),
    ],
)
def test_a_shell_completes_commands_and_states(typed: str, offered: list[str]) -> None:
    """Commands that are loaded when they are asked for complete like all others; states come from the protos."""
    environment = {"_MOSAIC_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()))}
    completed = CliRunner().invoke(app, [], prog_name="mosaic", env=environment)
    assert completed.stdout.split() == offered


def test_a_mistyped_command_is_a_usage_error() -> None:
    """Exit code 2, with what was probably meant."""
    result = run("federaton")
    assert result.exit_code == 2
    assert "federation" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["federation", "grant", "list", "--output", "xml"], id="unknown format"),
        pytest.param(["federation", "grant", "list", "--status", "unspecified"], id="unknown status"),
        pytest.param(["federation", "peer", "list", "--direction", "sideways"], id="unknown direction"),
        pytest.param(["federation", "peer", "list", "--state", "expired"], id="a grant's status is no peer's state"),
        pytest.param(["federation", "grant", "list", "--limit", "0"], id="a list of nothing"),
        pytest.param(["seal", "rotate", "--batch-size", "1001"], id="more than one transaction should hold"),
        pytest.param(["federation", "grant", "create"], id="required options missing"),
        pytest.param(["auth", "token", "--subject", "a", "--role", "root"], id="unknown role"),
        pytest.param(["auth", "token", "--subject", "a", "--role", "read", "--ttl", "soon"], id="not a duration"),
        pytest.param(["auth", "token", "--subject", "bob", "--role", "query"], id="a query asks as a user, and a user is a UUID"),
        pytest.param(
            ["auth", "token", "--subject", "5D2FF1F8-8A3C-4F10-BD66-96B26D3EBD53", "--role", "query"],
            id="another spelling of a UUID",
        ),
        pytest.param(["federation", "enroll", "https://example.com/", "--out", "x"], id="not an enrollment URL"),
        pytest.param(["federation", "audit", "tail", "--follow", "--until", "1h"], id="an end of what has none"),
    ],
)
def test_misuse_exits_with_2(arguments: Sequence[str], tmp_path: Path) -> None:
    """What was typed is wrong: nothing was tried."""
    _context(tmp_path)
    assert run(*arguments).exit_code == 2


def test_a_word_that_does_not_exist_is_told_with_those_that_do() -> None:
    """In a sentence of ours, whatever the parser calls its errors."""
    refused = run("federation", "grant", "explain", "g", "read", env={"COLUMNS": "200"})
    assert "'read' is not one of 'list', 'get', 'search', 'capabilities'." in refused.stderr
    assert "Value error" not in refused.stderr


def test_a_context_that_does_not_exist_is_told_with_the_way_to_those_that_do(tmp_path: Path) -> None:
    """Their names, and the command that shows them."""
    _context(tmp_path)
    refused = run("federation", "grant", "list", "-c", "nope")
    assert refused.exit_code == 1
    assert "There is no context 'nope' (other, work); `mosaic context list`" in refused.stderr


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no key", id="no key"),
        pytest.param(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", id="a broken key"),
    ],
)
def test_a_file_that_is_no_audit_key_is_told_in_our_words(tmp_path: Path, content: bytes) -> None:
    """Which of the files, what it should be and where that lies; not a library's text."""
    good, wrong = _context(tmp_path).identity("operator").path / "audit.pub", tmp_path / "wrong.pub"
    wrong.write_bytes(content)
    refused = run("federation", "audit", "verify", "x.ndjson", "--key", str(good), "--key", str(wrong))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"FILE  {wrong} is no public audit key: that is an Ed25519 key, PEM." in refused.stderr
    assert "http" not in refused.stderr


@pytest.mark.parametrize("option", ["--witness", "--peer-heads"])
def test_a_file_without_a_head_proves_nothing(tmp_path: Path, option: str) -> None:
    """The wrong file beside an export is refused, where it would be passed over: nobody takes its silence for agreement."""
    key, wrong = _context(tmp_path).identity("operator").path / "audit.pub", tmp_path / "wrong"
    wrong.write_text('{"event":"call"}\n' if option == "--witness" else "")
    export = tmp_path / "a.ndjson"
    export.touch()
    refused = run("federation", "audit", "verify", str(export), "--key", str(key), option, str(wrong))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"FILE  {wrong} holds no head, so it can prove nothing of this record." in refused.stderr
    if option == "--peer-heads":
        wrong.write_text("{}\n")
        refused = run("federation", "audit", "verify", str(export), "--key", str(key), option, str(wrong))
        assert f"FILE  {wrong} cannot be compared with: " in refused.stderr


def test_a_refusal_exits_with_1_and_says_why_and_what_to_do() -> None:
    """Reason, sentence and remedy on stderr, nothing on stdout, no traceback."""
    result = run("federation", "grant", "list")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "CONFIGURATION  No gateway is named" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [("federation", "peer", "list"), ("context", "use", "x"), ("-c", "x", "auth", "token")])
def test_without_a_contexts_file_the_way_to_one_is_told(tmp_path: Path, arguments: Sequence[str]) -> None:
    """Its path, its form, the flags instead of it, and the command that makes two gateways with one."""
    result = run(*arguments, *(("--subject", "ruth", "--role", "read") if "token" in arguments else ()))
    assert result.exit_code == 1
    for told in (str(tmp_path / "contexts.json"), '"operator_address": HOST:PORT', "--operator-address", "mosaic dev up"):
        assert told in result.stderr


@pytest.mark.parametrize("arguments", [("-o", "json", "context", "use", "x"), ("context", "use", "x", "-o", "json")])
def test_with_json_asked_for_an_error_is_a_document_too(arguments: Sequence[str]) -> None:
    """A program reads one JSON document from stdout in any case, wherever the option stands."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["reason"] == "CONFIGURATION"
    assert "CONFIGURATION" in result.stderr


def test_a_defect_shows_no_traceback_and_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even what nobody foresaw ends in one sentence; its text, which may hold anything, is left out."""

    def burst(_: object) -> None:
        raise ZeroDivisionError("token=secret")

    monkeypatch.setattr("mosaic_cli.commands.scope.parse_scope_json", burst)
    result = run("federation", "scope", "validate", "-", input=b"{}")
    assert result.exit_code == 1
    assert "DEFECT" in result.stderr
    assert "secret" not in result.stderr + result.stdout


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The path and the system's reason."""
    result = run("federation", "scope", "validate", str(tmp_path / "absent.json"))
    assert result.exit_code == 1
    assert "absent.json: No such file or directory" in result.stderr


def test_scope_validate_reports_everything_at_once(tmp_path: Path) -> None:
    """Each problem with its place in the document, on stderr and in the JSON document."""
    bad = tmp_path / "scope.json"
    bad.write_text('{"resources": ["tasks", "tasks", "letters"], "max_rows_per_query": true, "extra": 1}')
    result = run("federation", "scope", "validate", str(bad), "--output", "json")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["reason"]) == (1, "SCOPE_INVALID")
    fields = {each["field"] for each in error["violations"]}
    assert fields == {"/resources/1", "/resources/2", "/max_rows_per_query", "/extra"}
    assert all(field in result.stderr for field in fields)


def test_scope_validate_accepts_and_shows_the_canonical_document() -> None:
    """Defaults written out, and which resources will need an approval; from stdin too."""
    result = run(
        "federation", "scope", "validate", "-", "-o", "json", input=json.dumps({**SCOPE, "resources": ["tasks", "api_keys"]})
    )
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["scope"]["excluded_resources"] == []
    assert document["sensitive"] == ["api_keys"]
    assert "--approve-sensitive" in result.stderr


def test_scope_schema_is_json_in_both_formats() -> None:
    """A schema is for programs, whatever the format."""
    assert json.loads(run("federation", "scope", "schema").stdout)["$schema"].endswith("2020-12/schema")


def test_the_enrollment_url_is_never_echoed() -> None:
    """A URL that cannot be used is refused by the part that is wrong: what was typed may hold the token."""
    secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"
    result = run("federation", "enroll", "--out", "x", input=f"http://work:1/api/federation/enrollment#token={secret}\n")
    assert result.exit_code == 2
    assert "https" in result.stderr
    assert secret not in result.stdout + result.stderr


def test_a_token_is_bare_on_stdout_and_holds_for_one_audience(tmp_path: Path) -> None:
    """`$(mosaic auth token …)` is the token; the verifier of the listener it is for accepts it as whom it names."""
    folder = _context(tmp_path)
    result = run("auth", "token", "--subject", "5d2ff1f8-8a3c-4f10-bd66-96b26d3ebd53", "--role", "query", "--ttl", "5m")
    assert result.exit_code == 0
    jwks = json.loads(folder.identity("grants").jwks.read_bytes())
    audience = query_audience("work")
    verifier = TokenVerifier(jwks, issuer=own_issuer("work"), audience=audience, gateway="work", clock=SystemClock())
    principal = verifier.verify(result.stdout.strip())
    assert (principal.subject, principal.roles) == ("5d2ff1f8-8a3c-4f10-bd66-96b26d3ebd53", frozenset({Role.QUERY}))
    assert audience in result.stderr


@pytest.mark.parametrize("role", ["admin", "read", "query"])
def test_a_token_lives_a_quarter_of_an_hour_unless_told_otherwise(tmp_path: Path, role: str) -> None:
    """Each role has its audience; --ttl is optional."""
    _context(tmp_path)
    document = json.loads(run("auth", "token", "--subject", str(uuid4()), "--role", role, "-o", "json").stdout)
    assert document["audience"] == ("mosaic:work:query" if role == "query" else "mosaic:work:operate")
    left = datetime.fromisoformat(document["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)


def test_an_empty_token_is_not_replaced_by_one_of_our_own(tmp_path: Path) -> None:
    """MOSAIC_TOKEN=$(what failed) must not quietly become an administrator's token."""
    _context(tmp_path)
    result = run("federation", "peer", "create", "home", env={"MOSAIC_TOKEN": " "})
    assert result.exit_code == 1
    assert "MOSAIC_TOKEN is set and empty" in result.stderr


def test_an_admin_token_of_more_than_an_hour_is_refused(tmp_path: Path) -> None:
    """The gateway would refuse it; the command says so first."""
    _context(tmp_path)
    result = run("auth", "token", "--subject", "ruth", "--role", "admin", "--ttl", "2h")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "at most an hour" in result.stderr


def test_flags_stand_in_for_a_context(tmp_path: Path) -> None:
    """On a machine without a contexts file, gateway, address and root are enough; what is missing then is a token."""
    root = tmp_path / "root.pem"
    result = run("--gateway", "work", "--operator-address", "work:7112", "--root", str(root), "federation", "peer", "list")
    assert result.exit_code == 1
    assert "TOKEN_MISSING" in result.stderr


def test_contexts_are_listed_and_chosen(tmp_path: Path) -> None:
    """`context use` moves the mark and leaves the file private."""
    _context(tmp_path)
    assert run("context", "use", "other").exit_code == 0
    listed = json.loads(run("context", "list", "-o", "json").stdout)
    assert listed["current"] == "other"
    assert [each["name"] for each in listed["contexts"]] == ["work", "other"]


def test_pki_init_and_show_tell_the_same(tmp_path: Path) -> None:
    """What init made, show reads: the pin of enrollment URLs, every identity, no key's content."""
    where = ("--dir", str(tmp_path / "pki"), "-o", "json")
    made = run("pki", "init", *where, "--gateway", "work", "--public-host", "localhost")
    assert made.exit_code == 0
    shown = run("pki", "show", *where)
    assert json.loads(shown.stdout) == json.loads(made.stdout)
    assert "PRIVATE KEY" not in shown.stdout
    assert run("pki", "issue", "edge-inbound", *where).exit_code == 0


def test_dev_says_that_it_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheels of its servers and their driver are no business of an operator's machine."""
    monkeypatch.setattr("mosaic_cli.commands.dev.DRIVER", "not_installed")
    for command in ("up", "demo"):
        refused = run("dev", command, "--dir", str(tmp_path / "x"), "-o", "json")
        assert (refused.exit_code, json.loads(refused.stdout)["error"]["reason"]) == (1, "NOT_INSTALLED")
        assert "mosaic-cli[dev]" in refused.stderr


def test_nothing_that_runs_is_no_outage(tmp_path: Path) -> None:
    """`dev status`, `stop` and `start` name the folder, and the command that starts gateways."""
    absent = tmp_path / "absent"
    for arguments in (("status",), ("stop", "work", "grants"), ("start", "work", "grants")):
        refused = run("dev", *arguments, "--dir", str(absent))
        assert refused.exit_code == 1
        assert f"NOT_RUNNING  No gateways answer in {absent}: `mosaic dev up`" in refused.stderr


def test_an_upgrade_without_a_database_ends_in_one_sentence() -> None:
    """No traceback; as JSON one document with the sentence, like every other failure."""
    environment = {"DATABASE_URL": "postgresql://mosaic_owner:secret@127.0.0.1:1/mosaic", "MOSAIC_ENV": "dev"}
    command = [sys.executable, "-P", "-m", "mosaic_cli", "db", "upgrade", "-o", "json"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    error = json.loads(refused.stdout)["error"]
    assert (refused.returncode, error["reason"]) == (1, "UPGRADE_FAILED")
    assert "Connection refused" in error["message"]
    assert "Traceback" not in refused.stderr
    assert "secret" not in refused.stdout + refused.stderr


def test_version_names_what_it_stands_on() -> None:
    """One line each, or one document."""
    assert {"mosaic-cli", "python", "grpcio"} <= json.loads(run("version", "-o", "json").stdout).keys()


def test_a_lazy_command_is_its_modules_app() -> None:
    """It keeps the name of the tree and takes its help from the module, or from the tree where the module has none."""
    loaded = LazyCommand("enroll", "mosaic_cli.commands.enroll", "Summary.").load()
    assert loaded.name == "enroll"
    assert loaded.help.startswith("Redeem an enrollment URL")
    assert LazyCommand("auth", "mosaic_cli.commands.auth", "Summary.").load().help == "Summary."
    assert isinstance(app, typer.Typer)


def _context(tmp_path: Path) -> PkiDirectory:
    pki.init(tmp_path / "pki", "work", "localhost", clock=SystemClock())
    folder = PkiDirectory(tmp_path / "pki")
    operator = folder.identity("operator")
    work = Context("work", "localhost:1", "localhost:1", operator.service_root, jwt_key=operator.jwt_key)
    save(tmp_path / "contexts.json", Contexts("work", {"work": work, "other": work}))
    return folder
