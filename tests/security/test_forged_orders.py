"""Orders that nobody gave: certificates asked for in a CSR, warrants that grants did not sign so, tokens of no operator.

The tables of tests/support/jwts.py are generated from a real warrant and a real token, and sent to the real listeners.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc
import mosaic_ca_broker.app
import mosaic_ca_broker.config
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from mosaic.ca.v1 import certificate_authority_pb2 as pb
from mosaic.ca.v1.certificate_authority_pb2_grpc import CertificateAuthorityServiceStub
from mosaic.grants.v1 import grants_pb2
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.app import Trusted
from mosaic_ca_broker.domain.authority import CertificateAuthority
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.auth import Role, operate_audience
from mosaic_common.config import load
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS, OPERATOR
from mosaic_common.keys import load_p256_private_key
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, encode_uuid
from mosaic_common.warrants import Warrant, WarrantSigner
from mosaic_common.x509 import Csr

from tests.support import csrs
from tests.support.authorities import new_key
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.jwts import Forgery, altered_claims, misshapen_claims, refused_forms, refused_headers
from tests.support.offers import Offer
from tests.support.orders import SigningOrder
from tests.support.peers import Refusal, refusal
from tests.support.postgres import PostgresServer
from tests.support.stepca import running_step_ca

PERMISSION_DENIED, UNAUTHENTICATED = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


@dataclass(slots=True)
class CountingAuthority:
    """A real authority, and how often it was asked to sign."""

    authority: CertificateAuthority
    asked: int = 0

    async def sign(self, csr: Csr, warrant: Warrant) -> Sequence[bytes]:
        self.asked += 1
        return await self.authority.sign(csr, warrant)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.authority, name)


@dataclass(frozen=True, slots=True)
class Issuing:
    """A gateway that enrolls, on one of the two kinds of authority."""

    gateway: Gateway
    authority: CountingAuthority

    @property
    def broker(self) -> Any:
        """What enrollment has of the broker; here somebody who broke into enrollment."""
        return CertificateAuthorityServiceStub(self.gateway.internal_channel(CA_BROKER, caller=ENROLLMENT))

    def warrant(self, order: SigningOrder) -> str:
        return WarrantSigner(self._warrant_key).sign(order.warrant)

    def forgery(self, order: SigningOrder) -> Forgery:
        return Forgery.of(self.warrant(order), load_p256_private_key(self._warrant_key, name="warrant.key"))

    @property
    def _warrant_key(self) -> bytes:
        return (self.gateway.pki / GRANTS / "warrant.key").read_bytes()


@pytest.fixture(scope="module", params=["embedded", pytest.param("step-ca", marks=pytest.mark.stepca)])
async def issuing(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    valkey: EmbeddedValkey,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Issuing]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        gateway = Gateway("work", folder / "gateway", stack.enter_context(postgres_server.fresh()), valkey)
        gateway.prepare()
        config = load(mosaic_ca_broker.config.Config, gateway.environment(CA_BROKER))
        if request.param == "embedded":
            trusted = mosaic_ca_broker.app.open_authority(config, gateway.clock)
        else:
            server = stack.enter_context(running_step_ca(folder / "step-ca"))
            root = gateway.folder / "ca" / "root.pem"
            root.write_bytes(server.root.pem)
            trusted = Trusted(server.client(), FederationRoot.load(root, environment="dev"))
        counting = CountingAuthority(trusted.authority)
        gateway.instead[CA_BROKER] = lambda _: mosaic_ca_broker.app.compose(
            config, gateway.clock, replace(trusted, authority=counting)
        )
        try:
            await gateway.start(CA_BROKER, GRANTS, ENROLLMENT)
            await serving(gateway.internal_channel(ENROLLMENT, caller=OPERATOR), CA_BROKER, GRANTS)
            yield Issuing(gateway, counting)
        finally:
            await gateway.close()


# ── what a CSR asks for ───────────────────────────────────────────────────────────────────────────────────────────────────────────

PROFILE: Final = {
    ExtensionOID.KEY_USAGE.dotted_string: True,
    ExtensionOID.EXTENDED_KEY_USAGE.dotted_string: False,
    ExtensionOID.BASIC_CONSTRAINTS.dotted_string: True,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER.dotted_string: False,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER.dotted_string: False,
    GRANT_ID_OID: False,
    SUBJECT_USER_ID_OID: False,
}
"""contracts.md, "Certificate profiles": extension → critical. A CRL distribution point is there where one is configured."""


DIGITAL_SIGNATURE_ALONE: Final = b"\x03\x02\x07\x80"
# Of one kind a request can hold only one.
EVERYTHING: Final = tuple({each.oid: each for each in csrs.ASKED_FOR.values()}.values())


@pytest.mark.parametrize(
    "asked",
    [*(pytest.param((each,), id=what) for what, each in csrs.ASKED_FOR.items()), pytest.param(EVERYTHING, id="everything at once")],
)
async def test_asking_for_more_gets_exactly_the_profile(issuing: Issuing, asked: tuple[x509.ExtensionType, ...]) -> None:
    """Identifiers, names, purposes and powers that a CSR asks for are ignored: the certificate says what the grant says."""
    offer, key = await Offer.make(issuing.gateway), new_key()
    csr = csrs.csr_with(csrs.common_names(offer.url.common_name), key, *asked)
    answer = await issuing.gateway.enrollment.Enroll(csrs.redemption_with(offer.url, csr))
    certificate = x509.load_der_x509_certificate(answer.certificate_der)

    critical = {each.oid.dotted_string: each.critical for each in certificate.extensions}
    critical.pop(ExtensionOID.CRL_DISTRIBUTION_POINTS.dotted_string, None)
    assert critical == PROFILE
    assert unrecognized(certificate) == {
        GRANT_ID_OID: encode_uuid(offer.grant_id),
        SUBJECT_USER_ID_OID: encode_uuid(offer.subject),
    }
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (constraints.ca, constraints.path_length) == (False, None)
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert usage.public_bytes() == DIGITAL_SIGNATURE_ALONE
    assert certificate.subject == csrs.common_names(offer.url.common_name)
    assert certificate.public_key() == key.public_key()
    assert offer.standing() == ("active", "active", 1)


def unrecognized(certificate: x509.Certificate) -> dict[str, bytes]:
    values = [each.value for each in certificate.extensions]
    return {value.oid.dotted_string: value.value for value in values if isinstance(value, x509.UnrecognizedExtension)}


# ── warrants ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_warrant_but_grants_own_reaches_the_authority(issuing: Issuing) -> None:
    """Each claim altered, missing, doubled or misshapen, each header and key but ours: refused before the authority is asked.

    The untouched warrant is good before and after: nothing of it was spent.
    """
    order = SigningOrder.make()
    forgery, asked = issuing.forgery(order), issuing.authority.asked
    for what, token in sendable(altered_claims(forgery), misshapen_claims(forgery), refused_headers(forgery)):
        refused = await refusal(issue(issuing, order, token))
        assert told(refused) == (PERMISSION_DENIED, "WARRANT_INVALID", "403"), what
        assert token not in refused.message, what
    assert issuing.authority.asked == asked
    answer = await issue(issuing, order, forgery.token)
    assert x509.load_der_x509_certificate(answer.certificate_der).serial_number == order.warrant.serial


async def test_an_expired_warrant_reaches_no_authority(issuing: Issuing) -> None:
    """A minute and the leeway later it says that it has expired, since ordering again helps."""
    long_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=91)
    order = SigningOrder.make(issued_at=long_ago, expires_at=long_ago + timedelta(seconds=60))
    asked = issuing.authority.asked
    refused = await refusal(issue(issuing, order, issuing.warrant(order)))
    assert told(refused) == (PERMISSION_DENIED, "WARRANT_EXPIRED", "403")
    assert issuing.authority.asked == asked


async def test_a_warrant_is_for_one_csr(issuing: Issuing) -> None:
    """A broken enrollment that puts its own request under a peer's warrant gets nothing, and the warrant is not spent by it."""
    order, own = SigningOrder.make(), SigningOrder.make()
    asked = issuing.authority.asked
    refused = await refusal(issue(issuing, own, issuing.warrant(order)))
    assert told(refused) == (grpc.StatusCode.INVALID_ARGUMENT, "CSR_MISMATCH", "400")
    assert issuing.authority.asked == asked
    assert (await issue(issuing, order, issuing.warrant(order))).certificate_der


