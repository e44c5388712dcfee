"""PostgreSQL on the same machine, asked by its Unix socket and not by TCP."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from mosaic_cli.dev.embedded import EmbeddedPostgres, EmbeddedValkey
from mosaic_common.identity import EDGE_INBOUND, EDGE_OUTBOUND, GRANTS, OPERATOR
from mosaic_grants.adapters.schema.names import OWNER
from mosaic_grants.adapters.upgrade import bootstrap, upgrade

from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.postgres import PASSWORDS, Database

SERVICES: Final = (GRANTS, EDGE_INBOUND, EDGE_OUTBOUND)
READY_SECONDS: Final = 15.0


@pytest.fixture
def by_socket(tmp_path: Path) -> Iterator[Database]:
    """A database that is not there yet. The socket's folder has a short name: the kernel takes no long one."""
    with (
        tempfile.TemporaryDirectory(prefix="sockets-") as sockets,
        EmbeddedPostgres(tmp_path / "postgres", durable=False, socket_folder=Path(sockets)) as server,
    ):
        yield Database("mosaic", server.socket_url_of("mosaic"))


async def test_everything_that_has_a_database_url_takes_a_socket(
    by_socket: Database, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """Bootstrap, upgrade and each service: no session is one of TCP."""
    bootstrap(by_socket.superuser_url, PASSWORDS)
    upgrade(by_socket.url(OWNER))
    gateway = Gateway("work", tmp_path, by_socket, valkey)
    gateway.prepare()
    await gateway.start(*SERVICES)
    try:
        async with asyncio.timeout(READY_SECONDS):
            for service in SERVICES:
                await serving(gateway.internal_channel(service, caller=OPERATOR), "postgres")
        with by_socket.connect_superuser() as superuser:
            sessions = superuser.execute(
                "SELECT usename, client_addr FROM pg_stat_activity WHERE backend_type = 'client backend'"
            ).fetchall()
    finally:
        await gateway.close()
    assert {user for user, _ in sessions} >= {"mosaic_grants", "mosaic_edge_inbound", "mosaic_edge_outbound"}
    assert {address for _, address in sessions} == {None}
