"""Verifying an export: what retention excuses, what a line may hold, and how much is said of a record that does not hold."""

from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import pytest
from mosaic_common.audit_export import ExportBroken

from tests.support.written_audit import NOVEMBER, Line, Written, at, export, grant_lines, verified


@pytest.fixture
def written() -> Written:
    """Rows on both sides of a month's end, one round over both of them, and one a day later."""
    written = Written()
    written.row(at(10, 30))
    written.round(at(10, 30, second=1))
    written.row(NOVEMBER - 1)
    written.row(NOVEMBER + 20_000_000)
    written.round(NOVEMBER + 30_000_000)
    written.row(at(11, 2))
    written.round(at(11, 2, second=1))
    return written


TEXTS: Final = ("event", "actor", "source_address", "verb", "resource", "outcome", "denied_layer", "denied_reason")
INTEGERS: Final = ("time_us", "status_code", "result_count", "bytes_out", "latency_us", "repeated", "seq")


class TestLines:
    """A line holds what its kind has, each value of its own type."""

    @pytest.mark.parametrize("column", TEXTS)
    def test_no_number_passes_for_a_text(self, column: str) -> None:
        """Eight characters and the number that is encoded alike have one hash."""
        written = Written()
        written.row(at(11, 2), **{column: "operator"})
        self.require_altered(written, column, int.from_bytes(b"operator", "big"))

    @pytest.mark.parametrize("column", INTEGERS)
    def test_no_text_passes_for_a_number(self, column: str) -> None:
        """Nor the other way round."""
        written = Written()
        number = int.from_bytes(b"operator", "big")
        if column == "seq":
            written.chain = replace(written.chain, seq=number - 1)
        written.row(at(11, 2), **({} if column in {"time_us", "seq"} else {column: number}))
        if column == "time_us":
            written = Written()
            written.row(number)
        self.require_altered(written, column, "operator")

    def require_altered(self, written: Written, column: str, value: Any) -> None:
        [opening, row] = written.lines
        alike = {**row, column: value}
        with pytest.raises(ExportBroken, match="the line is no row") as broken:
            verified(export(opening, alike))
        assert broken.value.line == 3

    @pytest.mark.parametrize("kind", ["export", "grant_head", "opening", "row", "month_end", "head", "received_head", "end"])
    def test_every_kind_of_line_has_its_own_values_and_no_others(self, written: Written, kind: str) -> None:
        """One that is missing, one that was added: told with the line."""
        received: Line = {
            "kind": "received_head",
            "peer_id": str(UUID(int=5)),
            "connection": "work",
            "received_at_us": 5,
            "head": {name: value for name, value in grant_lines(written.told[0])[0].items() if name != "kind"},
        }
        lines = export(*grant_lines(*written.told[1:]), *written.dropped(written.end(2)), received)
        verified(lines)
        place = next(at for at, line in enumerate(lines) if line["kind"] == kind)
        without = [{name: value for name, value in lines[place].items() if name != left} for left in lines[place].keys() - {"kind"}]
        spoilt = [*without, {**lines[place], "note": ""}]
        if kind == "received_head":
            spoilt.append({**received, "head": {**received["head"], "note": ""}})
        for line in spoilt:
            with pytest.raises(ExportBroken) as broken:
                verified([*lines[:place], line, *lines[place + 1 :]])
            assert broken.value.line == place + 1

    @pytest.mark.parametrize("told", [True, 1.0, "1", None])
    def test_a_format_is_a_number(self, written: Written, told: Any) -> None:
        """Python calls the true, and 1.0, equal to 1."""
        [beginning, *others] = export(*grant_lines(*written.told), *written.lines)
        with pytest.raises(ExportBroken, match="export of format 1"):
            verified([{**beginning, "format": told}, *others])

    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            ("export", "gateway", 5),
            ("export", "begun_us", "5"),
            ("end", "lines", True),
            ("opening", "writer", None),
            ("opening", "opened_at_us", 1.5),
            ("head", "seq", "1"),
            ("row", "actor", ["home"]),
            ("row", "grant_id", 1),
            ("row", "hash", 1),
        ],
    )
    def test_a_value_has_its_own_type(self, written: Written, kind: str, name: str, value: Any) -> None:
        """Whatever stands there, nothing crashes."""
        lines = export(*grant_lines(*written.told), *written.lines)
        place = next(at for at, line in enumerate(lines) if line["kind"] == kind)
        lines[place] = {**lines[place], name: value}
        with pytest.raises(ExportBroken, match="the line is no") as broken:
            verified(lines)
        assert broken.value.line == place + 1
