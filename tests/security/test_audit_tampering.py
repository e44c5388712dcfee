"""Whoever holds the database, and even whoever holds the audit key too, cannot change what the record said unseen.

The record is a real one: two edges, countersigned in rounds, exported as the CLI writes it. What is done to it here, line by line,
is what somebody with the owner's password could do to the tables.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
import pytest
from mosaic_common.audit import AuditRow, Head, HeadSigner, Outcome, SignedHead, row_hash
from mosaic_common.audit_export import ExportBroken, witnessed_heads
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, Reason
from mosaic_common.keys import private_pem
from mosaic_grants.adapters.schema.functions import AUDIT_COLUMNS

from tests.support.audit_bed import AUDIT_KEY, AuditBed, Line, add_month, told_of, verified
from tests.support.postgres import PostgresServer

ONE, OTHER = UUID(int=1), UUID(int=2)
ROWS: Final = 6
"""Sealed rows of each of the two chains; the last two are countersigned by their last round."""


class Recorded(list[list[Line]]):
    """The export, an export from before its last round, and what the log of grants kept."""

    witness: list[bytes]


@pytest.fixture(scope="module")
async def recorded(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    moment = datetime.now(UTC).replace(day=1, hour=12) - timedelta(days=20)
    found = Recorded()
    with postgres_server.fresh() as database:
        with database.connect() as owner:
            add_month(owner, moment)
        async with AuditBed.open(database, tmp_path_factory.mktemp("audit"), moment) as bed:
            first, second = await bed.edge(), await bed.edge()
            witness: list[SignedHead] = []
            for _ in range(3):
                found.append(await bed.export())
                for edge in (first, second):
                    edge.write(full(bed), bed.read(OTHER))
                witness += await bed.countersign()
            second.write(bed.read(ONE))
            bed.clock.advance(timedelta(minutes=1))
            found.append(await bed.export())
    found.witness = [b"grants  | " + orjson.dumps(logged(each)) + b"\n" for each in witness]
    return found


def full(bed: AuditBed) -> Any:
    """A row with something in every column."""
    return bed.read(
        ONE,
        peer_id=uuid4(),
        subject_user_id=uuid4(),
        token_id=bytes(range(32)),
        verb=Verb.LIST,
        resource="tasks",
        outcome=Outcome.DENIED,
        denied_layer=Layer.SCOPE,
        denied_reason=Reason.RESOURCE_NOT_GRANTED,
        query_hash=bytes(32),
    )


def logged(signed: SignedHead) -> Line:
    """As housekeeping writes it to the log of grants."""
    head = signed.head
    return {
        "event": "audit_head",
        "chain_id": head.chain_id.hex(),
        "chain_number": head.chain_number,
        "seq": head.seq,
        "hash": head.hash.hex(),
        "time_us": head.time_us,
        "signature": signed.signature.hex(),
    }


@pytest.fixture
def lines(recorded: Recorded) -> list[Line]:
    return [dict(line) for line in recorded[-1]]


def rows_of(lines: list[Line], chain_number: int) -> list[int]:
    """Where the sealed rows of a chain stand in the file."""
    numbers = {line["chain_id"]: line["chain_number"] for line in lines if line["kind"] == "opening"}
    return [
        at
        for at, line in enumerate(lines)
        if line["kind"] == "row" and numbers[line["chain_id"]] == chain_number and line["seq"] <= ROWS
    ]


PLACES: Final = [(chain, seq) for chain in (1, 2) for seq in range(1, ROWS + 1)]


def found_at(lines: list[Line], **kept: Any) -> tuple[int | None, int | None]:
    with pytest.raises(ExportBroken) as broken:
        verified(lines, **kept)
    return broken.value.chain_number, broken.value.seq


def test_the_record_holds(recorded: Recorded, lines: list[Line]) -> None:
    """Untouched it verifies, with the peer's heads and the witness; only what came after the last round is unsealed."""
    account = verified(lines, peers=told_of(lines), witness=witnessed_heads(recorded.witness))
    assert (account.rows, account.unsealed_rows) == (2 * ROWS + 1, 1)
    assert (account.peers.held, account.witness.held) == (2, 6)


