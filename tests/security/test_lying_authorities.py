"""What is signed instead of what was ordered opens nothing, whoever of the two that touch it lies.

The broker verifies what the authority signed; grants verifies what the broker brought, as if there were no broker.
"""

import re
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import grpc
import mosaic_ca_broker.app
import mosaic_ca_broker.config
import mosaic_ca_broker.methods
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from mosaic.ca.v1 import certificate_authority_pb2 as pb
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.app import Trusted
from mosaic_ca_broker.domain.authority import CertificateAuthority, UnverifiedRevocationList
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.config import load
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS, OPERATOR, service_uri
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID
from mosaic_common.pki import IdentityFolder
from mosaic_common.rpc.application import Application
from mosaic_common.rpc.authenticate import services_of
from mosaic_common.rpc.call import Call
from mosaic_common.rpc.health import Health
from mosaic_common.rpc.methods import Listener
from mosaic_common.rpc.server import GrpcListener, ServerTls
from mosaic_common.warrants import Warrant, WarrantVerifier
from mosaic_common.x509 import Csr, verify_csr
from structlog.testing import capture_logs

from tests.support import authorities as lies
from tests.support.authorities import LyingAuthority
from tests.support.forgeries import authority_of
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.log_lines import lines_written
from tests.support.offers import Offer
from tests.support.peers import Redemption, refusal
from tests.support.postgres import PostgresServer
from tests.support.stepca import running_step_ca

SOMEBODY = UUID("00000000-0000-4000-8000-000000000001")
Lie = Callable[[LyingAuthority, Csr, Warrant], Sequence[bytes]]


