"""Rotating the sealing secret: what is resealed, what is refused, and what is left alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from mosaic.grants.v1 import grants_pb2
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_cli.dev.seed import seed
from mosaic_common.audit import HeadSigner
from mosaic_common.clock import SystemClock
from mosaic_common.errors import ConfigurationError
from mosaic_common.identity import GRANTS
from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.domain.sealing import Presence

from tests.support.gateway import Gateway
from tests.support.grants_replicas import Credentials, Seals, Secrets, another, composed_with, make_connections, until_waiting
from tests.support.peers import refusal
from tests.support.postgres import Database

OLD, NEW = "the former secret, of more than 32 bytes", "the coming secret, of more than 32 bytes"
BEFORE, PROMOTED = Secrets(OLD), Secrets(NEW, previous=OLD)
NAMES = [f"c{number}" for number in range(5)]
SUBJECT = "maya@example.com"
WHOLE_KEYS = "SELECT id, client_key_pem, csr_der FROM federation.federation_peer_keys"
KEYS = "SELECT id::text, client_key_pem FROM federation.federation_peer_keys ORDER BY peer_id, id"


@pytest.fixture(scope="module")
async def promoted(
    module_database: Database, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """Grants alone, promoted to the new secret, over five connections whose keys were sealed under the old one."""
    seed(module_database.url("mosaic_owner"), "home", now=datetime.now(UTC))
    gateway = Gateway("home", tmp_path_factory.mktemp("home"), module_database, valkey)
    gateway.prepare()
    try:
        await start(gateway, BEFORE)
        await make_connections(gateway, subject(gateway), NAMES)
        await gateway.stop(GRANTS)
        await start(gateway, PROMOTED)
        yield gateway
    finally:
        await gateway.close()


@pytest.fixture
async def home(promoted: Gateway) -> AsyncIterator[Gateway]:
    """The same for each test, whatever it does to rows and replicas."""
    rows, [(replica,)] = promoted.rows(WHOLE_KEYS), promoted.rows("SELECT id FROM federation.federation_replicas")
    running = promoted.apps[GRANTS]
    yield promoted
    promoted.execute("DELETE FROM federation.federation_peer_keys WHERE id <> ALL(%s)", [row[0] for row in rows])
    for key_id, sealed, csr in rows:
        promoted.execute(
            "UPDATE federation.federation_peer_keys SET client_key_pem = %s, csr_der = %s WHERE id = %s", sealed, csr, key_id
        )
    # Not in this loop: grants, which lives in it too, may hold such a row while it waits for its own next statement.
    await asyncio.to_thread(promoted.execute, "DELETE FROM federation.federation_replicas WHERE id <> %s", replica)
    if promoted.apps.get(GRANTS) is not running:
        await restart(promoted, PROMOTED)


async def start(gateway: Gateway, secrets: Secrets) -> None:
    gateway.instead[GRANTS] = composed_with(secrets)
    await gateway.start(GRANTS)
    await Seals(gateway).until_seen(1)


async def restart(gateway: Gateway, secrets: Secrets) -> None:
    if GRANTS in gateway.apps:
        await gateway.stop(GRANTS)
    await start(gateway, secrets)


def subject(home: Gateway) -> UUID:
    [(user_id,)] = home.rows("SELECT id FROM public.users WHERE email = %s", SUBJECT)
    return UUID(str(user_id))


def under(home: Gateway, secrets: Secrets) -> int:
    return sum(sealed.startswith(f"v2.{secrets.key_id}.") for _, sealed in home.rows(KEYS))


async def keys_of(home: Gateway) -> dict[str, bytes]:
    return await Credentials(home, subject(home)).read()


async def test_status_says_which_key_rows_are_under_and_who_reads_which(home: Gateway) -> None:
    """Before a rotation's last phase: every row under the old key, one replica that seals under the new and reads both."""
    status = await Seals(home).status()
    assert (status.current_key_id, status.rows_to_reseal) == (PROMOTED.key_id, 5)
    assert [(key.key_id, key.rows) for key in status.keys] == [(BEFORE.key_id, 5)]
    [replica] = status.replicas
    assert replica.current_key_id == PROMOTED.key_id
    assert list(replica.readable_key_ids) == list(status.readable_key_ids) == sorted({BEFORE.key_id, PROMOTED.key_id})
    assert replica.started_at_us <= replica.seen_at_us