EDITS: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("request_id", "peer_id", "grant_id", "subject_user_id"), lambda _: str(UUID(int=9))),
    **dict.fromkeys(("token_id", "query_hash", "prev_hash", "hash"), lambda _: "ab" * 32),
    **dict.fromkeys(("time_us", "status_code", "result_count", "bytes_out", "latency_us", "repeated", "seq"), lambda old: old + 1),
    **dict.fromkeys(("actor", "source_address", "verb", "resource", "denied_layer", "denied_reason"), lambda _: "x"),
    "event": lambda _: "query",
    "outcome": lambda _: "allowed",
    "chain_id": lambda _: "00" * 16,
}


@pytest.mark.parametrize("column", AUDIT_COLUMNS)
def test_an_edit_of_any_column_of_any_row_is_found_there(lines: list[Line], column: str) -> None:
    """Every column of every sealed row, to another value and, where it can be, to none."""
    for chain, seq in PLACES:
        at = rows_of(lines, chain)[seq - 1]
        original = lines[at]
        for edited in (EDITS[column](original[column] or 0), None):
            if edited == original[column]:
                continue
            lines[at] = {**original, column: edited}
            with pytest.raises(ExportBroken) as broken:
                verified(lines)
            assert broken.value.line == at + 1
            assert broken.value.seq in (seq, None)
        lines[at] = original


@pytest.mark.parametrize(("chain", "seq"), PLACES)
def test_a_deleted_row_is_missed_at_its_place(lines: list[Line], chain: int, seq: int) -> None:
    """Wherever it stood."""
    del lines[rows_of(lines, chain)[seq - 1]]
    assert found_at(lines) == (chain, seq)


@pytest.mark.parametrize(("chain", "seq"), PLACES)
def test_an_inserted_row_is_found_where_it_stands(lines: list[Line], chain: int, seq: int) -> None:
    """Made up, linked and hashed as it should be: what follows it does not."""
    at = rows_of(lines, chain)[seq - 1]
    row = lines[at]
    made_up = {**row, "request_id": str(uuid4())}
    made_up["hash"] = rehashed(made_up, bytes.fromhex(row["prev_hash"]))
    lines.insert(at, made_up)
    assert found_at(lines) == (chain, seq + 1)


@pytest.mark.parametrize("chain", [1, 2])
def test_swapped_rows_are_found_at_the_earlier_place(lines: list[Line], chain: int) -> None:
    """Any two of a chain."""
    places = rows_of(lines, chain)
    for first in range(ROWS):
        for second in range(first + 1, ROWS):
            swapped = list(lines)
            swapped[places[first]], swapped[places[second]] = lines[places[second]], lines[places[first]]
            assert found_at(swapped) == (chain, first + 1)


def test_rows_of_two_chains_do_not_change_places(lines: list[Line]) -> None:
    """A row belongs to its writer's chain."""
    one, other = rows_of(lines, 1)[2], rows_of(lines, 2)[2]
    lines[one], lines[other] = lines[other], lines[one]
    assert found_at(lines) == (1, 3)


@pytest.mark.parametrize(("chain", "seq"), PLACES)
def test_a_chain_that_was_recomputed_contradicts_the_next_head(lines: list[Line], chain: int, seq: int) -> None:
    """Whoever edits a row and computes every hash anew, but has no key, is found at the first head after it."""
    recompute(lines, chain, seq, result_count=0)
    assert found_at(lines) == (chain, seq + seq % 2)