def honestly(authority: LyingAuthority, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
    return authority.sign(csr.public_key, warrant)


class Liar:
    """Signs with the gateway's own federation key, and lies when it is told to."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.lie: Lie = honestly
        self.serials: list[int] = []

    def answer(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        self.serials.append(warrant.serial)
        return self.lie(authority_of(self._gateway), csr, warrant)


class LyingCa(Liar):
    """Adapter of CertificateAuthority, behind an honest broker."""

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        return self.answer(csr, warrant)

    async def revoke(self, serial: int, *, reason: str) -> None: ...

    async def revocation_list(self) -> UnverifiedRevocationList:
        authority = authority_of(self._gateway)
        return UnverifiedRevocationList(authority.publish(()), authority.chain_der)

    async def ping(self) -> None: ...
    async def aclose(self) -> None: ...


class LyingBroker(Liar):
    """Whoever broke into ca-broker: its leaf, its key, the authority's ear, and no look at what was signed."""

    async def IssueCertificate(self, request: pb.IssueCertificateRequest, call: Call) -> pb.IssueCertificateResponse:
        pki = IdentityFolder(self._gateway.pki / CA_BROKER)
        warrant = WarrantVerifier(pki.warrant_public_key.read_bytes(), self._gateway.clock).verify(request.warrant)
        leaf, *chain = self.answer(verify_csr(request.csr_der, common_name=warrant.common_name), warrant)
        return pb.IssueCertificateResponse(certificate_der=leaf, chain_der=chain)

    async def RevokeCertificate(self, request: pb.RevokeCertificateRequest, call: Call) -> pb.RevokeCertificateResponse:
        return pb.RevokeCertificateResponse()

    async def GetRevocationList(self, request: pb.GetRevocationListRequest, call: Call) -> pb.GetRevocationListResponse:
        return pb.GetRevocationListResponse()

    async def ping(self) -> None:
        """Says that the authority is well, too."""

    def application(self) -> Application:
        pki, health = IdentityFolder(self._gateway.pki / CA_BROKER), Health({"step-ca": self.ping})
        listener = GrpcListener(
            Listener.INTERNAL,
            self._gateway.addresses[CA_BROKER, "internal"],
            ServerTls(pki.internal_certificate, pki.internal_key, client_roots=pki.service_root),
            mosaic_ca_broker.methods.METHODS,
            services_of(self._gateway.name),
            health=health,
        )
        return Application([listener.serve(self)], health)


def honest_broker(gateway: Gateway, authority: CertificateAuthority) -> Application:
    """The real ca-broker around a given authority; what the gateway trusts is in its `ca/root.pem`."""
    config = load(mosaic_ca_broker.config.Config, gateway.environment(CA_BROKER))
    root = FederationRoot.load(gateway.folder / "ca" / "root.pem", environment="dev")
    return mosaic_ca_broker.app.compose(config, gateway.clock, Trusted(authority, root))


@dataclass(frozen=True, slots=True)
class Deceived:
    """A gateway in which one service, or what stands behind it, lies.

    Attributes:
        found_out_in: the method of the service whose task it is not to believe it.
    """

    gateway: Gateway
    liar: Liar
    found_out_in: str


@contextmanager
def prepared(server: PostgresServer, valkey: EmbeddedValkey, folder: Path) -> Iterator[Gateway]:
    with server.fresh() as database:
        gateway = Gateway("work", folder, database, valkey)
        gateway.prepare()
        yield gateway


@asynccontextmanager
async def enrolling(gateway: Gateway, broker: Application) -> AsyncIterator[Gateway]:
    """Run what an enrollment needs, around this broker."""
    gateway.instead[CA_BROKER] = lambda _gateway: broker
    try:
        await gateway.start(CA_BROKER, GRANTS, ENROLLMENT)
        await serving(gateway.internal_channel(ENROLLMENT, caller=OPERATOR), CA_BROKER, GRANTS)
        yield gateway
    finally:
        await gateway.close()


@pytest.fixture(scope="module", params=["the authority", "the broker"])
async def deceived(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    valkey: EmbeddedValkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Deceived]:
    with prepared(postgres_server, valkey, tmp_path_factory.mktemp("deceived")) as gateway:
        if request.param == "the authority":
            authority = LyingCa(gateway)
            deceived = Deceived(gateway, authority, "/mosaic.ca.v1.CertificateAuthorityService/IssueCertificate")
            broker = honest_broker(gateway, authority)
        else:
            lying = LyingBroker(gateway)
            deceived = Deceived(gateway, lying, "/mosaic.grants.v1.EnrollmentLedgerService/CompleteEnrollment")
            broker = lying.application()
        async with enrolling(gateway, broker):
            yield deceived


@pytest.fixture(autouse=True)
def honest_again(request: pytest.FixtureRequest) -> Iterator[None]:
    """A lie lasts for one test."""
    yield
    if "deceived" in request.fixturenames:
        request.getfixturevalue("deceived").liar.lie = honestly


def telling(*told: lies.Lie) -> Lie:
    return lambda authority, csr, warrant: authority.sign(csr.public_key, warrant, *told)


def a_day_too_long(authority: LyingAuthority, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
    return authority.sign(csr.public_key, warrant, lies.with_not_after(warrant.not_after + timedelta(days=1)))


def under_another_root(authority: LyingAuthority, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
    return LyingAuthority.make(authority.now).sign(csr.public_key, warrant)


def without_the_intermediate(authority: LyingAuthority, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
    return authority.sign(csr.public_key, warrant)[:1]


def the_intermediate_itself(authority: LyingAuthority, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
    return authority.sign(csr.public_key, warrant)[1:]


def no_certificate(authority: LyingAuthority, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
    return [b"\x30\x03\x02\x01\x00"]


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(telling(lies.omit(GRANT_ID_OID)), id="omits the grant"),
        pytest.param(telling(lies.omit(SUBJECT_USER_ID_OID)), id="omits the subject"),
        pytest.param(telling(lies.without_identifiers), id="omits both"),
        pytest.param(telling(lies.swap_identifiers), id="swaps them"),
        pytest.param(telling(lies.with_uuid(GRANT_ID_OID, SOMEBODY)), id="names another grant"),
        pytest.param(telling(lies.with_uuid(SUBJECT_USER_ID_OID, SOMEBODY)), id="names another subject: another's data"),
        pytest.param(telling(lies.double(GRANT_ID_OID)), id="names the grant twice"),
        pytest.param(telling(lies.as_printable_string(GRANT_ID_OID)), id="PrintableString"),
        pytest.param(telling(lies.in_upper_case(SUBJECT_USER_ID_OID)), id="another spelling of the UUID"),
        pytest.param(telling(lies.with_other_key), id="signs another key: whoever holds it is the peer"),
        pytest.param(telling(lies.with_serial(7)), id="another serial: the revocation would miss it"),
        pytest.param(telling(lies.with_subject("somebody")), id="another name"),
        pytest.param(a_day_too_long, id="a day too long"),
        pytest.param(telling(lies.as_authority), id="CA:true"),
        pytest.param(telling(lies.without_eku), id="no EKU"),
        pytest.param(telling(lies.with_eku(ExtendedKeyUsageOID.SERVER_AUTH)), id="serverAuth"),
        pytest.param(telling(lies.with_service_uri(service_uri(GRANTS, "work"))), id="a service's URI"),
        pytest.param(telling(lies.with_extra_extension), id="an extension more"),
        pytest.param(telling(lies.signed_by_stranger), id="another signature"),
        pytest.param(under_another_root, id="another root, which the broker says is ours"),
        pytest.param(without_the_intermediate, id="a chain that leads nowhere"),
        pytest.param(the_intermediate_itself, id="the intermediate itself"),
        pytest.param(no_certificate, id="no certificate"),
    ],
)
async def test_nothing_else_than_what_was_ordered_becomes_active(deceived: Deceived, lie: Lie) -> None:
    """CA_LIED for the peer, one row for the auditor, and grant, peer and pins as if nobody had come."""
    offer = await Offer.make(deceived.gateway)
    deceived.liar.lie = lie

    with capture_logs() as events:
        refused = await refusal(deceived.gateway.redeem(offer.url))
        await lines_written()

    finders = sorted((each["timestamp"], each["method"]) for each in events if each.get("reason") == "CA_LIED")
    assert [method for _, method in finders] == [deceived.found_out_in, "/mosaic.enrollment.v1.EnrollmentService/Enroll"]
    assert (refused.code, refused.reason) == (grpc.StatusCode.DATA_LOSS, "CA_LIED")
    assert refused.metadata["http_status"] == "502"
    assert offer.standing() == ("pending", "pending", 0)
    assert offer.redemptions() == [
        ("enrollment.claimed", "allowed", None, None),
        ("enrollment.refused", "error", "ca", "CA_LIED"),
    ]


async def test_a_certificate_of_another_grant_is_not_this_one(deceived: Deceived) -> None:
    """What was issued rightly, once, to somebody else stays theirs: a replayed certificate pins nothing."""
    other, offer = await Offer.make(deceived.gateway), await Offer.make(deceived.gateway)
    answer = (await deceived.gateway.redeem(other.url)).answer
    deceived.liar.lie = lambda *_: [answer.certificate_der, *answer.chain_der]
    assert (await refusal(deceived.gateway.redeem(offer.url))).reason == "CA_LIED"
    assert offer.standing() == ("pending", "pending", 0)
    assert other.standing() == ("active", "active", 1)


async def test_a_lie_keeps_the_token_for_whoever_was_lied_to(deceived: Deceived) -> None:
    """Nobody knows what was signed: nobody else gets the token, the lied-to may repeat, and the first serial is owed to the CA."""
    offer = await Offer.make(deceived.gateway)
    redemption = Redemption.of(offer.url)
    deceived.liar.lie = telling(lies.with_other_key)
    assert (await refusal(deceived.gateway.enrollment.Enroll(redemption.request))).reason == "CA_LIED"
    lied_about = deceived.liar.serials[-1]

    deceived.liar.lie = honestly
    assert (await refusal(deceived.gateway.redeem(offer.url))).reason == "ENROLLMENT_TOKEN_USED"
    waiting = await refusal(deceived.gateway.enrollment.Enroll(redemption.request))
    assert (waiting.code, waiting.reason) == (grpc.StatusCode.ABORTED, "ENROLLMENT_IN_PROGRESS")
    assert waiting.retry_after_seconds is not None
    assert 0 < waiting.retry_after_seconds <= 120

    deceived.gateway.execute(
        "UPDATE federation.federation_enrollment_tokens SET lease_until = now() WHERE token_id = %s", offer.token_id
    )
    answer = await deceived.gateway.enrollment.Enroll(redemption.request)
    assert x509.load_der_x509_certificate(answer.certificate_der).serial_number == deceived.liar.serials[-1] != lied_about
    assert offer.standing() == ("active", "active", 1)
    assert deceived.gateway.rows(
        "SELECT serial::text FROM federation.federation_ca_outbox WHERE grant_id = %s", offer.grant_id
    ) == [(str(lied_about),)]


# ── what an honest one gives, as openssl sees it ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["embedded", pytest.param("step-ca", marks=pytest.mark.stepca)])
async def issuing(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway on one of the two CA backends."""
    with prepared(postgres_server, valkey, tmp_path / "gateway") as gateway:
        if request.param == "embedded":
            config = load(mosaic_ca_broker.config.Config, gateway.environment(CA_BROKER))
            async with enrolling(gateway, mosaic_ca_broker.app.build(config, gateway.clock)):
                yield gateway
        else:
            with running_step_ca(tmp_path / "step-ca") as server:
                (gateway.folder / "ca" / "root.pem").write_bytes(server.root.pem)
                async with enrolling(gateway, honest_broker(gateway, server.client())):
                    yield gateway


@pytest.mark.openssl
async def test_openssl_sees_whose_the_certificate_is_and_nothing_more(issuing: Gateway, tmp_path: Path) -> None:
    """Both OIDs are UTF8String UUIDs, the grant's id and its subject's; P-256, clientAuth alone; the chain leads to the root."""
    offer = await Offer.make(issuing)
    redeemed = await issuing.redeem(offer.url)
    assert offer.standing() == ("active", "active", 1)
    leaf, chain = tmp_path / "leaf.pem", tmp_path / "chain.pem"
    leaf.write_bytes(redeemed.certificate.public_bytes(Encoding.PEM))
    chain.write_bytes(b"".join(map(lies.to_pem, redeemed.answer.chain_der)))

    text = openssl("x509", "-in", leaf, "-noout", "-text")
    assert "NIST CURVE: P-256" in text
    assert re.findall(r"Extended Key Usage: *\n +(.*)\n", text) == ["TLS Web Client Authentication"]
    assert re.search(r"Key Usage: critical\n +Digital Signature\n", text)
    assert "CA:FALSE" in text
    assert "Subject Alternative Name" not in text
    assert utf8_string_under(GRANT_ID_OID, leaf) == str(offer.grant_id)
    assert utf8_string_under(SUBJECT_USER_ID_OID, leaf) == str(offer.subject)
    root = issuing.folder / "ca" / "root.pem"
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", chain, leaf)


def utf8_string_under(oid: str, leaf: Path) -> str:
    """The one value under an OID, parsed by openssl out of its OCTET STRING."""
    structure = openssl("asn1parse", "-in", leaf)
    (offset,) = re.findall(rf"OBJECT +:{re.escape(oid)}\n +(\d+):d=\d+ +hl=\d+ l= +\d+ prim: +OCTET STRING", structure)
    (value,) = re.findall(r"UTF8STRING +:(.*)", openssl("asn1parse", "-in", leaf, "-strparse", offset))
    return str(value)


def openssl(*arguments: str | Path) -> str:
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True).stdout
