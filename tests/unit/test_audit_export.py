"""Verifying an export: what retention excuses, what a line may hold, and how much is said of a record that does not hold."""

from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from mosaic_common.audit import Chain, Event
from mosaic_common.audit_export import MAX_RECEIVED_HEADS, MOST_BREAKS, ExportBroken
from mosaic_common.audit_heads import GrantHead, MonthEnd

from tests.support.written_audit import NOVEMBER, ONE, SIGNER, Line, Written, at, export, grant_lines, plain, verified


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


class TestRetention:
    """A month that was dropped is excused, and nothing else is."""

    def test_what_was_dropped_is_excused(self, written: Written) -> None:
        """Heads of the dropped rows are older than what is kept; the round over both months is where the grant begins."""
        lines = export(*grant_lines(*written.told[1:]), *written.dropped(written.end(2)))
        account = verified(lines, peers=written.told, witness=written.witness)
        assert (account.rows, account.shortened_grants) == (2, 1)
        assert (account.peers.held, account.peers.too_old) == (2, 1)
        assert (account.witness.held, account.witness.too_old) == (2, 1)

    def test_chains_may_have_ended_in_different_months(self, written: Written) -> None:
        """What the later of the ends excuses is excused everywhere: months go with all of their rows."""
        other = Written(2)
        other.row(at(9, 30), grant_id=None)
        other.round(at(9, 30, second=1))
        other.row(at(11, 3), grant_id=None)
        other.round(at(11, 3, second=1))
        ends = written.end(2), other.end(1, at(10, 1, hour=0), at(10, 1))
        lines = export(*grant_lines(*written.told[1:]), *written.dropped(ends[0]), *other.dropped(ends[1]))
        account = verified(lines, peers=written.told, witness=[*written.witness, *other.witness])
        assert [(each.chain_number, each.ends_us) for each in account.shortened] == [(1, NOVEMBER), (2, at(10, 1, hour=0))]
        assert (account.peers.held, account.peers.too_old) == (2, 1)

    @pytest.mark.parametrize(
        ("ends_us", "signed_us"),
        [
            pytest.param(NOVEMBER + 1, at(11, 2), id="the second moment of a month"),
            pytest.param(at(11, 2, hour=0), at(11, 3), id="a day's first moment"),
            pytest.param(at(12, 1, hour=0), at(12, 2), id="the end of a month that is under way"),
            pytest.param(NOVEMBER, NOVEMBER - 1, id="signed before it ended"),
        ],
    )
    def test_no_other_moment_is_the_end_of_a_month(self, written: Written, ends_us: int, signed_us: int) -> None:
        """Whoever has the key can sign any; retention drops months that were over."""
        end = written.end(2, ends_us, signed_us)
        with pytest.raises(ExportBroken, match="no end of a month that was over") as broken:
            verified(export(*grant_lines(*written.told[1:]), *written.dropped(end)))
        assert (broken.value.chain_number, broken.value.seq, broken.value.line) == (1, 2, 5)

    def test_no_row_of_the_month_stands_after_its_end(self, written: Written) -> None:
        """What is left is younger than what was dropped."""
        with pytest.raises(ExportBroken, match="older than the month's end") as broken:
            verified(export(*grant_lines(*written.told), *written.dropped(written.end(1))))
        assert (broken.value.chain_number, broken.value.seq) == (1, 2)

    def test_a_history_written_anew_with_the_key_is_not_excused(self, written: Written) -> None:
        """Dressed up as dropped with the last month, and with a head that stands in for it: peer and witness know better."""
        end = MonthEnd(written.chain.chain_id, 1, 5, bytes(32), NOVEMBER, at(11, 1, hour=1))
        stands_in = SIGNER.sign_grant_head(GrantHead(ONE, 7, b"\x01" * 32, NOVEMBER + 60_000_000))
        anew = Written()
        anew.chain, anew.grant = Chain(end.chain_id, end.seq, end.hash), stands_in.head
        anew.row(at(11, 4))
        anew.round(at(11, 4, second=1))
        [opening, row, head] = anew.lines
        cut = {"kind": "month_end", **plain(asdict(end)), "signature": SIGNER.sign_month_end(end).signature.hex()}
        lines = export(*grant_lines(stands_in, *anew.told), opening, cut, row, head)
        assert verified(lines).shortened_grants == 1  # by itself it holds: that is what the others are for
        with pytest.raises(ExportBroken, match="the other gateway kept") as broken:
            verified(lines, peers=written.told[-1:])
        assert broken.value.grant_id == ONE
        with pytest.raises(ExportBroken, match="the log of grants kept"):
            verified(lines, witness=written.witness)

    @pytest.mark.parametrize(("minutes", "holds"), [(9, True), (10, False)])
    def test_clocks_may_be_minutes_behind(self, minutes: int, holds: bool) -> None:
        """The last row of a month comes late, and so does the round that covers it; later than that no retention drops it."""
        written = Written()
        written.row(NOVEMBER - 1)
        written.round(NOVEMBER + timedelta(minutes=minutes) // timedelta(microseconds=1))
        written.row(at(11, 2))
        written.round(at(11, 2, second=1))
        lines = export(*grant_lines(*written.told), *written.dropped(written.end(1)))
        if holds:
            assert verified(lines, peers=written.told).peers.held == 2
        else:
            with pytest.raises(ExportBroken, match="this gateway countersigned"):
                verified(lines)


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


class TestBreaks:
    """Each chain is told of by itself."""

    @pytest.fixture
    def chains(self) -> list[Written]:
        chains = []
        for number in (1, 2, 3, 4):
            written = Written(number)
            for day in (2, 3, 4):
                written.row(at(11, day, second=number), grant_id=None)
                written.round(at(11, day, minute=1, second=number))
            chains.append(written)
        return chains

    def places(self, lines: list[Line], **kept: Any) -> list[tuple[int | None, int | None]]:
        with pytest.raises(ExportBroken) as found:
            verified(lines, **kept)
        return [(each.chain_number, each.seq) for each in (found.value, *found.value.further)]

    def test_the_first_break_of_every_chain_is_told(self, chains: list[Written]) -> None:
        """A chain that a broken writer spoilt does not cover up what somebody did to another one."""
        one, two, three, four = (written.lines for written in chains)
        one[3] = {**one[3], "result_count": 5}
        one[5] = {**one[5], "result_count": 5}
        two[1] = {**two[1], "note": ""}
        four[6] = {**four[6], "signature": "00" * 64}
        assert self.places(export(*one, *two, *three, *four)) == [(1, 2), (None, None), (4, 3)]

    def test_a_missing_chain_does_not_stand_for_all_that_follow(self, chains: list[Written]) -> None:
        """What is missing is named, and what follows is read."""
        one, _, _, four = (written.lines for written in chains)
        del four[1]
        witness = [each for written in chains for each in written.witness]
        assert self.places(export(*one, *four), witness=witness) == [(2, None), (4, 1)]

    def test_a_number_that_no_chain_has_costs_nothing(self) -> None:
        """Whoever has the key can sign it."""
        assert self.places(export(*Written(2**62).lines)) == [(1, None)]

    @pytest.mark.parametrize("name", ["chain_number", "opening_hash", "signature", "opened_at_us"])
    def test_an_altered_opening_costs_its_own_chain_only(self, chains: list[Written], name: str) -> None:
        """Whatever number it claims to have."""
        one, two, three, four = (written.lines for written in chains)
        two[0] = {**two[0], name: two[0][name] + 7 if isinstance(two[0][name], int) else "00" * (len(two[0][name]) // 2)}
        four[1] = {**four[1], "actor": "x"}
        assert [seq for _, seq in self.places(export(*one, *two, *three, *four))] == [0, 1]

    def test_the_witness_goes_on_with_the_other_chains(self, chains: list[Written]) -> None:
        """Rows that were cut off another chain, with their heads, are missed although the first one is broken."""
        one, two, three, four = (written.lines for written in chains)
        one[1] = {**one[1], "actor": "x"}
        witness = [each for written in chains for each in written.witness]
        assert self.places(export(*one, *two, *three[:3], *four), witness=witness) == [(1, 1), (3, 2)]

    def test_so_many_are_told(self, chains: list[Written]) -> None:
        """Of another file altogether not every line is repeated."""
        forged = [{**line, "signature": "00" * 64} for line in grant_lines(*one_grant().told)] * 5 * MOST_BREAKS
        assert len(self.places(export(*forged))) == MOST_BREAKS


def one_grant() -> Written:
    written = Written()
    written.row(at(11, 2))
    written.round(at(11, 2, second=1))
    return written


@pytest.mark.parametrize(
    ("writer", "own"),
    [
        pytest.param("edge-inbound", {Event.READ}, id="edge-inbound"),
        pytest.param("edge-outbound", {Event.QUERY}, id="edge-outbound"),
        pytest.param("grants", set(Event) - {Event.READ, Event.QUERY}, id="grants"),
    ],
)
def test_a_chain_holds_its_writers_deeds_only(writer: str, own: set[Event]) -> None:
    """Who wrote a chain is not countersigned: it has to be who writes such rows."""
    for event in Event:
        written = Written(writer=writer)
        written.row(at(11, 2), event=event, grant_id=None)
        if event in own:
            assert verified(export(*written.lines)).rows == 1
        else:
            with pytest.raises(ExportBroken, match=f"{writer}, whose chain this is said to be") as broken:
                verified(export(*written.lines))
            assert (broken.value.chain_number, broken.value.seq) == (1, 1)


class TestWhatOthersKept:
    def test_two_heads_of_one_row_in_the_log_of_grants_are_named(self, written: Written) -> None:
        """Whoever alters the last rows and has grants sign them anew leaves both heads in its log, in whatever order."""
        head, _ = written.witness[-1]
        signed = SIGNER.sign(replace(head, hash=bytes([head.hash[0] ^ 1]) + head.hash[1:]))
        again = (signed.head, signed.signature)
        for witness in ([*written.witness, again], [again, *written.witness]):
            with pytest.raises(ExportBroken, match="signed anew") as broken:
                verified(export(*grant_lines(*written.told), *written.lines), witness=witness)
            assert (broken.value.chain_number, broken.value.seq) == (head.chain_number, head.seq)

    def test_heads_received_without_end_are_no_export(self, written: Written) -> None:
        """They are signed by nobody known here, and each is compared with those before it."""
        line = {
            "kind": "received_head",
            "peer_id": str(ONE),
            "connection": "work",
            "received_at_us": 0,
            "head": {name: value for name, value in grant_lines(*written.told)[0].items() if name != "kind"},
        }
        with pytest.raises(ExportBroken, match="no received head"):
            verified(export(*grant_lines(*written.told), *written.lines, *([line] * (MAX_RECEIVED_HEADS + 1))))
