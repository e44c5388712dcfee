"""What the ledger makes of a database that says nothing, of callers who hang up, and of texts that it cannot hold."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import mosaic_grants.app
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mosaic.grants.v1 import grants_pb2
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.audit import AuditRow, Event, HeadSigner, Outcome
from mosaic_common.clock import SystemClock
from mosaic_common.config import load
from mosaic_common.errors import InvalidInput, Layer, Reason, Unavailable
from mosaic_common.identity import GRANTS
from mosaic_common.keys import private_pem
from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.config import Config
from structlog.testing import capture_logs

from tests.support.audit_records import assert_recorded
from tests.support.gateway import Gateway, Pair
from tests.support.peers import refusal
from tests.support.postgres import Database, PostgresServer
from tests.support.relays import Silence, place_of, through


def ledger_at(url: str) -> PostgresLedger:
    return PostgresLedger(url, AuditLog(HeadSigner(private_pem(Ed25519PrivateKey.generate())), SystemClock()))


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[PostgresLedger]:
    opened = ledger_at(database.url("mosaic_grants"))
    await opened.open()
    yield opened
    await opened.close()


def a_row() -> AuditRow:
    return AuditRow(
        request_id=uuid4(),
        time_us=time.time_ns() // 1000,
        event=Event.PEER_CREATED,
        actor="otto",
        source_address="192.0.2.7",
        outcome=Outcome.ALLOWED,
        status_code=0,
    )


async def test_who_is_cancelled_is_cancelled(database: Database) -> None:
    """Also when the database says nothing, and giving its connection back fails too: a process could not be stopped otherwise."""
    url = database.url("mosaic_grants")
    async with Silence(*place_of(url)) as between:
        ledger = ledger_at(through(between, url))
        await ledger.open()
        await ledger.ping()
        between.silent = True
        asking = asyncio.create_task(ledger.ping())
        await asyncio.sleep(0.2)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        between.silent = False
        await ledger.close()


async def test_a_service_stops_although_its_database_says_nothing(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """Whatever it was in the middle of, within half a minute: then an orchestrator would kill it, and nothing would be closed."""
    with postgres_server.fresh() as database:
        gateway = Gateway("work", tmp_path, database, valkey)
        gateway.prepare()
        environment = gateway.environment(GRANTS)
        url = environment["DATABASE_URL"]
        async with Silence(*place_of(url)) as between:
            application = mosaic_grants.app.build(
                load(Config, environment | {"DATABASE_URL": through(between, url)}), gateway.clock
            )
            await application.start()
            async with asyncio.timeout(10):
                while not application.health.is_up("postgres"):
                    await asyncio.sleep(0.05)
            between.silent = True
            async with asyncio.timeout(30):
                await application.stop()


async def test_who_hangs_up_in_a_commit_costs_nobody_else_anything(ledger: PostgresLedger) -> None:
    """Deeds that are cancelled at any moment, beside deeds that are not: these all succeed, and the chain is not lost."""
    chance = random.Random(20)

    async def deed() -> None:
        async with ledger.transaction() as tx:
            await tx.peers.list_page(limit=1, after=None, direction=None, state=None, local_user_id=None)
            tx.audit(a_row())

    async def given_up() -> None:
        for _ in range(40):
            doing = asyncio.create_task(deed())
            await asyncio.sleep(chance.uniform(0, 0.012))
            doing.cancel()
            with contextlib.suppress(asyncio.CancelledError, Unavailable):
                await doing

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(given_up())
            for _ in range(40):
                await deed()
    assert [line for line in logs if line["event"] == "audit_chain_lost"] == []


@pytest.mark.parametrize("text", ["a\x00b", "\x00"])
async def test_a_text_that_cannot_be_stored_is_the_callers(ledger: PostgresLedger, text: str) -> None:
    """It is no outage, and is not told as one."""
    with pytest.raises(InvalidInput) as refused:
        async with ledger.transaction() as tx:
            await tx.connections.list_active(uuid4(), text)
    assert refused.value.reason is Reason.REQUEST_INVALID


async def test_operators_cannot_store_what_moves_a_cursor(pair: Pair) -> None:
    """A display name is one printable line; names that hold anything else are names that nobody has."""
    work = pair.work
    request = grants_pb2.CreatePeerRequest(name="plain", display_name="\x1b[2J")
    refused = await refusal(work.peers.CreatePeer(request, metadata=work.operator_metadata()))
    assert (refused.reason, set(refused.violations)) == ("REQUEST_INVALID", {"display_name"})
    assert_recorded(work, refused, Layer.REQUEST)
    unknown = await refusal(work.peers.GetPeer(grants_pb2.GetPeerRequest(peer="a\x00b"), metadata=work.operator_metadata()))
    assert unknown.reason == "PEER_NOT_FOUND"
