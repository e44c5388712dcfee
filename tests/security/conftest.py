"""Fixtures of the attacks: one serving gateway per module, with nobody in it but who a test puts there."""

from collections.abc import AsyncIterator

import pytest
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR

from tests.support.fixtures import valkey
from tests.support.gateway import Gateway, running
from tests.support.health import serving
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server", "valkey", "work"]


@pytest.fixture(scope="module")
async def work(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """All five services of one gateway, each sure of those that it needs."""
    with postgres_server.fresh() as database:
        async with running(Gateway("work", tmp_path_factory.mktemp("work"), database, valkey)) as gateway:
            await serving(gateway.internal_channel(ENROLLMENT, caller=OPERATOR), CA_BROKER, GRANTS)
            await serving(gateway.internal_channel(EDGE_INBOUND, caller=OPERATOR), GRANTS, "postgres")
            yield gateway
