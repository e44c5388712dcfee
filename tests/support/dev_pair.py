"""Both gateways of `mosaic dev`, every service its own process, under the typed client of the test bed."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from mosaic_cli.contexts import write_private
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_cli.dev.gateway import DATABASE, LISTENERS, POSTGRES, VALKEY, Kept
from mosaic_cli.dev.gateway import Gateway as DevGateway
from mosaic_cli.dev.seed import seed
from mosaic_cli.dev.supervisor import Supervisor
from mosaic_grants.adapters.schema.names import OWNER

from tests.support.gateway import VALKEY_PASSWORDS, Gateway
from tests.support.postgres import PASSWORDS, Database


@dataclass(frozen=True, slots=True)
class DevPair:
    """Attributes:
    supervisor: of both; plays outages.
    users: gateway → email → id.
    """

    supervisor: Supervisor
    home: Gateway
    work: Gateway
    users: Mapping[str, Mapping[str, UUID]]

    def pids(self, gateway: Gateway) -> dict[str, int | None]:
        """Service → pid, None while it does not run."""
        services = self.supervisor.status()["gateways"][gateway.name]["services"]
        return {name: service["pid"] for name, service in services.items()}

    async def start_service(self, gateway: Gateway, service: str) -> None:
        """Return once it is ready, as `mosaic dev start` does."""
        await asyncio.to_thread(self.supervisor.start_service, gateway.name, service)


@asynccontextmanager
async def dev_pair(folder: Path) -> AsyncIterator[DevPair]:
    """Two running gateways with seed data."""
    sites: tuple[str, str] = ("home", "work")
    for name in sites:
        _choose_passwords_of_tests(folder / name)
    supervisor = Supervisor(folder)
    await asyncio.to_thread(supervisor.start)
    gateways = {name: _client_of(gateway) for name, gateway in supervisor.gateways.items()}
    try:
        users = {name: seed(supervisor.gateways[name].database_url(OWNER), name, now=datetime.now(UTC)).users for name in sites}
        yield DevPair(supervisor, gateways["home"], gateways["work"], users)
    finally:
        for gateway in gateways.values():
            await gateway.close()
        await asyncio.to_thread(supervisor.stop)


def _choose_passwords_of_tests(folder: Path) -> None:
    """A gateway takes up what it finds: so the client, which knows the passwords of the test run, can look into its database."""
    kept = replace(Kept.choose(), database_passwords=PASSWORDS, valkey_passwords=VALKEY_PASSWORDS)
    folder.mkdir(mode=0o700, parents=True)
    write_private(folder / "gateway.json", json.dumps(asdict(kept)))


def _client_of(gateway: DevGateway) -> Gateway:
    password = (gateway.folder / POSTGRES / "superuser.password").read_text()
    superuser_url = f"postgresql://postgres:{password}@{gateway.address(POSTGRES, 'sql')}/{DATABASE}"
    valkey = EmbeddedValkey(gateway.folder / VALKEY, passwords=gateway.kept.valkey_passwords, port=gateway.port(VALKEY, "resp"))
    addresses = {(service, kind): gateway.address(service, kind) for service, kinds in LISTENERS.items() for kind in kinds}
    return Gateway(gateway.name, gateway.folder, Database(DATABASE, superuser_url), valkey, addresses=addresses)
