"""A gateway whose housekeeping happens when the test says so, and never by itself."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import mosaic_grants.app
import pytest
from cryptography import x509
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.audit import HeadSigner
from mosaic_common.config import load
from mosaic_common.identity import CA_BROKER, EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR
from mosaic_common.rpc.application import Application
from mosaic_grants.adapters.audit_log import AuditLog
from mosaic_grants.adapters.ca_broker import Broker
from mosaic_grants.adapters.ledger.database import PostgresLedger
from mosaic_grants.config import Config
from mosaic_grants.domain.revocations import Authority, Revocations
from mosaic_grants.domain.sweeps import Sweeps

from tests.support.fixtures import valkey
from tests.support.gateway import Gateway, running
from tests.support.health import serving
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["Housekeeper", "keeper", "listed", "postgres_server", "quiet_grants", "valkey", "work"]


class _Resting:
    """In the place of Sweeps and Revocations."""

    def __init__(self, *_: object, **__: object) -> None: ...

    async def run_once(self) -> None: ...

    async def tell(self) -> int:
        return 0

    async def compare(self) -> None: ...


def quiet_grants(gateway: Gateway) -> Application:
    """Grants as its own composition root makes it; neither sweeps nor revocations happen by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mosaic_grants.app, "Sweeps", _Resting)
        patch.setattr(mosaic_grants.app, "Revocations", _Resting)
        return mosaic_grants.app.build(load(Config, gateway.environment(GRANTS)), gateway.clock)


@dataclass(frozen=True, slots=True)
class Housekeeper:
    """Another replica of grants, of which only the housekeeping is there."""

    gateway: Gateway
    ledger: PostgresLedger
    sweeps: Sweeps
    revocations: Revocations
    broker: grpc.aio.Channel

    def believing(self, authority: Authority) -> Revocations:
        """The same ledger, with another authority behind it."""
        return Revocations(
            self.ledger, authority, self.gateway.clock, federation_root=(self.gateway.folder / "ca" / "root.pem").read_bytes()
        )


async def listed(keeper: Housekeeper) -> frozenset[int]:
    """The serials on the list that the ledger holds, which was verified."""
    [(der,)] = keeper.gateway.rows("SELECT der FROM federation.federation_revocation_list")
    return frozenset(entry.serial_number for entry in x509.load_der_x509_crl(der))


@pytest.fixture(scope="module")
async def work(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """All five services of one gateway, with nobody in it but who a test puts there."""
    with postgres_server.fresh() as database:
        gateway = Gateway("work", tmp_path_factory.mktemp("work"), database, valkey, instead={GRANTS: quiet_grants})
        async with running(gateway):
            await serving(gateway.internal_channel(ENROLLMENT, caller=OPERATOR), CA_BROKER, GRANTS)
            await serving(gateway.internal_channel(EDGE_INBOUND, caller=OPERATOR), GRANTS, "postgres")
            yield gateway


@pytest.fixture(scope="module")
async def keeper(work: Gateway) -> AsyncIterator[Housekeeper]:
    audit = AuditLog(HeadSigner((work.pki / GRANTS / "audit.key").read_bytes()), work.clock)
    ledger = PostgresLedger(work.database.url("mosaic_grants"), audit)
    await ledger.open()
    broker = work.internal_channel(CA_BROKER, caller=GRANTS)
    root = (work.folder / "ca" / "root.pem").read_bytes()
    revocations = Revocations(ledger, Broker(broker), work.clock, federation_root=root)
    yield Housekeeper(work, ledger, Sweeps(ledger, work.clock), revocations, broker)
    await ledger.close()
