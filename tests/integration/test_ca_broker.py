"""The broker as a process sees it: real listener, service PKI, embedded authority."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from mosaic.ca.v1 import certificate_authority_pb2 as pb
from mosaic.ca.v1.certificate_authority_pb2_grpc import CertificateAuthorityServiceStub
from mosaic_ca_broker.adapters import embedded_ca_folder
from mosaic_ca_broker.app import build
from mosaic_ca_broker.config import parse_config
from mosaic_common import pki
from mosaic_common.clock import SystemClock
from mosaic_common.crl import RevocationList, verify_revocation_list
from mosaic_common.errors import MosaicError, Reason, RevocationListRefused
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS
from mosaic_common.rpc.client import ClientTls, answer_of, service_channel
from mosaic_common.warrants import WarrantSigner
from mosaic_common.x509 import draw_serial

from tests.support.authorities import LyingAuthority
from tests.support.orders import SigningOrder

GATEWAY = "work"
CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker."""

    pki: pki.PkiDirectory
    ca: Path
    address: str

    def channel(self, identity: str) -> grpc.aio.Channel:
        tls = ClientTls.of_service(self.pki.identity(identity).path)
        return service_channel(self.address, identity=CA_BROKER, gateway=GATEWAY, tls=tls)

    def warrant(self, order: SigningOrder) -> str:
        return WarrantSigner(self.pki.identity(GRANTS).warrant_key.read_bytes()).sign(order.warrant)


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    pki.init(folder / "pki", GATEWAY, "127.0.0.1", clock=CLOCK)
    embedded_ca_folder.init(folder / "ca", now=CLOCK.now())
    directory = pki.PkiDirectory(folder / "pki")
    config = parse_config(
        {
            "MOSAIC_ENV": "dev",
            "MOSAIC_GATEWAY": GATEWAY,
            "MOSAIC_PKI_DIR": str(directory.identity(CA_BROKER).path),
            "MOSAIC_INTERNAL_LISTEN": "127.0.0.1:1",
            "MOSAIC_EMBEDDED_CA_DIR": str(folder / "ca"),
        }
    )
    application = build(config, CLOCK)
    (internal,) = application.listeners
    internal.address = "127.0.0.1:0"  # any free port, which no configuration may ask for
    await application.start()
    yield Broker(directory, folder / "ca", f"127.0.0.1:{internal.port}")
    await application.stop()


async def test_issues_what_a_warrant_orders(broker: Broker) -> None:
    """Enrollment gets leaf and intermediate, without the root, exactly as ordered."""
    order = SigningOrder.make()
    async with broker.channel(ENROLLMENT) as channel:
        request = pb.IssueCertificateRequest(csr_der=order.csr.der, warrant=broker.warrant(order))
        answer = await answer_of(CertificateAuthorityServiceStub(channel).IssueCertificate(request), dependency=CA_BROKER)
    root_pem = (broker.ca / "root.pem").read_bytes()
    assert order.verify([answer.certificate_der, *answer.chain_der], root_pem).serial == order.warrant.serial
    assert len(answer.chain_der) == 1


async def test_says_that_a_spent_warrant_may_have_signed(broker: Broker) -> None:
    """The ambiguity reaches enrollment as data, so that it keeps the claim."""
    order = SigningOrder.make()
    async with broker.channel(ENROLLMENT) as channel:
        stub = CertificateAuthorityServiceStub(channel)
        request = pb.IssueCertificateRequest(csr_der=order.csr.der, warrant=broker.warrant(order))
        await stub.IssueCertificate(request)
        with pytest.raises(MosaicError) as refusal:
            await answer_of(stub.IssueCertificate(request), dependency=CA_BROKER)
    assert refusal.value.reason is Reason.CA_REFUSED
    assert refusal.value.metadata["ca_may_have_signed"] == "true"


async def test_revokes_twice(broker: Broker) -> None:
    """Grants may repeat a revocation that it is not sure of."""
    async with broker.channel(GRANTS) as channel:
        for _ in range(2):
            request = pb.RevokeCertificateRequest(serial="340282366920938463463374607431768211455", reason="lost")
            await answer_of(CertificateAuthorityServiceStub(channel).RevokeCertificate(request), dependency=CA_BROKER)
    assert (broker.ca / "revoked" / "340282366920938463463374607431768211455").exists()


@pytest.mark.parametrize("serial", ["", "0", "-1", "0x1", "1\n", "../used", "9" * 40], ids=repr)
async def test_refuses_a_serial_that_is_none(broker: Broker, serial: str) -> None:
    """A positive decimal number or a violation that says so; nothing of it becomes a path or a request."""
    async with broker.channel(GRANTS) as channel:
        call = CertificateAuthorityServiceStub(channel).RevokeCertificate(pb.RevokeCertificateRequest(serial=serial))
        with pytest.raises(MosaicError) as refusal:
            await answer_of(call, dependency=CA_BROKER)
    assert refusal.value.reason is Reason.REQUEST_INVALID
    assert [violation.field for violation in refusal.value.violations] == ["serial"]


async def list_of(broker: Broker) -> RevocationList:
    """What grants believes of the broker's answer."""
    async with broker.channel(GRANTS) as channel:
        call = CertificateAuthorityServiceStub(channel).GetRevocationList(pb.GetRevocationListRequest())
        answer = await answer_of(call, dependency=CA_BROKER)
    root_pem = (broker.ca / "root.pem").read_bytes()
    return verify_revocation_list(answer.crl_der, answer.chain_der, root_pem=root_pem, now=CLOCK.now())


async def test_passes_on_the_revocation_list(broker: Broker) -> None:
    """Grants can verify it for itself, sees what it revoked, and a number that grows with it."""
    before = await list_of(broker)
    serial = draw_serial()
    async with broker.channel(GRANTS) as channel:
        request = pb.RevokeCertificateRequest(serial=str(serial), reason="grant revoked")
        await answer_of(CertificateAuthorityServiceStub(channel).RevokeCertificate(request), dependency=CA_BROKER)
    after = await list_of(broker)
    assert after.serials == before.serials | {serial}
    assert after.number > before.number


async def test_passes_on_no_list_that_it_cannot_verify(broker: Broker) -> None:
    """A list by another authority ends here, as a typed error with a remedy."""
    published = broker.ca / "revocation-list.der"
    await list_of(broker)
    honest = published.read_bytes()
    number = x509.load_der_x509_crl(honest).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    revoked = [int(path.name) for path in (broker.ca / "revoked").iterdir()]
    published.write_bytes(LyingAuthority.make(CLOCK.now()).publish(revoked, number=number))
    try:
        with pytest.raises(RevocationListRefused) as refusal:
            await list_of(broker)
    finally:
        published.write_bytes(honest)
    assert refusal.value.reason is Reason.REVOCATION_LIST_REFUSED
    assert refusal.value.remedy
