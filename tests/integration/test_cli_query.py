"""`mosaic federation query`, as a person and as a program meet it: real TLS, real tokens, answers that are written here."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import Message
from mosaic.federation.v1.federation_pb2 import VERB_GET, VERB_LIST, VERB_SEARCH, SearchHit
from mosaic.federation.v1.query_pb2 import (
    SOURCE_STATUS_OK,
    SOURCE_STATUS_TIMEOUT,
    SOURCE_STATUS_UNAVAILABLE,
    ListSourcesResponse,
    QueryRequest,
    QueryResponse,
    SourceResult,
)
from mosaic.federation.v1.resources_pb2 import Memory, Resource, Task
from mosaic_cli.app import app
from mosaic_common.errors import MosaicError, Reason
from typer.testing import CliRunner, Result

from tests.support.interrupts import interruptible
from tests.support.scripted_gateway import ScriptedGateway

USER: Final = "5d2ff1f8-8a3c-4f10-bd66-96b26d3ebd53"
ROW: Final = "7a0bb1e6-7a05-45e6-b30a-f1547d4186e7"
SECONDS: Final = 20.0


@pytest.fixture
def work(tmp_path: Path) -> Iterator[ScriptedGateway]:
    with ScriptedGateway.start(tmp_path, "work") as gateway:
        yield gateway


def environment(work: ScriptedGateway) -> dict[str, Any]:
    return {"MOSAIC_TOKEN": None, "MOSAIC_CONTEXT": None, **work.environment}


def query(work: ScriptedGateway, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["federation", "query", *arguments, "--user", USER], env=environment(work))


def ok(source: str = "local", rows: int = 1, **fields: Any) -> SourceResult:
    return SourceResult(source=source, status=SOURCE_STATUS_OK, row_count=rows, **fields)


def task(title: str, source: str = "local") -> Resource:
    return Resource(id=ROW, source=source, owner_id=USER, task=Task(title=title))


def hit(**fields: Any) -> SearchHit:
    row = Resource(id=ROW, source="federated:lab", owner_id=USER, memory=Memory(kind="fact", content="Oat milk is in the cellar"))
    return SearchHit(resource=row, **fields)


def test_a_search_asks_for_words_in_several_resources(work: ScriptedGateway) -> None:
    """All of it reaches the gateway as it was written; each hit comes with why it was found."""
    hits = [hit(rank=0.5, snippet="**Oat** milk is in"), hit(rank=0.2, distance=0.25)]
    work.answer("Query", QueryResponse(hits=hits, sources=[ok("federated:lab", 2, truncated=True)]))
    result = query(work, "tasks", "memory", "--search", '"oat milk" -soy', "--source", "all", "--limit", "7", "-o", "json")
    assert result.exit_code == 0
    asked = work.asked("Query")
    assert (asked.verb, list(asked.resources), asked.query, asked.page_size, asked.source) == (
        VERB_SEARCH,
        ["tasks", "memory"],
        '"oat milk" -soy',
        7,
        "all",
    )
    rows = json.loads(result.stdout)["rows"]
    assert [(row["_source"], row["_rank"], row["_snippet"], row["_distance"]) for row in rows] == [
        ("federated:lab", 0.5, "**Oat** milk is in", None),
        ("federated:lab", 0.2, None, 0.25),
    ]
    assert rows[0]["content"] == "Oat milk is in the cellar"

    table = query(work, "tasks", "memory", "--search", "oat", "--source", "all").stdout
    assert "Oat milk is in" in table
    assert "distance 0.250" in table
    assert "**" not in table
    assert "there is more" in table
    assert "row limit" not in table, "it is the page that ends here"


def test_an_embedding_comes_from_a_file(work: ScriptedGateway, tmp_path: Path) -> None:
    """A JSON list of numbers, and nothing else."""
    work.answer("Query", QueryResponse(hits=[hit(distance=0.1)], sources=[ok()]))
    file = tmp_path / "vector.json"
    file.write_text(json.dumps([0.5, -1, 2.25]))
    assert query(work, "memory", "--embedding", str(file)).exit_code == 0
    assert list(work.asked("Query").embedding) == [0.5, -1.0, 2.25]
    nested, large = "[" * 100_000, "9" * 400
    for wrong in ("{}", "[true]", '["1"]', "[1", "", nested, f"{nested}{']' * 100_000}", f"[{large}]", "[1e39]", "[NaN]"):
        file.write_text(wrong)
        refused = query(work, "memory", "--embedding", str(file))
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "FILE" in refused.stderr
    assert "FILE" in query(work, "memory", "--embedding", str(tmp_path / "absent.json")).stderr


def test_one_row_by_its_id(work: ScriptedGateway) -> None:
    """From whichever source has it."""
    work.answer("Query", QueryResponse(rows=[task("Buy oat milk")], sources=[ok(), ok("federated:lab", 0)]))
    result = query(work, "tasks", "--id", ROW, "--source", "all")
    assert result.exit_code == 0
    assert "Buy oat milk" in result.stdout
    asked = work.asked("Query")
    assert (asked.verb, asked.id, asked.page_size) == (VERB_GET, ROW, 0)


def test_a_row_that_nobody_has_is_a_failure(work: ScriptedGateway) -> None:
    """Exit code 1 and nothing on stdout, once every source has said so."""
    nowhere = [ok(source, 0, reason="RESOURCE_NOT_FOUND") for source in ("local", "federated:lab")]
    work.answer("Query", QueryResponse(sources=nowhere))
    result = query(work, "tasks", "--id", ROW, "--source", "all")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "RESOURCE_NOT_FOUND" in result.stderr


@pytest.mark.parametrize("others", [[], [ok(rows=0, reason="RESOURCE_NOT_FOUND")]], ids=["the only one", "beside one without it"])
def test_a_row_that_a_silent_source_may_have_is_a_partial_answer(work: ScriptedGateway, others: list[SourceResult]) -> None:
    """A source that is down never makes a query fail: who is silent is named, and nobody says that there is no such row."""
    silent = SourceResult(source="federated:lab", status=SOURCE_STATUS_TIMEOUT)
    work.answer("Query", QueryResponse(partial=True, sources=[*others, silent]))
    result = query(work, "tasks", "--id", ROW, "--source", "all", "-o", "json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["rows"], answer["_partial"]) == ([], True)
    assert [(each["source"], each["status"]) for each in answer["sources"]][-1] == ("federated:lab", "timeout")
    assert "PARTIAL ANSWER: it lacks rows of federated:lab (timeout)." in result.stderr
    assert "RESOURCE_NOT_FOUND" not in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--id", ROW, "--search", "oat"], id="an id and a search"),
        pytest.param(["--id", ROW, "--page", "x"], id="a page of one row"),
        pytest.param(["--search", "oat", "--page", "x"], id="a page of a search"),
        pytest.param(["--id", ""], id="an empty id"),
        pytest.param(["--search", ""], id="an empty search"),
        pytest.param(["--search", " "], id="a search for a space"),
        pytest.param(["--limit", "0"], id="no rows"),
        pytest.param(["--limit", "501"], id="more rows than a page has"),
    ],
)
def test_options_that_would_not_count_are_a_mistake(work: ScriptedGateway, options: list[str]) -> None:
    """Exit code 2, and nobody is asked."""
    assert query(work, "tasks", *options).exit_code == 2
    assert work.all_asked("Query") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param(["--id", ROW, "--search", "oat"], "--search does not go with --id.", id="an id"),
        pytest.param(["--id", ROW, "--search", "a", "--page", "x"], "--page and --search do not go with --id.", id="two"),
        pytest.param(["--search", "oat", "--page", "x"], "--page does not go with --search.", id="a search"),
    ],
)
def test_which_options_exclude_each_other_is_told(work: ScriptedGateway, options: list[str], said: str) -> None:
    """Both of them by name."""
    assert said in " ".join(query(work, "tasks", *options).stderr.replace("│", " ").split())


def test_an_email_needs_grants_and_an_id_does_not(work: ScriptedGateway) -> None:
    """Whose an email is, grants knows: with it away, the remedy says what works without it."""
    work.answer("FindUser", MosaicError(Reason.DEPENDENCY_UNAVAILABLE, "postgres cannot be reached."))
    arguments = ["federation", "query", "tasks", "--user", "maya@example.com"]
    refused = CliRunner().invoke(app, arguments, env=environment(work))
    assert refused.exit_code == 1
    assert "UNREACHABLE" in refused.stderr
    assert "Name the user by id, which needs no grants service: --user UUID." in refused.stderr


class OnTerminal:
    """The command on a real terminal of 100 columns."""

    def __init__(self, work: ScriptedGateway, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        given = {name: value for name, value in environment(work).items() if value is not None}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mosaic_cli", "federation", "query", *arguments, "--user", USER],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "COLUMNS": "100", "TERM": "xterm", **given},
        )
        os.close(slave)
        self._seen = b""

    def until(self, text: str) -> str:
        """Everything that was shown up to where the text stands."""
        while text not in self._plain():
            self._read()
        return self._plain()

    def end(self) -> tuple[int, str]:
        """The exit code, and everything that was shown."""
        try:
            while True:
                self._read()
        except OSError:  # what Linux answers when nobody has the other end open any more
            pass
        os.close(self._master)
        return self._process.wait(SECONDS), self._plain()

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def _read(self) -> None:
        self._seen += os.read(self._master, 65_536)

    def _plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self._seen.decode())


def test_a_terminal_shows_each_sources_rows_as_they_come(work: ScriptedGateway) -> None:
    """What is here is read while a slow gateway still thinks; a failing one is named, and the end says what is missing."""
    may_answer = threading.Event()

    def answer(request: QueryRequest) -> Message:
        if request.source == "local":
            return QueryResponse(rows=[task("Buy oat milk")], sources=[ok()], next_page_token="onward")
        if request.source == "federated:gone":
            return QueryResponse(partial=True, sources=[SourceResult(source="federated:gone", status=SOURCE_STATUS_TIMEOUT)])
        assert may_answer.wait(SECONDS)
        return QueryResponse(rows=[task("Oil the lathe", "federated:lab")], sources=[ok("federated:lab")])

    work.answer("ListSources", ListSourcesResponse(sources=["local", "federated:gone", "federated:lab"]))
    work.answer("Query", answer)
    terminal = OnTerminal(work, "tasks", "--source", "all", "--limit", "3")
    shown = terminal.until("Buy oat milk")
    assert "Oil the lathe" not in shown
    may_answer.set()
    code, shown = terminal.end()
    assert code == 0, shown
    assert "Oil the lathe" in shown
    assert "repeat with --source local --page onward" in " ".join(shown.split())
    assert "PARTIAL ANSWER: it lacks rows of federated:gone (timeout)." in shown
    assert {(each.source, each.verb, each.page_size) for each in work.all_asked("Query")} == {
        (source, VERB_LIST, 3) for source in ("local", "federated:gone", "federated:lab")
    }


def test_a_terminal_is_told_when_the_gateway_refuses(work: ScriptedGateway) -> None:
    """This gateway's own refusal is a failure, on a terminal too."""
    work.answer("ListSources", ListSourcesResponse(sources=["local"]))
    work.answer("Query", MosaicError(Reason.SUBJECT_INACTIVE, "Your user is not active here."))
    code, shown = OnTerminal(work, "tasks", "--source", "all").end()
    assert code == 1
    assert "SUBJECT_INACTIVE" in shown