@pytest.mark.parametrize("chain", [1, 2])
@pytest.mark.parametrize("left", range(ROWS))
def test_a_chain_cut_short_is_missed(lines: list[Line], chain: int, left: int) -> None:
    """Its last rows, while a head of them is there."""
    cut = [line for at, line in enumerate(lines) if at not in rows_of(lines, chain)[left:]]
    assert found_at(cut) == (chain, left + 1)


@pytest.mark.parametrize("left", range(ROWS))
def test_a_chain_cut_short_with_its_heads_contradicts_the_grants(lines: list[Line], left: int) -> None:
    """The heads of the grants count those rows."""
    chain_id = lines[rows_of(lines, 1)[0]]["chain_id"]
    cut = [line for line in lines if line["kind"] not in {"row", "head"} or line["chain_id"] != chain_id or line["seq"] <= left]
    with pytest.raises(ExportBroken) as broken:
        verified(cut)
    assert broken.value.grant_id in {ONE, OTHER}


def test_a_chain_that_is_gone_is_missed_by_its_number(lines: list[Line]) -> None:
    """All of it, opening, rows and heads."""
    chain_id = lines[rows_of(lines, 1)[0]]["chain_id"]
    assert found_at([line for line in lines if line.get("chain_id") != chain_id]) == (1, None)


def test_a_record_put_back_to_an_earlier_state_contradicts_witness_and_peer(recorded: Recorded, lines: list[Line]) -> None:
    """Yesterday's backup in the place of today's database holds by itself; what was told and logged since then does not fit."""
    stale = [{**line, "begun_us": lines[0]["begun_us"]} if line["kind"] == "export" else line for line in recorded[-2]]
    verified(stale)
    with pytest.raises(ExportBroken, match="rewritten, although its signatures hold"):
        verified(stale, peers=told_of(lines))
    assert found_at(stale, witness=witnessed_heads(recorded.witness)) == (1, 6)