async def test_a_warrant_is_honoured_once(issuing: Issuing) -> None:
    """The authority remembers its jti: replayed, or made again under it for another key, it signs nothing more."""
    order = SigningOrder.make()
    assert (await issue(issuing, order, issuing.warrant(order))).certificate_der
    again = SigningOrder.make(jti=order.warrant.jti)
    for spent in (order, order, again):
        refused = await refusal(issue(issuing, spent, issuing.warrant(spent)))
        assert told(refused) == (grpc.StatusCode.FAILED_PRECONDITION, "CA_REFUSED", "502")
        assert refused.metadata["ca_may_have_signed"] == "true"


def issue(issuing: Issuing, order: SigningOrder, warrant: str) -> Any:
    return issuing.broker.IssueCertificate(pb.IssueCertificateRequest(csr_der=order.csr.der, warrant=warrant))


# ── bearer tokens ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_bearer_token_but_the_issuers_own_operates(work: Gateway) -> None:
    """The same tables at the operator listener: 401 for each, nothing is created, and each is counted in the audit log."""
    key = load_p256_private_key((work.pki / OPERATOR / "jwt.key").read_bytes(), name="jwt.key")
    forgery = Forgery.of(work.token("otto", Role.ADMIN, audience=operate_audience("work")), key)
    create = grants_pb2.CreatePeerRequest(name="nobodys")
    stub, before, tried = work.peers, refused_tokens(work), 0
    tables = altered_claims(forgery), misshapen_claims(forgery), refused_headers(forgery), refused_forms(forgery)
    for what, token in sendable(*tables):
        refused = await refusal(stub.CreatePeer(create, metadata=bearing(token)))
        assert told(refused) == (UNAUTHENTICATED, "AUTH_TOKEN_INVALID", "401"), what
        assert token not in refused.message, what
        tried += 1
    assert work.rows("SELECT count(*) FROM federation.federation_peers WHERE name = 'nobodys'") == [(0,)]
    async with asyncio.timeout(10):
        while refused_tokens(work) < before + tried:
            await asyncio.sleep(0.05)
    assert (await stub.CreatePeer(create, metadata=bearing(forgery.token))).peer.name == "nobodys"


def refused_tokens(work: Gateway) -> int:
    rows = [row for row in work.audit("peer.created") if row["denied_reason"] == "AUTH_TOKEN_INVALID"]
    assert all((row["outcome"], row["denied_layer"], row["actor"]) == ("denied", "caller", "") for row in rows)
    return sum(row["repeated"] for row in rows)


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


# ── both ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sendable(*tables: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """(id, token) of the rows that fit into a header or a field; what cannot be sent is tried on the verifier alone."""
    for row in (row for table in tables for row in table):
        (token,) = row.values
        if token.isascii() and token.isprintable() and len(token) < 4096:
            yield row.id, token


def told(refused: Refusal) -> tuple[grpc.StatusCode, str, str]:
    return refused.code, refused.reason, refused.metadata["http_status"]
