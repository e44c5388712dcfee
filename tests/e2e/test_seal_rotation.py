"""Acceptance 8: `mosaic seal rotate` while keys are read and made, killed in the middle, and run again.

Two replicas of grants, each its own process. `make stress` kills one more often, over more keys.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import grpc
import psycopg
import pytest
from mosaic_cli.contexts import Context, Contexts, save
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_cli.dev.seed import seed
from mosaic_common.identity import GRANTS, OPERATOR

from tests.support.gateway import Gateway
from tests.support.grants_replicas import (
    Credentials,
    GrantsProcess,
    Seals,
    Secrets,
    another,
    make_connections,
    until_waiting,
)
from tests.support.postgres import Database

OLD, NEW = "the former secret, of more than 32 bytes", "the coming secret, of more than 32 bytes"
READABLE, PROMOTED, DONE = Secrets(OLD, next=NEW), Secrets(NEW, previous=OLD), Secrets(NEW)
# At once, so that one is signed for here while another's key is made there.
MAKERS = 4


@dataclass(frozen=True, slots=True)
class Size:
    """How much is rotated, and how often a replica is killed meanwhile."""

    keys: int
    kills: int
    readers: int
    batch: int


SMALL = Size(keys=60, kills=1, readers=2, batch=10)
LARGE = Size(keys=600, kills=10, readers=6, batch=20)


@dataclass(slots=True)
class Load:
    """What was asked of a replica while the other one rotated.

    Attributes:
        wrong: every answer that was not exactly the key that was asked for.
    """

    reads: int = 0
    made: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Site:
    """One gateway with two replicas of grants."""

    home: Gateway
    one: GrantsProcess
    two: GrantsProcess
    user_id: UUID

    def rows(self, secrets: Secrets) -> int:
        """How many keys are sealed under the current one of these secrets."""
        pattern = f"v2.{secrets.key_id}.%"
        statement = "SELECT count(*) FROM federation.federation_peer_keys WHERE client_key_pem LIKE %s"
        [(count,)] = self.home.rows(statement, pattern)
        return int(count)

    async def rotate(self, *options: str) -> tuple[int, str, str]:
        """Run the command against replica one; return exit code, stdout and stderr."""
        pki, contexts = self.home.pki / OPERATOR, self.home.folder / "contexts.json"
        address = self.one.at.addresses[GRANTS, "operator"]
        context = Context("home", address, address, pki / "service-root.pem", jwt_key=pki / "jwt.key")
        save(contexts, Contexts("home", {"home": context}))
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home.folder), "MOSAIC_CONTEXTS": str(contexts)}
        command = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "mosaic_cli", "seal", "rotate", "-o", "json", *options),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await command.communicate()
        assert command.returncode is not None
        return command.returncode, out.decode(), error.decode()

    @contextmanager
    def commits_of_one_held_up(self) -> Iterator[None]:
        """A batch of replica one comes as far as its audit row, and no further."""
        with psycopg.connect(self.home.database.url("mosaic_owner")) as connection:
            connection.execute(
                """SELECT FROM federation.federation_audit_chains WHERE chain_id =
                       (SELECT chain_id FROM federation.federation_audit_log WHERE event = 'keys.resealed'
                        ORDER BY time_us DESC LIMIT 1)
                   FOR NO KEY UPDATE"""
            )
            yield

    @asynccontextmanager
    async def loaded(self, expected: dict[str, bytes], readers: int) -> AsyncIterator[Load]:
        """Meanwhile replica two is asked for keys, one after the other, and makes new ones."""
        load, ended = Load(), asyncio.Event()

        async def read() -> None:
            credentials, names = Credentials(self.two.at, self.user_id), list(expected)
            while not ended.is_set():
                name = random.choice(names)
                try:
                    found = await credentials.read(name)
                except grpc.RpcError as error:
                    load.wrong.append(f"{name}: {error}")
                else:
                    load.reads += 1
                    if found != {name: expected[name]}:
                        load.wrong.append(f"{name}: {list(found)}")

        async def make() -> None:
            while not ended.is_set():
                await make_connections(self.two.at, self.user_id, [f"meanwhile{load.made}"])
                load.made += 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(readers):
                tasks.create_task(read())
            tasks.create_task(make())
            try:
                yield load
            finally:
                ended.set()


@pytest.fixture
async def site(database: Database, valkey: EmbeddedValkey, tmp_path: Path) -> AsyncIterator[Site]:
    seed(database.url("mosaic_owner"), "home", now=datetime.now(UTC))
    home = Gateway("home", tmp_path, database, valkey)
    home.prepare()
    one, two = (GrantsProcess(another(home), tmp_path / f"grants-{number}.log") for number in ("one", "two"))
    [(user_id,)] = home.rows("SELECT id FROM public.users WHERE email = 'maya@example.com'")
    try:
        yield Site(home, one, two, user_id)
    finally:
        for replica in (one, two):
            await replica.at.close()
            await replica.stop()


async def test_no_read_fails_and_no_key_is_lost(site: Site) -> None:
    """Refused until every replica seals under the new secret; killed, it loses only the batch that was not committed, and run
    again it completes; every read gives the right key. Then the new secret alone is enough, and the old one alone starts nothing.
    """
    await _rotated_under_load(site, SMALL)


@pytest.mark.stress
async def test_no_read_fails_and_no_key_is_lost_under_stress(site: Site) -> None:
    """The same over hundreds of keys, with a kill every few batches."""
    await _rotated_under_load(site, LARGE)


async def _rotated_under_load(site: Site, size: Size) -> None:
    # 1. Replica one is promoted, replica two is not yet: it made all keys, and would make more.
    await asyncio.gather(site.one.start(PROMOTED), site.two.start(READABLE))
    names = [f"c{number}" for number in range(size.keys)]
    await asyncio.gather(*(make_connections(site.two.at, site.user_id, names[first::MAKERS]) for first in range(MAKERS)))
    expected = await Credentials(site.two.at, site.user_id).read()
    assert (len(expected), site.rows(READABLE)) == (size.keys, size.keys)
    await Seals(site.one.at).until_seen(2)
    code, _, said = await site.rotate()
    assert (code, "SEALING_KEY_NOT_READABLE" in said, site.rows(PROMOTED)) == (1, True, 0), said
    await site.two.stop()
    await site.two.start(PROMOTED)

    async with site.loaded(expected, size.readers) as load:
        # 2. Killed with a batch done and another not committed, again and again.
        for _ in range(size.kills):
            await _killed_in_the_middle(site, size.batch)
        # 3. Run once more.
        code, out, said = await site.rotate()
        assert (code, json.loads(out)["remaining"]) == (0, 0), said
    assert load.wrong == []
    assert load.reads > size.keys, "the rotation was not alone"
    assert load.made
    assert (site.rows(READABLE), site.rows(PROMOTED)) == (0, size.keys + load.made)

    # 4. Without the former secret everything opens; with it alone nothing starts.
    await asyncio.gather(site.one.stop(), site.two.stop())
    _, (code, said) = await asyncio.gather(site.one.start(DONE), site.two.fail(Secrets(OLD)))
    found = await Credentials(site.one.at, site.user_id).read()
    assert {name: pem for name, pem in found.items() if name in expected} == expected
    assert len(found) == size.keys + load.made
    sentence = said.splitlines()[-1]
    assert (code, sentence) == (
        1,
        f"grants: The sealing secret is not the right one: {size.keys + load.made} private keys in the database are sealed under "
        f"{DONE.key_id}, which neither MOSAIC_SEALING_KEY nor its _NEXT or _PREVIOUS (nor BETTER_AUTH_SECRET and its own) opens; "
        "give the secret that they were sealed under as _PREVIOUS.",
    )
    everything = site.one.log.read_text() + site.two.log.read_text()
    assert not [secret for secret in (OLD, NEW, "PRIVATE KEY", "Traceback") if secret in everything]


async def _killed_in_the_middle(site: Site, batch: int) -> None:
    """One batch is committed; the next has written its rows when the process is killed: they are as they were."""
    assert (await Seals(site.one.at).reseal(PROMOTED.key_id, batch)).resealed == batch
    left = site.rows(READABLE)
    with site.commits_of_one_held_up():
        command = asyncio.ensure_future(site.rotate("--batch-size", str(batch)))
        await until_waiting(site.home, "append_audit")
        await site.one.kill()
    code, _, said = await command
    assert (code, site.rows(READABLE)) == (1, left), said
    await site.one.start(PROMOTED)