async def test_every_row_is_sealed_anew_in_batches_that_are_recorded(home: Gateway) -> None:
    """Two at a time until none is left; each opens to the same key as before; a row of the log for each batch that changed any."""
    before, seals, already = await keys_of(home), Seals(home), len(home.audit("keys.resealed"))
    steps = [await seals.reseal(PROMOTED.key_id, 2) for _ in range(4)]
    assert [(step.resealed, step.remaining, list(step.broken_row_ids)) for step in steps] == [
        (2, 3, []),
        (2, 1, []),
        (1, 0, []),
        (0, 0, []),
    ]
    assert under(home, PROMOTED) == 5
    assert await keys_of(home) == before
    assert list(before) == NAMES
    recorded = [
        (row["actor"], row["outcome"], row["result_count"], row["resource"]) for row in home.audit("keys.resealed")[already:]
    ]
    assert recorded == [("otto", "allowed", count, PROMOTED.key_id) for count in (2, 2, 1)]
    await restart(home, Secrets(NEW))
    assert await keys_of(home) == before, "the new secret alone opens them all"


@pytest.mark.parametrize(
    ("current", "readable", "says"),
    [
        pytest.param(BEFORE, [BEFORE], "cannot read it", id="a replica that was not given the new secret"),
        pytest.param(
            BEFORE, [BEFORE, PROMOTED], "still seals under", id="a replica that reads it, and goes on sealing under the old"
        ),
    ],
)
async def test_refuses_while_a_replica_is_not_ready(
    home: Gateway, current: Secrets, readable: Sequence[Secrets], says: str
) -> None:
    """Whoever cannot read the new key, or writes under another, is named with what to do; no row changes, and the log says why."""
    behind, before = uuid4(), home.rows(KEYS)
    announce(home, behind, current, readable, age="29 seconds")
    refused = await refusal(Seals(home).reseal(PROMOTED.key_id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SEALING_KEY_NOT_READABLE")
    assert f"replica {behind} {says}" in refused.message
    assert "MOSAIC_SEALING_KEY_PREVIOUS" in refused.metadata["remediation"]
    assert home.rows(KEYS) == before
    last = home.audit("keys.resealed")[-1]
    assert (last["outcome"], last["denied_reason"], last["actor"]) == ("denied", "SEALING_KEY_NOT_READABLE", "otto")


async def test_waits_for_nobody_who_is_gone(home: Gateway) -> None:
    """A replica that said nothing for half a minute was killed: it holds up no rotation, and after an hour is forgotten."""
    announce(home, uuid4(), BEFORE, [BEFORE], age="31 seconds")
    announce(home, uuid4(), BEFORE, [BEFORE], age="61 minutes")
    assert (await Seals(home).reseal(PROMOTED.key_id)).resealed == 5
    await restart(home, PROMOTED)
    [(rows,)] = home.rows("SELECT count(*) FROM federation.federation_replicas WHERE seen_at < now() - interval '30 minutes'")
    assert rows == 0


async def test_refuses_a_key_that_the_replica_asked_does_not_seal_under(home: Gateway) -> None:
    """Behind a balancer another replica may answer than the one that named the key."""
    refused = await refusal(Seals(home).reseal(BEFORE.key_id))
    assert (refused.reason, refused.metadata["http_status"]) == ("SEALING_KEY_NOT_READABLE", "400")
    assert f"the replica that was asked seals under {PROMOTED.key_id}" in refused.message


@pytest.mark.parametrize(
    ("key_id", "batch_size", "field"),
    [
        pytest.param("", 0, "key_id", id="no key"),
        pytest.param("v2", 0, "key_id", id="not a key id"),
        pytest.param("F" * 16, 0, "key_id", id="not as it is spelled"),
        pytest.param("0" * 16, -1, "batch_size", id="a negative batch"),
        pytest.param("0" * 16, 1001, "batch_size", id="a batch that would hold locks too long"),
    ],
)
async def test_refuses_orders_that_mean_nothing(home: Gateway, key_id: str, batch_size: int, field: str) -> None:
    """INVALID_ARGUMENT, naming the field."""
    refused = await refusal(Seals(home).reseal(key_id, batch_size))
    assert (refused.code, refused.reason, set(refused.violations)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_INVALID",
        {field},
    )
    assert under(home, BEFORE) == 5


async def test_rows_that_do_not_open_are_named_left_and_hide_nothing(home: Gateway) -> None:
    """Overwritten, under a lost secret, beside another's CSR or none: left as they are, while all others are sealed anew."""
    rows = home.rows(KEYS)
    bare, overwritten, foreign, swapped, sound = (key_id for key_id, _ in rows)
    home.execute("UPDATE federation.federation_peer_keys SET csr_der = %s WHERE id = %s", b"no CSR", bare)
    damage(home, overwritten, "nothing that was ever sealed")
    damage(home, foreign, rows[2][1].replace(BEFORE.key_id, "0" * 16))
    home.execute(
        """UPDATE federation.federation_peer_keys SET csr_der =
               (SELECT csr_der FROM federation.federation_peer_keys WHERE id = %s) WHERE id = %s""",
        sound,
        swapped,
    )
    left = {key_id: sealed for key_id, sealed in home.rows(KEYS) if key_id != sound}
    seals = Seals(home)
    first, second = await seals.reseal(PROMOTED.key_id, 1), await seals.reseal(PROMOTED.key_id, 1)
    assert (first.resealed, first.remaining, second.resealed, second.remaining) == (1, 4, 0, 4)
    assert set(first.broken_row_ids) == set(second.broken_row_ids) == {bare, overwritten, foreign, swapped}
    assert {key_id: sealed for key_id, sealed in home.rows(KEYS) if key_id != sound} == left
    assert under(home, PROMOTED) == 1
    status = await seals.status()
    assert {key.key_id: key.rows for key in status.keys} == {
        "none": 1,
        "0" * 16: 1,
        BEFORE.key_id: 2,
        PROMOTED.key_id: 1,
    }
    assert status.rows_to_reseal == 4


async def test_two_rotations_at_once_share_the_work(home: Gateway) -> None:
    """Each row is sealed anew by one of them; neither takes the other's rows for rows that do not open."""
    before, one, other = await keys_of(home), Seals(home), Seals(home)

    async def rotate(seals: Seals) -> int:
        done = 0
        while (step := await seals.reseal(PROMOTED.key_id, 1)).resealed:
            done += step.resealed
            assert not step.broken_row_ids
        assert step.remaining == 0
        return done

    assert sum(await asyncio.gather(rotate(one), rotate(other))) == 5
    assert await keys_of(home) == before


async def test_waits_for_a_connection_that_is_being_changed(home: Gateway) -> None:
    """A change holds the peer and then its key: a batch takes them in the same order, waits, and neither ends the other."""
    [(peer_id, key_id)] = home.rows("SELECT peer_id, id FROM federation.federation_peer_keys ORDER BY peer_id LIMIT 1")
    with psycopg.connect(home.database.url("mosaic_grants")) as change:
        change.execute("SELECT FROM federation.federation_peers WHERE id = %s FOR NO KEY UPDATE", (peer_id,))
        batch = asyncio.ensure_future(Seals(home).reseal(PROMOTED.key_id))
        await until_waiting(home)
        change.execute("UPDATE federation.federation_peer_keys SET token_id = %s WHERE id = %s", (bytes(32), key_id))
        change.commit()
    assert (await batch).resealed == 5
    assert under(home, PROMOTED) == 5
    [(token_id,)] = home.rows("SELECT token_id FROM federation.federation_peer_keys WHERE id = %s", key_id)
    assert token_id == bytes(32), "the change is not lost"


async def test_a_replica_that_starts_meanwhile_sees_the_rows_or_is_seen(home: Gateway, ledger: PostgresLedger) -> None:
    """It announces itself before it looks at the rows, and no batch commits between: so none starts with a secret too old."""
    late = Presence(ledger, BEFORE.keys)
    async with ledger.transaction() as tx:
        await tx.seals.list_replicas(locked=True)
        starting = asyncio.ensure_future(late.begin())
        await until_waiting(home)
        [row] = await tx.seals.list_others_locked(PROMOTED.key_id, after=None, limit=1)
        assert await tx.seals.replace(row, row.sealed.replace(BEFORE.key_id, PROMOTED.key_id))
    with pytest.raises(ConfigurationError, match=f"1 private key in the database is sealed under {PROMOTED.key_id}"):
        await starting


async def test_what_a_lagging_replica_wrote_is_found_by_a_second_look(home: Gateway) -> None:
    """A key made under the old secret after the rows were resealed stands in the status; it is resealed once that one is gone."""
    seals, lagging = Seals(home), another(home)
    assert (await seals.reseal(PROMOTED.key_id)).remaining == 0
    try:
        lagging.instead[GRANTS] = composed_with(Secrets(OLD, next=NEW))
        await lagging.start(GRANTS)
        await seals.until_seen(2)
        await prepare(lagging, "late")
        status = await seals.status()
        assert (status.rows_to_reseal, under(home, BEFORE)) == (1, 1)
        assert (await refusal(seals.reseal(PROMOTED.key_id))).reason == "SEALING_KEY_NOT_READABLE"
    finally:
        await lagging.close()
    await seals.until_seen(1)
    step = await seals.reseal(PROMOTED.key_id)
    assert (step.resealed, step.remaining) == (1, 0)


@pytest.fixture
async def ledger(home: Gateway) -> AsyncIterator[PostgresLedger]:
    """Another process's way into home's ledger."""
    signer = HeadSigner((home.pki / GRANTS / "audit.key").read_bytes())
    opened = PostgresLedger(home.database.url("mosaic_grants"), AuditLog(signer, SystemClock()))
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("secrets", "resealed", "missing"),
    [
        pytest.param(BEFORE, 0, None, id="before"),
        pytest.param(Secrets(OLD, next=NEW), 2, None, id="readable everywhere"),
        pytest.param(PROMOTED, 2, None, id="promoted"),
        pytest.param(Secrets(NEW), 5, None, id="done"),
        pytest.param(Secrets("somebody else's secret, of more than 32 bytes"), 0, BEFORE, id="a wrong secret"),
        pytest.param(Secrets(NEW), 0, BEFORE, id="promoted without the former one"),
        pytest.param(Secrets(NEW), 4, BEFORE, id="the former one taken away before the last row"),
        pytest.param(BEFORE, 1, PROMOTED, id="gone back to the former one after the first row"),
    ],
)
async def test_starts_only_when_every_row_can_be_opened(
    home: Gateway, ledger: PostgresLedger, secrets: Secrets, resealed: int, missing: Secrets | None
) -> None:
    """One sentence names the key that is missing and the variables, never a secret. A row that was overwritten stops nobody."""
    if resealed:
        assert (await Seals(home).reseal(PROMOTED.key_id, resealed)).resealed == resealed
    damage(home, home.rows(KEYS)[0 if missing is not PROMOTED else -1][0], "nothing that was ever sealed")
    presence = Presence(ledger, secrets.keys)
    if missing is None or under(home, missing) == 0:
        await presence.begin()
        return
    with pytest.raises(ConfigurationError) as stopped:
        await presence.begin()
    said = str(stopped.value)
    for named in (missing.key_id, f"{under(home, missing)} private key", "MOSAIC_SEALING_KEY", "BETTER_AUTH_SECRET", "_PREVIOUS"):
        assert named in said
    for secret in (secrets.current, OLD, NEW):
        assert secret not in said


async def test_a_clean_stop_is_announced(home: Gateway) -> None:
    """Nobody waits half a minute for a replica that ended in order."""
    await home.stop(GRANTS)
    assert home.rows("SELECT count(*) FROM federation.federation_replicas") == [(0,)]


def announce(home: Gateway, replica_id: UUID, current: Secrets, readable: Sequence[Secrets], *, age: str) -> None:
    home.execute(
        """INSERT INTO federation.federation_replicas (id, seen_at, current_key_id, readable_key_ids)
           VALUES (%s, now() - %s::interval, %s, %s)""",
        replica_id,
        age,
        current.key_id,
        [each.key_id for each in readable],
    )


def damage(home: Gateway, key_id: str, sealed: str) -> None:
    home.execute("UPDATE federation.federation_peer_keys SET client_key_pem = %s WHERE id = %s", sealed, key_id)


async def prepare(at: Gateway, name: str) -> None:
    request = grants_pb2.PrepareConnectionRequest(
        user=str(subject(at)), remote_gateway=name, common_name=at.name, enrollment_address="https://127.0.0.1:9"
    )
    await at.peers.PrepareConnection(request, metadata=at.operator_metadata())