def gateway_without_grants(request: QueryRequest) -> Message:
    """What the edge answers while it does not learn of connections: its own rows, and that the others are missing."""
    if request.source.startswith("federated:"):
        raise MosaicError(Reason.DEPENDENCY_UNAVAILABLE, "grants cannot be reached.")
    away = SourceResult(source="federated:*", status=SOURCE_STATUS_UNAVAILABLE, reason="DEPENDENCY_UNAVAILABLE")
    missing = [away] if request.source == "all" else []
    rows = [task("Buy oat milk")]
    return QueryResponse(rows=rows, partial=bool(missing), sources=[ok(), *missing], next_page_token="onward")


def test_a_terminal_shows_what_is_here_while_sources_cannot_be_named(work: ScriptedGateway) -> None:
    """With our own grants away a terminal says what a pipe does: one query for all, its rows, and what is missing."""
    work.answer("ListSources", MosaicError(Reason.DEPENDENCY_UNAVAILABLE, "grants cannot be reached."))
    work.answer("Query", gateway_without_grants)
    code, shown = OnTerminal(work, "tasks", "--source", "all").end()
    assert code == 0, shown
    assert "Buy oat milk" in shown
    assert "PARTIAL ANSWER: it lacks rows of federated:* (unavailable)." in shown
    assert "repeat with --source all --page onward" in " ".join(shown.split())
    assert work.asked("Query").source == "all"


