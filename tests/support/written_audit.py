"""Exports of an audit log in memory, line by line, as a writer, grants and the CLI make them; no database."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mosaic_common.audit import AuditRow, Chain, Event, Head, HeadSigner, HeadVerifier, Outcome, SealedRow
from mosaic_common.audit_export import Account, verify_export
from mosaic_common.audit_heads import GrantHead, MonthEnd, SignedGrantHead
from mosaic_common.keys import private_pem, public_pem

KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNER: Final = HeadSigner(private_pem(KEY))
VERIFIER: Final = HeadVerifier(public_pem(KEY.public_key()))
ONE: Final = UUID(int=1)
Line = dict[str, Any]


def at(month: int, day: int, *, hour: int = 12, minute: int = 0, second: int = 0) -> int:
    return int(datetime(2026, month, day, hour, minute, second, tzinfo=UTC).timestamp()) * 1_000_000


NOVEMBER: Final = at(11, 1, hour=0)
BEGUN: Final = at(11, 20)


class Written:
    """One chain as its writer and grants make it, line by line, with what a peer was told of the grant ONE."""

    def __init__(self, number: int = 1, *, writer: str = "edge-inbound") -> None:
        self.number = number
        self.chain = Chain.opened(number.to_bytes(16, "big"), number, at(10, 1))
        self.grant = GrantHead.beginning(ONE)
        self.told: list[SignedGrantHead] = []
        self.witness: list[tuple[Head, bytes]] = []
        self._waiting: list[bytes] = []
        opening = SIGNER.sign(Head(self.chain.chain_id, number, 0, self.chain.head, at(10, 1)))
        self.lines: list[Line] = [
            {
                "kind": "opening",
                "chain_id": self.chain.chain_id.hex(),
                "chain_number": number,
                "writer": writer,
                "opened_at_us": at(10, 1),
                "opening_hash": self.chain.head.hex(),
                "signature": opening.signature.hex(),
            }
        ]

    def row(self, time_us: int, **further: Any) -> SealedRow:
        columns: dict[str, Any] = {"event": Event.READ, "grant_id": ONE, "outcome": Outcome.ALLOWED, "status_code": 0, **further}
        row = AuditRow(request_id=UUID(int=9), time_us=time_us, **{"actor": "home", "source_address": "", **columns})
        sealed = self.chain.append(row)
        self.chain = self.chain.after(sealed)
        if row.grant_id == ONE:
            self._waiting.append(sealed.hash)
        self.lines.append(row_line(sealed))
        return sealed

    def round(self, time_us: int) -> None:
        signed = SIGNER.sign(Head(self.chain.chain_id, self.number, self.chain.seq, self.chain.head, time_us))
        self.lines.append({"kind": "head", **plain(asdict(signed.head)), "signature": signed.signature.hex()})
        self.witness.append((signed.head, signed.signature))
        if self._waiting:
            self.grant = self.grant.after(self._waiting, time_us)
            self.told.append(SIGNER.sign_grant_head(self.grant))
            self._waiting.clear()

    def dropped(self, end: MonthEnd) -> list[Line]:
        """The chain after retention, but for the opening: what follows the month's end."""
        place = next(at for at, line in enumerate(self.lines) if line["kind"] == "row" and line["seq"] == end.seq)
        signed = SIGNER.sign_month_end(end)
        kept = [line for line in self.lines[place + 1 :] if line["kind"] != "head" or line["seq"] >= end.seq]
        return [self.lines[0], {"kind": "month_end", **plain(asdict(end)), "signature": signed.signature.hex()}, *kept]

    def end(self, seq: int, ends_us: int = NOVEMBER, time_us: int = at(11, 1, hour=1)) -> MonthEnd:
        """A month's end after this row."""
        row = next(line for line in self.lines if line["kind"] == "row" and line["seq"] == seq)
        return MonthEnd(self.chain.chain_id, self.number, seq, bytes.fromhex(row["hash"]), ends_us, time_us)


def plain(values: Line) -> Line:
    """As JSON has it."""
    return {
        name: value.hex() if isinstance(value, bytes) else str(value) if isinstance(value, UUID) else value
        for name, value in values.items()
    }


def row_line(sealed: SealedRow) -> Line:
    place = {"chain_id": sealed.chain_id, "seq": sealed.seq, "prev_hash": sealed.prev_hash, "hash": sealed.hash}
    return {"kind": "row", **plain({**asdict(sealed.row), **place})}


def grant_lines(*signed: SignedGrantHead) -> list[Line]:
    return [{"kind": "grant_head", **plain(asdict(each.head)), "signature": each.signature.hex()} for each in signed]


def export(*lines: Line, begun_us: int = BEGUN) -> list[Line]:
    beginning = {"kind": "export", "format": 1, "gateway": "work", "begun_us": begun_us}
    return [beginning, *lines, {"kind": "end", "lines": len(lines) + 1}]


def verified(lines: list[Line], **kept: Any) -> Account:
    return verify_export(map(orjson.dumps, lines), VERIFIER, **kept)
