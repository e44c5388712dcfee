"""An export of the audit log: one JSON object per line, bytes in hexadecimal; verified without a gateway.

| kind | holds |
|---|---|
| export | the beginning: format, gateway, when it was begun |
| grant_head | how one grant's record stood, countersigned |
| opening | the beginning of a chain, countersigned; chains come in the order of their numbers, which have no gaps |
| row | the chain's rows by seq, whole |
| month_end | where the chain stood when a month had ended, after that row; what came before may have been dropped |
| head | where the chain stood, countersigned, after that row |
| received_head | what another gateway said of its own record |
| end | how many lines came before |
"""

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from datetime import timedelta
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import orjson

from mosaic_common.audit import (
    AuditRow,
    Chain,
    ChainBroken,
    Event,
    Head,
    HeadForged,
    HeadVerifier,
    SealedRow,
    SignedHead,
    stored_row,
    verify_chain,
)
from mosaic_common.audit_heads import LATE, GrantHead, MonthEnd, SignedGrantHead, find_contradiction, month_start

FORMAT: Final = 1
MAX_RECEIVED_HEADS: Final = 100
"""Of one connection and grant; a gateway keeps ten."""
UNDER_WAY_US: Final = 10_000_000
"""A round that had begun when the export did may not be in it; none takes longer than this."""

MOST_BREAKS: Final = 100
"""So many places that do not hold are named: of a file that is another one altogether nobody wants each line."""

_UUIDS: Final = frozenset({"request_id", "peer_id", "grant_id", "subject_user_id"})
_BYTES: Final = frozenset({"token_id", "query_hash", "chain_id", "prev_hash", "hash"})
_INTEGERS: Final = frozenset({"time_us", "status_code", "result_count", "bytes_out", "latency_us", "repeated", "seq"})
_HEAD: Final = frozenset({"kind", "chain_id", "chain_number", "seq", "hash", "time_us", "signature"})
_GRANT_HEAD: Final = frozenset({"grant_id", "rows", "hash", "time_us", "signature"})
_KEYS: Final = {
    "export": frozenset({"kind", "format", "gateway", "begun_us"}),
    "grant_head": _GRANT_HEAD | {"kind"},
    "opening": frozenset({"kind", "chain_id", "chain_number", "writer", "opened_at_us", "opening_hash", "signature"}),
    "row": frozenset({"kind", *(each.name for each in fields(AuditRow)), "chain_id", "seq", "prev_hash", "hash"}),
    "month_end": _HEAD | {"ends_us"},
    "head": _HEAD,
    "received_head": frozenset({"kind", "peer_id", "connection", "received_at_us", "head"}),
    "end": frozenset({"kind", "lines"}),
}
_OF_A_CHAIN: Final = frozenset({"opening", "row", "month_end", "head"})
_AFTER_ALL: Final = 2**63
_LATE_US: Final = LATE // timedelta(microseconds=1)

Record = Mapping[str, Any]


