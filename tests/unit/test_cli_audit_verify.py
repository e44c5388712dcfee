"""`mosaic federation audit verify`: what does not hold, each place of it, and what a record that holds leaves open."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from mosaic_cli.app import app
from mosaic_common.keys import public_pem
from typer.testing import CliRunner

from tests.support.written_audit import BEGUN, KEY, Line, Written, at, export, grant_lines

OUTRUN = "newer than this export: it is old, or was made to look so"
NO_WITNESS = "No head was compared with --witness"
NO_ROW = "There is no row in"


def verify(folder: Path, lines: list[Line], **options: list[Line]) -> dict[str, Any]:
    files = {"audit.ndjson": lines, **options}
    for name, content in files.items():
        (folder / name).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in content))
    (folder / "audit.pub").write_bytes(public_pem(KEY.public_key()))
    named = [part for name in options for part in (f"--{name.replace('_', '-')}", str(folder / name))]
    arguments = ["verify", str(folder / "audit.ndjson"), "--key", str(folder / "audit.pub"), *named]
    found = CliRunner().invoke(app, ["-o", "json", "federation", "audit", *arguments])
    document: dict[str, Any] = json.loads(found.stdout)
    assert found.exit_code == ("error" in document)
    return document


def logged(written: Written) -> list[Line]:
    """What the log of grants has of a chain."""
    return [{**line, "event": "audit_head"} for line in written.lines if line["kind"] == "head"]


def kept_by_peer(written: Written) -> list[Line]:
    """The other gateway's export, as far as it matters."""
    heads = [{name: value for name, value in line.items() if name != "kind"} for line in grant_lines(*written.told)]
    received = {"kind": "received_head", "peer_id": "0" * 32, "connection": "work", "received_at_us": 5}
    return export(*({**received, "head": head} for head in heads))


@pytest.fixture
def written() -> Written:
    written = Written()
    for day in (2, 3):
        written.row(at(11, day))
        written.round(at(11, day, second=1))
    return written


def test_every_broken_chain_is_listed(tmp_path: Path) -> None:
    """The first with its place in fields, the others each in a line."""
    chains = [Written(number) for number in (1, 2, 3)]
    for chain in chains:
        for _ in range(2):
            chain.row(at(11, 2), grant_id=None)
    chains[0].lines[1]["actor"] = "x"
    chains[2].lines[2]["actor"] = "x"
    error = verify(tmp_path, export(*(line for chain in chains for line in chain.lines)))["error"]
    assert "Nor does it at 1 other place." in error["message"]
    [also] = [each["description"] for each in error["violations"] if each["field"] == "also"]
    assert also == "chain 3, seq 2, line 10, time 2026-11-02T12:00:00Z, the row was altered"
    assert {"field": "line", "description": "3"} in error["violations"]


def test_nothing_is_left_open_where_everything_was_compared(tmp_path: Path, written: Written) -> None:
    """With the witness and the peer's heads, all in agreement, nothing is reserved."""
    lines = export(*grant_lines(*written.told), *written.lines)
    document = verify(tmp_path, lines, witness=logged(written), peer_heads=kept_by_peer(written))
    assert document["reservations"] == []


def test_without_a_witness_it_says_what_one_would_add(tmp_path: Path, written: Written) -> None:
    """One sentence, beside what was found to hold."""
    [reservation] = verify(tmp_path, export(*grant_lines(*written.told), *written.lines))["reservations"]
    assert NO_WITNESS in reservation


@pytest.mark.parametrize("kept_as", ["witness", "peer_heads"])
def test_an_old_record_with_a_new_date_is_reserved(tmp_path: Path, written: Written, kept_as: str) -> None:
    """Cut short together with its heads and dated before them, it contradicts nothing; that others know more is said."""
    cut = export(*grant_lines(written.told[0]), *written.lines[:3], begun_us=at(11, 2, minute=1))
    kept = {"witness": logged, "peer_heads": kept_by_peer}[kept_as](written)
    assert any(OUTRUN in each for each in verify(tmp_path, cut, **{kept_as: kept})["reservations"])
    whole = export(*grant_lines(*written.told), *written.lines)
    assert not any(OUTRUN in each for each in verify(tmp_path, whole, **{kept_as: kept})["reservations"])


def test_a_round_that_was_under_way_is_no_reservation(tmp_path: Path) -> None:
    """The heads of the next seconds are not in an export that was begun just then."""
    written = Written()
    for second in (0, 8):
        written.row(at(11, 2, second=second))
        written.round(at(11, 2, second=second + 1))
    begun = export(*grant_lines(written.told[0]), *written.lines[:3], begun_us=at(11, 2, second=2))
    document = verify(tmp_path, begun, witness=logged(written))
    assert (document["witness"]["too_new"], document["reservations"]) == (1, [])


@pytest.mark.parametrize("chains", [0, 1])
def test_an_export_of_nothing_is_reserved(tmp_path: Path, chains: int) -> None:
    """It holds, and proves nothing."""
    lines = export(*Written().lines[:chains], begun_us=BEGUN)
    assert any(NO_ROW in each for each in verify(tmp_path, lines)["reservations"])