def test_what_keeps_one_connection_from_an_answer_is_told_beside_the_others_rows(work: ScriptedGateway) -> None:
    """Grants goes away between the names and the queries: the connection's line says so, and nothing fails."""
    work.answer("ListSources", ListSourcesResponse(sources=["local", "federated:lab"]))
    work.answer("Query", gateway_without_grants)
    code, shown = OnTerminal(work, "tasks", "--source", "all").end()
    assert code == 0, shown
    assert "Buy oat milk" in shown
    assert "DEPENDENCY_UNAVAILABLE" in shown
    assert "PARTIAL ANSWER: it lacks rows of federated:lab (unavailable)." in shown


def test_an_interrupted_terminal_waits_for_nobody(work: ScriptedGateway) -> None:
    """^C while a slow gateway still thinks: it ends now, not when that one is given up."""
    may_answer = threading.Event()

    def answer(request: QueryRequest) -> Message:
        if request.source == "federated:lab":
            may_answer.wait(SECONDS)
        return QueryResponse(rows=[task("Buy oat milk")], sources=[ok()])

    work.answer("ListSources", ListSourcesResponse(sources=["local", "federated:lab"]))
    work.answer("Query", answer)
    with interruptible():
        terminal = OnTerminal(work, "tasks", "--source", "all")
    terminal.until("Buy oat milk")
    begun = time.monotonic()
    terminal.interrupt()
    code, shown = terminal.end()
    took = time.monotonic() - begun
    may_answer.set()
    assert took < 5
    assert code != 0
    assert "Traceback" not in shown


def test_capabilities_that_are_missing_are_no_rows(work: ScriptedGateway) -> None:
    """The warning says what the answer lacks."""
    silent = SourceResult(source="federated:lab", status=SOURCE_STATUS_TIMEOUT)
    work.answer("Query", QueryResponse(partial=True, sources=[ok(rows=0), silent]))
    result = CliRunner().invoke(app, ["federation", "capabilities", "--user", USER], env=environment(work))
    assert "PARTIAL ANSWER: it lacks the capabilities of federated:lab (timeout)." in result.stderr
    assert "rows" not in result.output.lower().replace("rows per query", "")
