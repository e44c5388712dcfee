"""Fixtures of the test bed. `pair` is one pair of gateways per module, seeded like a small company's two sites."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_cli.dev.seed import seed

from tests.support.gateway import VALKEY_PASSWORDS, Gateway, Pair, running
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey"), passwords=VALKEY_PASSWORDS) as running_valkey:
        yield running_valkey


@pytest.fixture(scope="module")
async def pair(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    """Two running gateways with seed data."""
    async with AsyncExitStack() as stack:
        # Databases first, so that they are dropped last: a drop waits for every backend, also for one whose client,
        # a service in this very loop, is still logging in.
        databases = {name: stack.enter_context(postgres_server.fresh()) for name in ("home", "work")}
        gateways: dict[str, Gateway] = {}
        for name, database in databases.items():
            seed(database.url("mosaic_owner"), name, now=datetime.now(UTC))
            folder: Path = tmp_path_factory.mktemp(name)
            gateways[name] = await stack.enter_async_context(running(Gateway(name, folder, database, valkey)))
        yield Pair(**gateways)
