"""Refusals that anybody can cause cost the database one row a second, not one transaction each."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

from mosaic.grants.v1 import grants_pb2
from mosaic_common.audit import AuditRow, Event
from mosaic_common.auth import Principal, Role
from mosaic_common.errors import AuthRefused, Layer, MosaicError, NotFound, Reason, Unavailable
from mosaic_common.rpc.call import Call, Outcome
from mosaic_common.rpc.methods import Listener, Method, service_of
from mosaic_grants.api.recorder import RefusalRecorder

from tests.support.clock import FakeClock

METHOD = Method(
    service_of(grants_pb2, "GrantService"), "GetGrant", Listener.OPERATOR, frozenset({Role.READ.value}), audit=Event.CALL_REFUSED
)
NO_TOKEN = AuthRefused(Reason.AUTH_TOKEN_MISSING, "No bearer token was sent.", layer=Layer.CALLER)
NO_GRANT = NotFound(Reason.GRANT_NOT_FOUND, "There is no such grant.")
OTTO = Principal("otto", frozenset({Role.READ}), "1", "mosaic:work")


@dataclass(slots=True)
class LedgerOfRows:
    """Keeps the rows of each transaction."""

    transactions: list[list[AuditRow]] = field(default_factory=list)
    is_down: bool = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        if self.is_down:
            raise Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "PostgreSQL does not answer.")
        rows: list[AuditRow] = []
        yield _Transaction(rows)
        self.transactions.append(rows)


@dataclass(frozen=True, slots=True)
class _Transaction:
    rows: list[AuditRow]

    def audit(self, row: AuditRow) -> None:
        self.rows.append(row)


def recorder_on(ledger: LedgerOfRows, clock: FakeClock | None = None) -> RefusalRecorder:
    return RefusalRecorder(cast(Any, ledger), clock or FakeClock(datetime(2026, 1, 1, tzinfo=UTC)))


async def refuse(
    recorder: RefusalRecorder, error: MosaicError, *, caller: Principal | None = None, source: str = "192.0.2.1"
) -> None:
    call = Call(METHOD, uuid4(), "", source, f"{source}:5000", 0.0, time.monotonic_ns(), caller)
    await recorder.record(call, Outcome(error, 0, 10))


async def test_calls_without_a_token_are_counted() -> None:
    """However many come from one address, they are one row of the next second, which says how many."""
    ledger = LedgerOfRows()
    recorder = recorder_on(ledger)
    for source in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"):
        await refuse(recorder, NO_TOKEN, source=source)
    assert ledger.transactions == []
    await recorder.write_counted()
    await recorder.write_counted()
    (rows,) = ledger.transactions
    assert [(row.source_address, row.denied_reason, row.repeated) for row in rows] == [
        ("192.0.2.1", Reason.AUTH_TOKEN_MISSING, 3),
        ("192.0.2.2", Reason.AUTH_TOKEN_MISSING, 1),
    ]


async def test_who_has_a_name_has_a_row() -> None:
    """A refusal of somebody who is known is durable before the answer leaves."""
    ledger = LedgerOfRows()
    await refuse(recorder_on(ledger), NO_GRANT, caller=OTTO)
    ((row,),) = ledger.transactions
    assert (row.actor, row.denied_reason, row.repeated) == ("otto", Reason.GRANT_NOT_FOUND, 1)


async def test_what_cannot_be_written_stays_counted() -> None:
    """A database that is down for a while loses no refusal."""
    ledger = LedgerOfRows(is_down=True)
    recorder = recorder_on(ledger)
    await refuse(recorder, NO_TOKEN)
    await recorder.write_counted()
    await refuse(recorder, NO_TOKEN)
    ledger.is_down = False
    await recorder.write_counted()
    ((row,),) = ledger.transactions
    assert row.repeated == 2


async def test_what_waited_for_days_is_dated_when_it_is_written() -> None:
    """The record takes no row that is a day old: a long outage must not end with refusals that can never be written."""
    ledger, clock = LedgerOfRows(is_down=True), FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    recorder = recorder_on(ledger, clock)
    await refuse(recorder, NO_TOKEN)
    await recorder.write_counted()
    clock.advance(timedelta(days=3))
    ledger.is_down = False
    await recorder.write_counted()
    ((row,),) = ledger.transactions
    assert row.time_us == clock.now().timestamp() * 1_000_000
