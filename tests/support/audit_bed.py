"""A gateway's audit log without services: edges that append, grants that countersigns when it is told to, and exports of both."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID, uuid4

import orjson
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mosaic_cli.audit_files import ExportFile
from mosaic_common.audit import AuditRow, Chain, Event, HeadSigner, HeadVerifier, Outcome, SignedHead
from mosaic_common.audit_export import Account, peer_heads, verify_export
from mosaic_common.audit_heads import SignedGrantHead, month_after, month_start
from mosaic_common.keys import private_pem, public_pem
from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.api import audit_export

from tests.support.audit_rows import APPEND, rows_json
from tests.support.clock import FakeClock
from tests.support.postgres import Database

AUDIT_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIER: Final = HeadVerifier(public_pem(AUDIT_KEY.public_key()))
Line = dict[str, Any]

_STAND_THERE: Final = """
    INSERT INTO federation.federation_audit_log SELECT * FROM json_populate_recordset(NULL::federation.federation_audit_log, %s)"""
_MOVE_HEAD: Final = """
    UPDATE federation.federation_audit_chains SET head_seq = %s, head_hash = %s, head_time_us = %s, moved = true
    WHERE chain_id = %s"""


@dataclass(slots=True)
class Edge:
    """A writer with its own chain and role.

    append_audit takes what is of now, at most a day old. What the tests need of old months stands there as if it had been taken
    then: written by the owner of the tables.
    """

    connection: psycopg.Connection
    chain: Chain
    database: Database

    def write(self, *rows: AuditRow) -> None:
        sealed, first = [], self.chain
        for row in rows:
            sealed.append(self.chain.append(row))
            self.chain = self.chain.after(sealed[-1])
        if sealed[0].row.time_us > int((datetime.now(UTC) - timedelta(hours=23)).timestamp()) * 1_000_000:
            self.connection.execute(APPEND, (first.chain_id, first.seq + 1, first.head, rows_json(sealed)))
        else:
            with self.database.connect() as owner, owner.transaction():
                owner.execute(_STAND_THERE, (rows_json(sealed),))
                last = self.chain
                owner.execute(_MOVE_HEAD, (last.seq, last.head, last.time_us, last.chain_id))


@dataclass(slots=True)
class AuditBed:
    database: Database
    ledger: PostgresLedger
    clock: FakeClock
    folder: Path
    edges: list[Edge] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database, folder: Path, moment: datetime) -> AsyncIterator[Self]:
        clock = FakeClock(moment)
        ledger = PostgresLedger(database.url("mosaic_grants"), AuditLog(HeadSigner(private_pem(AUDIT_KEY)), clock))
        await ledger.open()
        bed = cls(database, ledger, clock, folder)
        try:
            yield bed
        finally:
            for edge in bed.edges:
                edge.connection.close()
            await ledger.close()

    async def edge(self) -> Edge:
        opened = (await self.ledger.open_chain("edge-inbound")).head
        connection = psycopg.connect(self.database.url("mosaic_edge_inbound"), autocommit=True)
        self.edges.append(Edge(connection, Chain(opened.chain_id, opened.seq, opened.hash), self.database))
        return self.edges[-1]

    def read(self, grant_id: UUID | None = None, **further: Any) -> AuditRow:
        """The row of one answered read, a millisecond after the one before."""
        self.clock.advance(timedelta(milliseconds=1))
        return read_row(self.clock.now(), grant_id, **further)

    async def countersign(self) -> list[SignedHead]:
        """A second later."""
        self.clock.advance(timedelta(seconds=1))
        return await self.ledger.countersign()

    async def export(self, *, page_size: int = 1000, meanwhile: Any = None) -> list[Line]:
        """As the CLI writes it, its lines; `meanwhile` is called between pages."""
        path = self.folder / f"{uuid4()}.ndjson"
        position: audit_export.Position | None = audit_export.Position(
            begun_us=int(self.clock.now().timestamp() * 1_000_000), total=0
        )
        with ExportFile(path) as file:
            assert position is not None
            file.begin("work", position.begun_us)
            while position is not None:
                async with self.ledger.transaction() as tx:
                    position = audit_export.Position.parse(position.to_token())
                    records, position = await audit_export.read_page(tx.audit_export, position, page_size)
                for record in records:
                    file.add(record)
                if meanwhile is not None:
                    await meanwhile()
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def read_row(moment: datetime, grant_id: UUID | None = None, **further: Any) -> AuditRow:
    columns: dict[str, Any] = {
        "request_id": uuid4(),
        "time_us": int(moment.timestamp() * 1_000_000),
        "event": Event.READ,
        "actor": "home",
        "source_address": "192.0.2.7",
        "grant_id": grant_id,
        "outcome": Outcome.ALLOWED,
        "status_code": 0,
        "result_count": 3,
    }
    return AuditRow(**{**columns, **further})


def verified(lines: list[Line], **kept: Any) -> Account:
    """Raises ExportBroken."""
    return verify_export(encoded(lines), VERIFIER, **kept)


def encoded(lines: list[Line]) -> list[bytes]:
    """Lines as a file has them, the last one counting them as they are."""
    counted = [{**line, "lines": len(lines) - 1} if line["kind"] == "end" else line for line in lines]
    return [orjson.dumps(line) for line in counted]


def told_of(lines: list[Line]) -> list[SignedGrantHead]:
    """Every head of a grant in an export, as a peer would have kept it."""
    told: Line = {"kind": "received_head", "peer_id": str(uuid4()), "connection": "work", "received_at_us": 0}
    received = [
        {**told, "head": {name: value for name, value in line.items() if name != "kind"}}
        for line in lines
        if line["kind"] == "grant_head"
    ]
    return list(peer_heads(map(orjson.dumps, received)))


def add_month(owner: psycopg.Connection, moment: datetime) -> None:
    """A partition for the month of a moment that is long past: `db upgrade` makes them from the last one on."""
    start = month_start(int(moment.timestamp() * 1_000_000))
    bounds = [int(each.timestamp()) * 1_000_000 for each in (start, month_after(start))]
    owner.execute(
        f"CREATE TABLE IF NOT EXISTS federation.federation_audit_log_{start:%Y_%m} PARTITION OF federation.federation_audit_log"
        f" FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})".encode()
    )


def kinds(lines: list[Line]) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for line in lines:
        found[line["kind"]] = found.get(line["kind"], 0) + 1
    return found
