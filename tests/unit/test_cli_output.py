"""What reaches a terminal."""

import json
from typing import Any

import pytest
from mosaic.federation.v1.federation_pb2 import SearchHit
from mosaic.federation.v1.query_pb2 import SOURCE_STATUS_DENIED, SOURCE_STATUS_OK, QueryResponse, SourceResult
from mosaic.federation.v1.resources_pb2 import Memory, Resource, Task
from mosaic_cli.documents import query_document
from mosaic_cli.output import json_text, readable
from mosaic_cli.tables import rows
from mosaic_cli.times import utc_now
from mosaic_cli.views.query import answer_view, capabilities_view
from rich.console import Console, RenderableType

HOSTILE = [
    pytest.param("\x1b[2J", id="escape sequence: clears the screen"),
    pytest.param("\x9b2J", id="the same as one C1 character"),
    pytest.param("a\rb", id="carriage return: overwrites the line"),
    pytest.param("a\x08b", id="backspace"),
    pytest.param("\x7f", id="delete"),
    pytest.param("\u202egpj.exe", id="right-to-left override: reads as another name"),
    pytest.param("\u2066x\u2069", id="isolates"),
    pytest.param("\u200f", id="right-to-left mark"),
    pytest.param("\u061c", id="Arabic letter mark"),
    pytest.param("\u2028", id="line separator"),
    pytest.param("\u200b", id="zero width space: two names that look the same"),
    pytest.param("\U000e0041", id="tag character: invisible text"),
    pytest.param("\ufeff", id="byte order mark"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_characters_that_a_terminal_obeys_never_reach_it(text: str) -> None:
    """Neither as a table's cell nor inside a JSON string; a JSON parser still gets the very text back."""
    shown, document = readable(text), json_text({"title": text})
    for printed in (shown, document.replace("\n", "")):
        assert printed.isprintable()
    assert json.loads(document) == {"title": text}


@pytest.mark.parametrize("text", ["Käse & Brötchen", "日本語", "👩\u200d💻", "می\u200cخواهم", "שלום"])
def test_ordinary_writing_stays_as_it_is(text: str) -> None:
    """No language and no emoji is punished for what others do with control characters."""
    assert readable(text) == text
    assert text in json_text({"title": text})


def test_a_hostile_row_is_one_harmless_line() -> None:
    """A title that tries to clear the screen, turn the line round and use markup is shown as the text that it is."""
    title = "Pay\x1b[2J \u202ereversed\n[bold]now[/bold]"
    answer = QueryResponse(rows=[Resource(id="i", source="federated:\x1b]0;evil\x07", task=Task(title=title))])
    printed = _printed(answer_view(answer, utc_now()))
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert r"Pay\x1b[2J \u202ereversed [bold]now[/bold]" in printed
    assert r"federated:\x1b]0;evil\x07" in printed


def test_a_snippet_without_end_is_cut() -> None:
    """What a peer calls the place that matched takes a few lines, however long it is and however much of it is marked."""
    for snippet in ("**a" * 10_000, "x" * 1_000_000, "\u202e" * 10_000):
        hit = SearchHit(resource=Resource(id="i", task=Task(title="t")), snippet=snippet)
        printed = _printed(answer_view(QueryResponse(hits=[hit]), utc_now()))
        assert len(printed) < 6_000
        assert "…" in printed
    whole = SearchHit(resource=Resource(id="i", task=Task(title="t")), snippet="a **word** " * 30)
    assert "…" not in _printed(answer_view(QueryResponse(hits=[whole]), utc_now()))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        pytest.param(SOURCE_STATUS_OK, "No rows.", id="answered"),
        pytest.param(SOURCE_STATUS_DENIED, "No source answered.", id="not"),
    ],
)
def test_nobody_answered_is_not_no_rows(status: Any, said: str) -> None:
    """Only a source that answered can say that there is nothing."""
    answer = QueryResponse(sources=[SourceResult(source="federated:lab", status=status)])
    assert _printed(answer_view(answer, utc_now())).startswith(said)


def test_capabilities_are_not_counted_in_rows() -> None:
    """No source of them has rows, and none that is away lacks some."""
    answer = QueryResponse(sources=[SourceResult(source="federated:lab", status=SOURCE_STATUS_OK, latency_us=7000)])
    printed = _printed(capabilities_view(answer, utc_now()))
    assert "federated:lab  7 ms" in printed
    assert "0 rows" not in printed


def test_rows_of_several_kinds_share_one_table() -> None:
    """`all` over a search mixes kinds; each row says what it is."""
    answer = QueryResponse(rows=[Resource(task=Task(title="Oat milk")), Resource(memory=Memory(kind="fact", content="Likes oats"))])
    printed = _printed(answer_view(answer, utc_now()))
    assert [word in printed for word in ("task", "Oat milk", "memory", "Likes oats")] == [True] * 4


def test_json_rows_say_where_they_come_from_and_whether_some_are_missing() -> None:
    """The last mile's spelling: `_source` on each row, `_partial` on the answer, absent values as null."""
    task = Task(title="Oat milk", status="open")
    answer = QueryResponse(rows=[Resource(id="i", source="federated:work", task=task)], partial=True)
    document = query_document(answer)
    assert document["_partial"] is True
    assert (
        document["rows"][0] | {"_source": "federated:work", "title": "Oat milk", "team_id": None, "due_at": None}
        == document["rows"][0]
    )


def test_an_identifier_is_never_broken() -> None:
    """In a table that does not fit, every row becomes an entry: a UUID cut in two can be copied by nobody."""
    identifier = "7a0bb1e6-7a05-45e6-b30a-f1547d4186e7"
    for width in (50, 60, 80, 120):
        assert identifier in _printed(rows(("NAME", "ABOUT", "ID"), [("home", "word " * 20, identifier)], empty=""), width)


def _printed(content: RenderableType, width: int = 120) -> str:
    console = Console(width=width, markup=False, emoji=False, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(content)
    return captured.get()