class ExportBroken(Exception):
    """The export is not what was written.

    Attributes:
        problem: what is wrong, as a sentence.
        line: of the file, from 1; None where what is wrong is what is not there.
        chain_number, seq, time_us: the first place that does not hold, as far as there is one.
        grant_id: whose record it is, where heads of a grant contradict each other.
        further: what else does not hold, in other chains.
    """

    def __init__(
        self,
        problem: str,
        *,
        line: int | None = None,
        chain_number: int | None = None,
        seq: int | None = None,
        time_us: int | None = None,
        grant_id: UUID | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem: Final = problem
        self.line: Final = line
        self.chain_number: Final = chain_number
        self.seq: Final = seq
        self.time_us: Final = time_us
        self.grant_id: Final = grant_id
        self.further: tuple[ExportBroken, ...] = ()


@dataclass(frozen=True, slots=True)
class Unsealed:
    """Rows of a chain after its last countersigned head: they hold together, but whoever can write could have made them."""

    chain_number: int
    first_seq: int
    last_seq: int
    first_time_us: int


@dataclass(frozen=True, slots=True)
class Shortened:
    """A chain whose older rows were dropped, and that begins after a month's countersigned end."""

    chain_number: int
    after_seq: int
    ends_us: int


@dataclass(slots=True)
class Compared:
    """What came of heads that somebody else kept.

    Attributes:
        held: they agree with the export.
        foreign: not signed by this key; another gateway's, or nobody's.
        too_old: the rows that they speak of were dropped.
        too_new: countersigned after the export had begun.
    """

    held: int = 0
    foreign: int = 0
    too_old: int = 0
    too_new: int = 0


@dataclass(slots=True)
class Account:
    """What was found to hold."""

    gateway: str = ""
    begun_us: int = 0
    chains: int = 0
    rows: int = 0
    heads: int = 0
    grant_heads: int = 0
    last_head_us: int = 0
    unsealed: list[Unsealed] = field(default_factory=list)
    shortened: list[Shortened] = field(default_factory=list)
    shortened_grants: int = 0
    contradicting_peers: list[str] = field(default_factory=list)
    peers: Compared = field(default_factory=Compared)
    witness: Compared = field(default_factory=Compared)
    newest_told_us: int = 0

    @property
    def is_outrun(self) -> bool:
        """Whether somebody was told of rounds that are not there, and that were not merely under way when this was begun."""
        return self.newest_told_us > self.last_head_us + UNDER_WAY_US

    @property
    def unsealed_rows(self) -> int:
        return sum(each.last_seq - each.first_seq + 1 for each in self.unsealed)


def peer_heads(lines: Iterable[bytes]) -> Iterator[SignedGrantHead]:
    """Heads that another gateway kept: the lines `received_head` of its export. Raises ExportBroken."""
    for number, record in _records(lines):
        if record["kind"] == "received_head":
            with _described(number, record):
                signed = _told_head(record)
            yield signed


def witnessed_heads(lines: Iterable[bytes]) -> Iterator[tuple[Head, bytes]]:
    """Heads in the log of grants, with their signatures; every other line is left aside."""
    for line in lines:
        _, brace, rest = line.partition(b"{")
        try:
            record = orjson.loads(brace + rest)
            if record.get("event") == "audit_head":
                yield _head(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def verify_export(
    lines: Iterable[bytes],
    verifier: HeadVerifier,
    *,
    peers: Iterable[SignedGrantHead] = (),
    witness: Iterable[tuple[Head, bytes]] = (),
) -> Account:
    """Verify an export, row by row; memory grows with what is countersigned, and with rows that nobody has countersigned yet.

    Args:
        peers: heads of grants that other gateways kept.
        witness: heads of chains that were kept outside the database.

    Raises:
        ExportBroken: at the first place that does not hold; it carries the first place of each further chain. Heads of grants are
            compared only where every chain holds: they say nothing of rows that nobody can trust.
    """
    with _Histories.open() as histories:
        return _Verification(verifier, histories, peers, witness).run(lines)


class _Histories:
    """The rows of each grant by round, sorted on disk where memory does not do."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database: Final = database
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("CREATE TABLE covered (grant_id BLOB, time_us INT, chain_number INT, seq INT, hash BLOB)")

    @classmethod
    @contextmanager
    def open(cls) -> Iterator["_Histories"]:
        with closing(sqlite3.connect("")) as database:
            yield cls(database)

    def add(self, rows: Sequence[SealedRow], chain_number: int, time_us: int) -> None:
        self._database.executemany(
            "INSERT INTO covered VALUES (?, ?, ?, ?, ?)",
            [(each.row.grant_id.bytes, time_us, chain_number, each.seq, each.hash) for each in rows if each.row.grant_id],
        )

    def by_grant(self) -> Iterator[tuple[UUID, Iterator[tuple[int, list[bytes]]]]]:
        """Each grant with its rounds, oldest first: a round's time and the hashes of the rows that it covered."""
        found = self._database.execute("SELECT grant_id, time_us, hash FROM covered ORDER BY grant_id, time_us, chain_number, seq")
        for grant_id, rows in groupby(found, key=lambda row: row[0]):
            rounds = ((time_us, [each[2] for each in own]) for time_us, own in groupby(rows, key=lambda row: row[1]))
            yield UUID(bytes=grant_id), rounds


@dataclass(slots=True)
class _OpenChain:
    """The chain that is being read.

    Attributes:
        writer: which service wrote it.
        begins_after: seq after which its rows begin; 0 unless older ones were dropped.
        begins_us: no row is older; the end of the last month that was dropped.
        waiting: rows since the last countersigned head.
    """

    number: int
    at: Chain
    writer: str
    begins_after: int = 0
    begins_us: int = -(2**63)
    waiting: list[SealedRow] = field(default_factory=list)


class _Verification:
    def __init__(
        self,
        verifier: HeadVerifier,
        histories: _Histories,
        peers: Iterable[SignedGrantHead],
        witness: Iterable[tuple[Head, bytes]],
    ) -> None:
        self._verifier: Final = verifier
        self._histories: Final = histories
        self._account: Final = Account()
        self._own: Final[dict[UUID, list[GrantHead]]] = {}
        self._kept: Final = self._sort_peers(peers)
        self._witness: Final = self._sort_witness(witness)
        self._begins: Final[dict[bytes, int]] = {}
        self._received: Final[dict[tuple[UUID, UUID], list[GrantHead]]] = {}
        self._chain: _OpenChain | None = None
        self._broken: Final[list[ExportBroken]] = []
        self._is_lost = False
        self._lost: Final[list[range]] = []
        # What was countersigned before this may have gone with the months that were dropped; nothing later.
        self._dropped_until_us = -(2**63)

    def run(self, lines: Iterable[bytes]) -> Account:
        """Read to the end, or as far as can be read, before anything is said of what was found."""
        try:
            self._read(lines)
            self._end_chain()
            if not self._broken:
                self._verify_grants()
            self._verify_witness_is_covered()
        except ExportBroken as broken:
            self._broken.append(broken)
        if self._broken:
            first, *further = self._broken
            first.further = tuple(further)
            raise first
        return self._account

    def _read(self, lines: Iterable[bytes]) -> None:
        read = {
            "opening": self._read_opening,
            "row": self._read_row,
            "month_end": self._read_month_end,
            "head": self._read_head,
            "grant_head": self._read_grant_head,
            "received_head": self._read_received_head,
        }
        ended = None
        for number, record in _records(lines):
            if ended is not None:
                raise ExportBroken("the file goes on after its end", line=number)
            match number, record["kind"]:
                case 1, _:
                    self._read_beginning(record)
                case _, "end":
                    ended = number
                    self._read_end(number, record)
                case _, kind if kind not in read:
                    raise ExportBroken("the file begins anew", line=number)
                case _, kind if kind == "opening" or not (self._is_lost and kind in _OF_A_CHAIN):
                    if kind == "opening":
                        self._end_chain()
                        self._account.chains += 1
                    try:
                        with _described(number, record):
                            read[kind](number, record)
                    except ExportBroken as broken:
                        self._note(broken)
                        if kind in _OF_A_CHAIN:
                            self._lose_chain()
        if ended is None:
            raise ExportBroken("the file ends early: it is cut off, or the export was not finished")

    def _note(self, broken: ExportBroken) -> None:
        if len(self._broken) + 1 >= MOST_BREAKS:
            raise broken
        self._broken.append(broken)

    def _lose_chain(self) -> None:
        """One chain that does not hold says nothing about the next, and must not hide what is wrong there."""
        self._chain, self._is_lost = None, True
        self._lost.append(range(self._account.chains, self._account.chains + 1))

    # --- lines

    def _read_beginning(self, record: Record) -> None:
        told = record.get("format")
        if record["kind"] != "export" or type(told) is not int or told != FORMAT:
            raise ExportBroken(f"the file does not begin like an export of format {FORMAT}", line=1)
        with _described(1, record):
            self._account.gateway, self._account.begun_us = _text(record["gateway"]), _integer(record["begun_us"])

    def _read_end(self, number: int, record: Record) -> None:
        with _described(number, record):
            told = _integer(record["lines"])
        if told != number - 1:
            raise ExportBroken(f"{number - 1} lines came before the end, which speaks of {told}", line=number)

    def _read_opening(self, line: int, record: Record) -> None:
        number, due = _integer(record["chain_number"]), self._account.chains
        chain = Chain.opened(bytes.fromhex(record["chain_id"]), number, _integer(record["opened_at_us"]))
        head = Head(chain.chain_id, number, 0, bytes.fromhex(record["opening_hash"]), _integer(record["opened_at_us"]))
        if head.hash != chain.head:
            raise ExportBroken("the opening of the chain was altered", line=line, chain_number=number, seq=0)
        self._verify_signature(head, record, line)
        if number < due:
            self._account.chains -= 1
            raise ExportBroken(f"the chain {number} stands at the place of chain {due}", line=line, chain_number=due)
        if number > due:
            missing = f"the chain {due} is missing" if number == due + 1 else f"the chains {due} to {number - 1} are missing"
            self._note(ExportBroken(missing, line=line, chain_number=due))
            self._lost.append(range(due, number))
        self._chain, self._is_lost = _OpenChain(number, chain, _text(record["writer"])), False
        self._account.chains = number

    def _read_row(self, line: int, record: Record) -> None:
        chain, row = self._open_chain(line), _row(record)
        try:
            verify_chain([row], chain.at, ())
        except ChainBroken as broken:
            raise ExportBroken(
                broken.problem, line=line, chain_number=chain.number, seq=broken.seq, time_us=row.row.time_us
            ) from None
        if (problem := _misplaced(row.row, chain)) is not None:
            raise ExportBroken(problem, line=line, chain_number=chain.number, seq=row.seq, time_us=row.row.time_us)
        chain.at = chain.at.after(row)
        chain.waiting.append(row)
        self._account.rows += 1
        self._compare_with_witness(chain, line)

    def _read_month_end(self, line: int, record: Record) -> None:
        chain = self._open_chain(line)
        end = MonthEnd(*_place(record), _integer(record["ends_us"]), _integer(record["time_us"]))
        try:
            self._verifier.verify_month_end(end, bytes.fromhex(record["signature"]))
        except HeadForged as forged:
            raise ExportBroken(str(forged), line=line, chain_number=chain.number, seq=end.seq) from None
        if end.seq > chain.at.seq and chain.at.seq == chain.begins_after and end.chain_id == chain.at.chain_id:
            # Nothing of the chain has come yet: what is signed here is all that is left of the rows before.
            self._verify_is_months_end(end, chain, line)
            chain.at = Chain(end.chain_id, end.seq, end.hash)
            chain.begins_after, chain.begins_us = end.seq, end.ends_us
            self._dropped_until_us = max(self._dropped_until_us, end.ends_us + _LATE_US)
            if self._account.shortened and self._account.shortened[-1].chain_number == chain.number:
                self._account.shortened.pop()  # another month of the same chain
            self._account.shortened.append(Shortened(chain.number, end.seq, end.ends_us))
            self._compare_with_witness(chain, line)
        self._verify_place(chain, end, line)

    def _read_head(self, line: int, record: Record) -> None:
        chain = self._open_chain(line)
        head, _ = _head(record)
        self._verify_signature(head, record, line)
        self._verify_place(chain, head, line)
        self._histories.add(chain.waiting, chain.number, head.time_us)
        chain.waiting.clear()
        self._account.heads += 1
        self._account.last_head_us = max(self._account.last_head_us, head.time_us)

    def _read_grant_head(self, line: int, record: Record) -> None:
        signed = _grant_head(record)
        head = signed.head
        try:
            self._verifier.verify_grant_head(head, signed.signature)
        except HeadForged as forged:
            raise ExportBroken(str(forged), line=line, grant_id=head.grant_id, time_us=head.time_us) from None
        self._own.setdefault(head.grant_id, []).append(head)
        self._account.grant_heads += 1

    def _read_received_head(self, _line: int, record: Record) -> None:
        """Nobody here has the other gateway's key; but it may have contradicted itself."""
        head, peer = _told_head(record).head, _text(record["connection"])
        _integer(record["received_at_us"])
        told = self._received.setdefault((UUID(_text(record["peer_id"])), head.grant_id), [])
        if len(told) >= MAX_RECEIVED_HEADS:
            raise ValueError("more heads of one grant than a gateway keeps")
        if find_contradiction(told, head) and peer not in self._account.contradicting_peers:
            self._account.contradicting_peers.append(peer)
        told.append(head)

    # --- places

    def _open_chain(self, line: int) -> _OpenChain:
        if self._chain is None:
            raise ExportBroken("a chain's opening is missing before this line", line=line)
        return self._chain

    def _verify_signature(self, head: Head, record: Record, line: int) -> SignedHead:
        try:
            return self._verifier.verify(head, bytes.fromhex(record["signature"]))
        except HeadForged as forged:
            raise ExportBroken(str(forged), line=line, chain_number=head.chain_number, seq=head.seq, time_us=head.time_us) from None

    def _verify_place(self, chain: _OpenChain, signed: Head | MonthEnd, line: int) -> None:
        """What is countersigned must be what stands there."""
        due: dict[str, Any] = {"line": line, "chain_number": chain.number, "time_us": signed.time_us}
        if signed.chain_id != chain.at.chain_id or signed.chain_number != chain.number or signed.seq < chain.at.seq:
            raise ExportBroken("a countersigned head stands at another place than its own", seq=chain.at.seq + 1, **due)
        if signed.seq > chain.at.seq:
            missing = f"the rows {chain.at.seq + 1} to {signed.seq} are missing: they were countersigned"
            raise ExportBroken(missing, seq=chain.at.seq + 1, **due)
        if signed.hash != chain.at.head:
            raise ExportBroken("the chain was rewritten: another head was countersigned here", seq=chain.at.seq, **due)

    def _verify_is_months_end(self, end: MonthEnd, chain: _OpenChain, line: int) -> None:
        """Retention drops whole months that are over; whoever has the key could sign any moment as the end of one."""
        is_first_moment = end.ends_us == int(month_start(end.ends_us).timestamp()) * 1_000_000
        if not is_first_moment or end.ends_us > min(end.time_us, self._account.begun_us):
            raise ExportBroken(
                "rows are missing, and what is signed in their place is no end of a month that was over",
                line=line,
                chain_number=chain.number,
                seq=end.seq,
                time_us=end.time_us,
            )

    def _end_chain(self) -> None:
        chain, self._chain = self._chain, None
        if chain is None:
            return
        self._begins[chain.at.chain_id] = chain.begins_after
        if chain.waiting:
            first, last = chain.waiting[0], chain.waiting[-1]
            self._account.unsealed.append(Unsealed(chain.number, first.seq, last.seq, first.row.time_us))

    # --- heads of grants

    def _verify_grants(self) -> None:
        seen = set()
        for grant_id, rounds in self._histories.by_grant():
            seen.add(grant_id)
            self._verify_grant(grant_id, rounds)
        for grant_id in {*self._own, *self._kept} - seen:
            self._verify_grant(grant_id, iter(()))

    def _verify_grant(self, grant_id: UUID, rounds: Iterator[tuple[int, list[bytes]]]) -> None:
        own = sorted(self._own.get(grant_id, ()), key=lambda head: head.rows)
        told_by_peers = set(self._kept.get(grant_id, ()))
        heads = [*((head, False) for head in own), *((head, True) for head in told_by_peers)]
        due = deque(sorted(heads, key=lambda each: each[0].time_us))
        stands, earlier = GrantHead.beginning(grant_id), list[GrantHead]()
        for time_us, hashes in [*rounds, (_AFTER_ALL, [])]:
            while due and due[0][0].time_us < time_us:
                told, by_peer = due.popleft()
                if told == stands:
                    self._account.peers.held += by_peer
                elif by_peer and told.time_us > self._account.last_head_us:
                    self._verify_is_too_new(told)
                elif told.time_us >= self._dropped_until_us:
                    raise self._contradiction(told, by_peer=by_peer)
                elif by_peer and own and told.time_us < own[0].time_us and told.rows < own[0].rows:
                    earlier.append(told)
                elif not by_peer and told is own[0]:
                    # The rows before it were dropped, and it says, countersigned, what they amounted to.
                    stands = told
                    self._account.shortened_grants += 1
                    self._account.peers.too_old += len(earlier)
                    earlier.clear()
                else:
                    raise self._contradiction(told, by_peer=by_peer)
                if own and told is own[0] and earlier:
                    raise self._contradiction(earlier[0], by_peer=True)
            if hashes:
                stands = stands.after(hashes, time_us)

    def _verify_is_too_new(self, told: GrantHead) -> None:
        if told.time_us <= self._account.begun_us - UNDER_WAY_US:
            raise self._contradiction(told, by_peer=True)
        self._account.peers.too_new += 1
        self._account.newest_told_us = max(self._account.newest_told_us, told.time_us)

    def _contradiction(self, told: GrantHead, *, by_peer: bool) -> ExportBroken:
        who = "the other gateway kept" if by_peer else "this gateway countersigned"
        return ExportBroken(
            f"{who} a head over {told.rows} rows of the grant {told.grant_id} that these rows do not have: "
            "the record was rewritten, although its signatures hold",
            grant_id=told.grant_id,
            time_us=told.time_us,
        )

    def _sort_peers(self, peers: Iterable[SignedGrantHead]) -> dict[UUID, list[GrantHead]]:
        kept: dict[UUID, list[GrantHead]] = {}
        for signed in peers:
            try:
                self._verifier.verify_grant_head(signed.head, signed.signature)
            except HeadForged:
                self._account.peers.foreign += 1
                continue
            kept.setdefault(signed.head.grant_id, []).append(signed.head)
        return kept

    # --- the witness

    def _sort_witness(self, witness: Iterable[tuple[Head, bytes]]) -> dict[tuple[bytes, int], Head]:
        kept: dict[tuple[bytes, int], Head] = {}
        for head, signature in witness:
            try:
                self._verifier.verify(head, signature)
            except HeadForged:
                self._account.witness.foreign += 1
                continue
            other = kept.setdefault((head.chain_id, head.seq), head)
            if other.hash != head.hash:
                raise ExportBroken(
                    "the log of grants holds two heads of this row: it was changed, and signed anew",
                    chain_number=head.chain_number,
                    seq=head.seq,
                    time_us=head.time_us,
                )
        return kept

    def _compare_with_witness(self, chain: _OpenChain, line: int) -> None:
        told = self._witness.pop((chain.at.chain_id, chain.at.seq), None) if self._witness else None
        if told is None:
            return
        if told.hash != chain.at.head:
            raise ExportBroken(
                "the chain was rewritten: the log of grants kept another head of this row",
                line=line,
                chain_number=chain.number,
                seq=chain.at.seq,
                time_us=told.time_us,
            )
        self._account.witness.held += 1

    def _verify_witness_is_covered(self) -> None:
        for head in sorted(self._witness.values(), key=lambda head: (head.chain_number, head.seq)):
            if any(head.chain_number in chains for chains in self._lost):
                continue  # said already
            if head.seq < self._begins.get(head.chain_id, 0) and head.time_us < self._dropped_until_us:
                self._account.witness.too_old += 1
            elif head.time_us <= self._account.begun_us - UNDER_WAY_US:
                raise ExportBroken(
                    "rows are missing: the log of grants kept a head of them",
                    chain_number=head.chain_number,
                    seq=head.seq,
                    time_us=head.time_us,
                )
            else:
                self._account.witness.too_new += 1
                self._account.newest_told_us = max(self._account.newest_told_us, head.time_us)


def _records(lines: Iterable[bytes]) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(lines, start=1):
        try:
            record = orjson.loads(line)
        except ValueError:
            record = None
        kind = record.get("kind") if isinstance(record, dict) else None
        if not isinstance(kind, str) or kind not in _KEYS:
            raise ExportBroken("the line is none of an export", line=number)
        yield number, record


@contextmanager
def _described(line: int, record: Record) -> Iterator[None]:
    """Have a line that lacks something, or holds what cannot be, told as that."""
    what = str(record["kind"]).replace("_", " ")
    try:
        if record.keys() != _KEYS[record["kind"]]:
            raise ValueError("values are missing, or were added")
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportBroken(f"the line is no {what}: it was altered, or is cut off", line=line) from error


def _row(record: Record) -> SealedRow:
    return stored_row({name: _value(name, value) for name, value in record.items() if name != "kind"})


def _value(name: str, value: Any) -> Any:
    """By column, never by what stands there: a number and a text of the same bytes have the same hash."""
    if value is None:
        return None
    if name in _INTEGERS:
        return _integer(value)
    if name in _UUIDS:
        return UUID(_text(value))
    return bytes.fromhex(value) if name in _BYTES else _text(value)


def _misplaced(row: AuditRow, chain: _OpenChain) -> str | None:
    """What is wrong with a row, which is whole, standing there."""
    if row.time_us < chain.begins_us:
        return "the row is older than the month's end that it follows"
    due = {"edge-inbound": row.event == Event.READ, "edge-outbound": row.event == Event.QUERY}
    if not due.get(chain.writer, row.event not in {Event.READ, Event.QUERY}):
        return f"{chain.writer or 'nobody'}, whose chain this is said to be, writes no row of the event {row.event}"
    return None


def _head(record: Record) -> tuple[Head, bytes]:
    return Head(*_place(record), _integer(record["time_us"])), bytes.fromhex(record["signature"])


def _place(record: Record) -> tuple[bytes, int, int, bytes]:
    return (
        bytes.fromhex(record["chain_id"]),
        _integer(record["chain_number"]),
        _integer(record["seq"]),
        bytes.fromhex(record["hash"]),
    )


def _grant_head(record: Record) -> SignedGrantHead:
    head = GrantHead(UUID(record["grant_id"]), _integer(record["rows"]), bytes.fromhex(record["hash"]), _integer(record["time_us"]))
    return SignedGrantHead(head, bytes.fromhex(record["signature"]))


def _told_head(record: Record) -> SignedGrantHead:
    if record["head"].keys() != _GRANT_HEAD:
        raise ValueError("values are missing, or were added")
    return _grant_head(record["head"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError("no 64-bit integer")
    return value