async def test_rows_of_no_grant_cut_off_with_their_heads_are_missed_by_the_witness(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """No grant counts them, and the chain ends where it says: without the log of grants nothing is missing."""
    with postgres_server.fresh() as database:
        async with AuditBed.open(database, tmp_path, datetime.now(UTC) - timedelta(minutes=30)) as bed:
            edge, other = await bed.edge(), await bed.edge()
            other.write(bed.read(ONE))
            witness = await bed.countersign()
            edge.write(bed.read(None, outcome=Outcome.DENIED, status_code=7))
            witness += await bed.countersign()
            bed.clock.advance(timedelta(minutes=1))
            lines = await bed.export()
    cut = [line for line in lines if line["kind"] not in {"row", "head"} or line["chain_id"] != edge.chain.chain_id.hex()]
    verified(cut, peers=told_of(lines))
    assert found_at(cut, witness=[(each.head, each.signature) for each in witness]) == (1, 1)


def test_the_witness_contradicts_a_chain_that_was_written_anew_with_the_key(recorded: Recorded, lines: list[Line]) -> None:
    """Whoever holds the key signs what they like; the log of grants has what was signed before."""
    signer = HeadSigner(private_pem(AUDIT_KEY))
    recompute(lines, 1, 3, result_count=0)
    for line in lines:
        if line["kind"] == "head" and line["chain_number"] == 1:
            end = next(
                row for row in lines if row["kind"] == "row" and (row["chain_id"], row["seq"]) == (line["chain_id"], line["seq"])
            )
            line["hash"] = end["hash"]
            head = Head(bytes.fromhex(line["chain_id"]), 1, line["seq"], bytes.fromhex(end["hash"]), line["time_us"])
            line["signature"] = signer.sign(head).signature.hex()
    assert found_at(lines, witness=witnessed_heads(recorded.witness)) == (1, 4)


@pytest.mark.parametrize("kind", ["opening", "head", "grant_head"])
def test_what_is_countersigned_cannot_be_edited(lines: list[Line], kind: str) -> None:
    """No value of an opening or a head can be exchanged under its signature, nor the signature itself."""
    edits: dict[type, Callable[[Any], Any]] = {int: lambda old: old + 1, str: lambda old: ("1" if old[0] == "0" else "0") + old[1:]}
    for at, line in enumerate(lines):
        for name in line.keys() - {"kind", "writer"} if line["kind"] == kind else ():
            edited = list(lines)
            edited[at] = {**line, name: edits[type(line[name])](line[name])}
            with pytest.raises(ExportBroken):
                verified(edited)


def test_a_head_is_no_months_end(lines: list[Line]) -> None:
    """A chain may begin after a month's end only: an ordinary head does not excuse that the rows before it are gone."""
    places = rows_of(lines, 1)
    head = next(line for line in lines if line["kind"] == "head" and line["seq"] == 4 and line["chain_number"] == 1)
    claimed = {**head, "kind": "month_end", "ends_us": head["time_us"] + 1}
    shortened = [
        line
        for at, line in enumerate(lines)
        if at not in places[:4] and not (line["kind"] == "head" and line["chain_number"] == 1 and line["seq"] <= 4)
    ]
    opening = next(at for at, line in enumerate(shortened) if line["kind"] == "opening" and line["chain_number"] == 1)
    shortened.insert(opening + 1, claimed)
    assert found_at(shortened) == (1, 4)


def test_heads_of_another_key_prove_nothing(lines: list[Line]) -> None:
    """A peer that makes heads up accuses nobody: they are counted as not ours."""
    forged = [replace(each, signature=bytes(64), head=replace(each.head, hash=bytes(32))) for each in told_of(lines)]
    assert verified(lines, peers=forged).peers.foreign == 2


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda lines: lines[1:], id="no beginning"),
        pytest.param(lambda lines: lines[:-1], id="cut off"),
        pytest.param(lambda lines: [*lines, lines[1]], id="more after the end"),
        pytest.param(lambda lines: [*lines[:3], {"kind": "poem"}, *lines[3:]], id="a line of another kind"),
        pytest.param(lambda lines: [*lines[:3], {"kind": "row"}, *lines[3:]], id="a row without columns"),
        pytest.param(lambda lines: [*lines[:3], {"kind": "head", "chain_id": 5}, *lines[3:]], id="a head of wrong types"),
        pytest.param(lambda lines: [{**lines[0], "format": 2}, *lines[1:]], id="another format"),
    ],
)
def test_a_file_that_is_no_export_is_said_to_be_none(lines: list[Line], spoil: Callable[[list[Line]], list[Line]]) -> None:
    """With the line, and without a crash."""
    with pytest.raises(ExportBroken):
        verified(spoil(lines))


def rehashed(row: Line, previous: bytes) -> str:
    """The hash that a row would have had."""
    columns = {name: restored(name, value) for name, value in row.items() if name not in {"kind", "prev_hash", "hash"}}
    chain_id, seq = columns.pop("chain_id"), columns.pop("seq")
    return row_hash(previous, AuditRow(**columns), chain_id, seq).hex()


def restored(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in {"request_id", "peer_id", "grant_id", "subject_user_id"}:
        return UUID(value)
    return bytes.fromhex(value) if name in {"token_id", "query_hash", "chain_id"} else value


def recompute(lines: list[Line], chain: int, seq: int, **edit: Any) -> None:
    """Edit a sealed row and compute every hash of its chain from there on."""
    previous: bytes | None = None
    for at in chain_from(lines, chain, seq):
        row = lines[at] = {**lines[at], **(edit if previous is None else {"prev_hash": previous.hex()})}
        row["hash"] = rehashed(row, bytes.fromhex(row["prev_hash"]))
        previous = bytes.fromhex(row["hash"])


def chain_from(lines: list[Line], chain: int, seq: int) -> Iterator[int]:
    chain_id = lines[rows_of(lines, chain)[0]]["chain_id"]
    for at, line in enumerate(lines):
        if line["kind"] == "row" and line["chain_id"] == chain_id and line["seq"] >= seq:
            yield at
