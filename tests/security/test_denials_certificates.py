"""The denial table for certificates and handshakes: each row, as the peer hears it and as the auditor reads it.

What the ledger says of grant, peer, certificate and subject, and what is asked, is test_denials_reads.py's.

The certificates are signed by the gateway's own federation authority, so that nothing but the check under test stands in the way.
"""

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import mosaic_federation_edge.app
import mosaic_federation_edge.config
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID
from mosaic.federation.v1 import federation_pb2, federation_pb2_grpc
from mosaic_cli.dev.ports import choose_free_ports
from mosaic_common.clock import Clock
from mosaic_common.config import load
from mosaic_common.identity import EDGE_INBOUND, IDENTITIES, OPERATOR, dns_name
from mosaic_common.keys import private_pem
from mosaic_common.oids import GRANT_ID_OID, SUBJECT_USER_ID_OID, encode_uuid
from mosaic_federation_edge.api.handshakes import Handshakes

from tests.support import authorities as lies
from tests.support.answers import refused_bytes
from tests.support.authorities import Lie, LyingAuthority, new_key
from tests.support.forgeries import forge, forged_peer
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.offers import Offer
from tests.support.orders import SigningOrder
from tests.support.peers import PeerClient, Refusal, refusal

UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
HTTP: Final = {UNAUTHENTICATED: "401", PERMISSION_DENIED: "403"}


@dataclass(frozen=True, slots=True)
class Replica:
    """A second inbound edge of the gateway, which has not seen any grant yet."""

    gateway: Gateway
    handshakes: Handshakes

    @property
    def handshakes_begun(self) -> int:
        return self.gateway.apps[EDGE_INBOUND].listeners[0].handshakes_begun

    def again(self, peer: PeerClient) -> PeerClient:
        """The same peer, calling here."""
        return self.gateway.peer_client_with(peer.key, peer.chain, peer.grant_id)


@asynccontextmanager
async def replica_of(work: Gateway, clock: Clock) -> AsyncIterator[Replica]:
    own = [(EDGE_INBOUND, "internal"), (EDGE_INBOUND, "public")]
    ports = dict(zip(own, (f"127.0.0.1:{port}" for port in choose_free_ports(2)), strict=True))
    gateway, handshakes = replace(work, addresses=work.addresses | ports, apps={}, _channels=[], clock=clock), Handshakes()
    config = load(mosaic_federation_edge.config.InboundConfig, gateway.environment(EDGE_INBOUND))
    edge = gateway.apps[EDGE_INBOUND] = mosaic_federation_edge.app.build_inbound(config, clock, handshakes=handshakes)
    try:
        await edge.start()
        await serving(gateway.internal_channel(EDGE_INBOUND, caller=OPERATOR), "grants", "postgres")
        yield Replica(gateway, handshakes)
    finally:
        await gateway.close()


@pytest.fixture(scope="module")
async def replica(work: Gateway) -> AsyncIterator[Replica]:
    async with replica_of(work, work.clock) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An active grant and its peer."""

    offer: Offer
    peer: PeerClient

    @classmethod
    async def make(cls, work: Gateway) -> "Enrolled":
        offer = await Offer.make(work)
        return cls(offer, await offer.enroll())


@pytest.fixture(scope="module")
async def enrolled(work: Gateway) -> Enrolled:
    """One that no test changes."""
    return await Enrolled.make(work)


def list_tasks(peer: PeerClient) -> Awaitable[object]:
    return peer.list("tasks")


def capabilities(peer: PeerClient) -> Awaitable[object]:
    return peer.capabilities()


def audit_row(gateway: Gateway, refused: Refusal) -> dict[str, Any]:
    (row,) = [each for each in gateway.audit("read") if str(each["request_id"]) == refused.metadata["request_id"]]
    return row


def assert_refused(
    gateway: Gateway, refused: Refusal, code: grpc.StatusCode, reason: str, layer: str, **further: object
) -> dict[str, Any]:
    """Check what the peer heard and what was recorded; return the row for what else is to be said of it."""
    assert (refused.code, refused.reason) == (code, reason)
    assert refused.metadata["http_status"] == HTTP[code]
    row = audit_row(gateway, refused)
    assert (row["outcome"], row["denied_layer"], row["denied_reason"]) == ("denied", layer, reason)
    assert row["status_code"] == code.value[0]
    assert (row["result_count"], row["bytes_out"], row["source_address"]) == (0, 0, "127.0.0.1")
    assert {name: row[name] for name in further} == further
    return row


# ── certificates that do not say exactly who ──────────────────────────────────────────────────────────────────────────────────────


def text(value: str, tag: int = 0x0C) -> bytes:
    return bytes([tag, len(value)]) + value.encode()


A_UUID: Final = str(uuid4())
MISSING, MALFORMED, NOT_ACCEPTED = "CERTIFICATE_OID_MISSING", "CERTIFICATE_OID_MALFORMED", "CERTIFICATE_NOT_ACCEPTED"


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        pytest.param(lies.without_identifiers, MISSING, id="no OID"),
        pytest.param(lies.omit(SUBJECT_USER_ID_OID), MISSING, id="the grant's alone"),
        pytest.param(lies.omit(GRANT_ID_OID), MISSING, id="the subject's alone"),
        *(
            pytest.param(lie, MALFORMED, id=f"{who}: {what}")
            for who, oid in [("grant", GRANT_ID_OID), ("subject", SUBJECT_USER_ID_OID)]
            for what, lie in [
                ("twice the same", lies.double(oid)),
                ("twice, another one second", lies.double(oid, encode_uuid(UUID(A_UUID)))),
                ("PrintableString", lies.as_printable_string(oid)),
                ("IA5String", lies.with_value(oid, text(A_UUID, 0x16))),
                ("OCTET STRING", lies.with_value(oid, text(A_UUID, 0x04))),
                ("bytes without a tag", lies.with_value(oid, A_UUID.encode())),
                ("16 raw bytes", lies.with_value(oid, b"\x0c\x10" + UUID(A_UUID).bytes)),
                ("upper case", lies.in_upper_case(oid)),
                ("without hyphens", lies.with_value(oid, text(UUID(A_UUID).hex))),
                ("in braces", lies.with_value(oid, text(f"{{{A_UUID}}}"))),
                ("a URN", lies.with_value(oid, text(f"urn:uuid:{A_UUID}"))),
                ("36 characters, no UUID", lies.with_value(oid, text("g" * 36))),
                ("a byte short", lies.with_value(oid, text(A_UUID[:-1]))),
                ("a byte behind it", lies.with_value(oid, encode_uuid(UUID(A_UUID)) + b"\x00")),
                ("two of them in one", lies.with_value(oid, encode_uuid(UUID(A_UUID)) * 2)),
                ("length in the long form", lies.with_value(oid, b"\x0c\x81\x24" + A_UUID.encode())),
                ("full-width digits", lies.with_value(oid, text("０" * 12))),
                ("an absent claim, rendered", lies.with_value(oid, text("%!s(<nil>)"))),
                ("empty", lies.with_value(oid, b"")),
            ]
        ),
        pytest.param(lies.without_eku, NOT_ACCEPTED, id="no EKU"),
        pytest.param(lies.as_authority, NOT_ACCEPTED, id="CA:true"),
    ],
)
async def test_a_certificate_says_exactly_who_or_nothing(enrolled: Enrolled, lie: Lie, reason: str) -> None:
    """Our own authority's signature is not enough: a certificate has to be a client's, and to name one grant and one subject.

    Without the lie it would name a live grant.
    """
    work, offer = enrolled.offer.gateway, enrolled.offer
    nobody = forged_peer(work, offer.grant_id, offer.subject, lie)
    for ask in (list_tasks, capabilities):
        refused = await refusal(ask(nobody))
        assert_refused(work, refused, UNAUTHENTICATED, reason, "certificate", grant_id=None, peer_id=None, actor="")
        assert set(refused.metadata) == {"http_status", "request_id"}


async def test_what_was_enrolled_is_answered(enrolled: Enrolled, replica: Replica) -> None:
    """The same calls with the certificate that was issued are answered, on both edges: what is refused is so for its own reason."""
    for peer in (enrolled.peer, replica.again(enrolled.peer)):
        assert (await peer.list("tasks")).source == "work"
        assert list((await peer.capabilities()).resources) == ["tasks", "notes", "memory"]


# ── grants that are not this certificate's ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_pending_grant_answers_nobody(work: Gateway, replica: Replica) -> None:
    """A grant that nobody has redeemed answers no certificate, whoever signed it, and does not say that it is there."""
    offer = await Offer.make(work)
    early = forged_peer(work, offer.grant_id, offer.subject)
    for peer in (early, replica.again(early)):
        refused = await refusal(peer.list("tasks"))
        assert_refused(work, refused, PERMISSION_DENIED, "GRANT_NOT_ACTIVE", "grant", grant_id=offer.grant_id, peer_id=None)
        assert "grant_status" not in refused.metadata


async def test_a_grant_that_does_not_exist_answers_nobody(work: Gateway) -> None:
    """A certificate for a grant that nobody made is recorded under that id, and speaks for no peer."""
    grant_id, subject = uuid4(), uuid4()
    refused = await refusal(forged_peer(work, grant_id, subject).list("tasks"))
    assert_refused(work, refused, PERMISSION_DENIED, "GRANT_NOT_ACTIVE", "grant", grant_id=grant_id, peer_id=None)
    assert "grant_status" not in refused.metadata


async def test_only_the_pinned_certificate_speaks_for_a_grant(enrolled: Enrolled, replica: Replica) -> None:
    """A second certificate with the right names, signed by the right authority, is not the one that was pinned."""
    offer = enrolled.offer
    twin = forged_peer(offer.gateway, offer.grant_id, offer.subject)
    for peer in (twin, replica.again(twin)):
        refused = await refusal(peer.list("tasks"))
        row = assert_refused(offer.gateway, refused, UNAUTHENTICATED, "CERTIFICATE_NOT_PINNED", "certificate", peer_id=None)
        assert row["grant_id"] == offer.grant_id
        assert fingerprint(twin.chain).hex()[:16] in row["actor"]


async def test_a_peer_of_one_grant_is_nobody_to_another(work: Gateway, enrolled: Enrolled, replica: Replica) -> None:
    """A certificate that names another live grant, of another peer, opens neither that one nor its holder's own."""
    other = await Enrolled.make(work)
    key, chain = forge(work, other.offer.grant_id, enrolled.offer.subject)
    thief = work.peer_client_with(key, chain, str(other.offer.grant_id))
    for peer in (thief, replica.again(thief)):
        refused = await refusal(peer.list("tasks"))
        assert_refused(work, refused, UNAUTHENTICATED, "CERTIFICATE_NOT_PINNED", "certificate", grant_id=other.offer.grant_id)


async def test_how_a_grant_ended_is_told_to_its_own_peer_only(work: Gateway, replica: Replica) -> None:
    """A stranger's certificate for a revoked grant hears what it would hear of a live one."""
    ended = await Enrolled.make(work)
    twin = forged_peer(work, ended.offer.grant_id, ended.offer.subject)
    while_live = await refused_bytes(twin.list("tasks"))
    revoke_grant(ended.offer)
    assert await refused_bytes(replica.again(twin).list("tasks")) == while_live
    assert (await refusal(replica.again(ended.peer).list("tasks"))).metadata["grant_status"] == "revoked"


async def test_a_pinned_certificate_of_another_subject_is_refused(work: Gateway, replica: Replica) -> None:
    """A pin that should never have been made still reads nobody's data: the subject is the grant's, in the certificate too."""
    offer = (await Enrolled.make(work)).offer
    pinned = forged_peer(offer.gateway, offer.grant_id, uuid4())
    pin(offer, pinned.chain)
    refused = await refusal(replica.again(pinned).list("tasks"))
    assert_refused(offer.gateway, refused, PERMISSION_DENIED, "SUBJECT_MISMATCH", "subject", grant_id=offer.grant_id)


def pin(offer: Offer, chain: bytes) -> None:
    """As an attacker with the ledger's role would; superseded, because a grant has one active certificate."""
    leaf = x509.load_pem_x509_certificate(chain)
    offer.gateway.execute(
        "INSERT INTO federation.federation_certificates (fingerprint_sha256, grant_id, serial, der, chain_pem, spki_sha256,"
        " not_before, not_after, state, superseded_at) VALUES (%s, %s, %s, %s, '', %s, %s, %s, 'superseded', now())",
        *(fingerprint(chain), offer.grant_id, leaf.serial_number, b"der", bytes(32)),
        *(leaf.not_valid_before_utc, leaf.not_valid_after_utc),
    )


def fingerprint(chain: bytes) -> bytes:
    return x509.load_pem_x509_certificate(chain).fingerprint(hashes.SHA256())


# ── what changes under an open connection ─────────────────────────────────────────────────────────────────────────────────────────


def on_grant(assignments: str) -> Callable[[Offer], None]:
    statement = f"UPDATE federation.federation_grants SET {assignments} WHERE id = %s"
    return lambda offer: offer.gateway.execute(statement, offer.grant_id)


def on_certificate(assignments: str) -> Callable[[Offer], None]:
    statement = f"UPDATE federation.federation_certificates SET {assignments} WHERE grant_id = %s"
    return lambda offer: offer.gateway.execute(statement, offer.grant_id)


revoke_grant = on_grant("status = 'revoked', revoked_at = now()")


async def test_a_narrower_scope_is_in_force_for_the_next_answer(work: Gateway) -> None:
    """A resource that is taken out is refused at once, and only that one."""
    live = await Enrolled.make(work)
    assert (await live.peer.list("tasks")).source == "work"
    on_grant("""scope = jsonb_set(scope, '{resources}', '["notes"]')""")(live.offer)
    refused = await refusal(live.peer.list("tasks"))
    assert_refused(work, refused, PERMISSION_DENIED, "RESOURCE_NOT_GRANTED", "scope", resource="tasks")
    assert (await live.peer.list("notes")).source == "work"
    assert list((await live.peer.capabilities()).resources) == ["notes"]


async def test_a_superseded_certificate_is_good_for_a_day(work: Gateway, replica: Replica) -> None:
    """Within 24 hours of its renewal the old certificate is still answered: no call is lost to a renewal."""
    live = await Enrolled.make(work)
    on_certificate("state = 'superseded', superseded_at = now() - interval '23 hours 59 minutes'")(live.offer)
    for peer in (live.peer, replica.again(live.peer)):
        assert (await peer.list("tasks")).source == "work"


# ── what the handshake refuses ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Shown:
    """Key and chain that a client shows, PEM."""

    key: bytes | None
    chain: bytes | None


def forged(*told: Lie) -> Callable[[Enrolled], Shown]:
    def show(enrolled: Enrolled) -> Shown:
        return Shown(*forge(enrolled.offer.gateway, enrolled.offer.grant_id, enrolled.offer.subject, *told))

    return show


def of_another_authority(enrolled: Enrolled) -> Shown:
    key, offer = new_key(), enrolled.offer
    order = SigningOrder.make(grant_id=offer.grant_id, subject_user_id=offer.subject).warrant
    return Shown(private_pem(key), LyingAuthority.make(datetime.now(UTC)).sign_pem(key.public_key(), order))


def of_service(identity: str) -> Callable[[Enrolled], Shown]:
    def show(enrolled: Enrolled) -> Shown:
        folder = enrolled.offer.gateway.pki / identity
        return Shown((folder / "internal.key").read_bytes(), (folder / "internal.pem").read_bytes())

    return show


PAST, FUTURE = datetime.now(UTC) - timedelta(minutes=10), datetime.now(UTC) + timedelta(days=1)


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(lambda _: Shown(None, None), id="no certificate"),
        pytest.param(of_another_authority, id="another authority's"),
        pytest.param(forged(lies.signed_by_stranger), id="our issuer's name, another's signature"),
        pytest.param(forged(lies.with_not_before(PAST - timedelta(days=1)), lies.with_not_after(PAST)), id="expired"),
        pytest.param(forged(lies.with_not_before(FUTURE)), id="not valid yet"),
        pytest.param(forged(lies.with_eku(ExtendedKeyUsageOID.SERVER_AUTH)), id="serverAuth"),
        pytest.param(forged(lies.with_eku(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)), id="any EKU"),
        *(pytest.param(of_service(identity), id=f"the service {identity}'s") for identity in IDENTITIES),
    ],
)
async def test_the_handshake_refuses_and_is_counted(
    enrolled: Enrolled, replica: Replica, show: Callable[[Enrolled], Shown]
) -> None:
    """Who does not lead to the federation root, now, reaches no code of ours and leaves no row; that somebody tried is counted."""
    shown, rows = show(enrolled), len(replica.gateway.audit("read"))
    begun, with_a_call = replica.handshakes_begun, replica.handshakes.connections_with_a_call
    channel = replica.gateway.channel(EDGE_INBOUND, "public", key=shown.key, chain=shown.chain)
    stub: Any = federation_pb2_grpc.FederationServiceStub(channel)
    refused = await refusal(stub.ListResources(federation_pb2.ListResourcesRequest(resource="tasks")))
    await channel.close()  # it would go on trying, and be counted in the tests that follow
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "")
    assert replica.handshakes_begun > begun
    assert replica.handshakes.connections_with_a_call == with_a_call
    assert len(replica.gateway.audit("read")) == rows


async def test_a_connection_that_made_a_call_is_no_refused_handshake(enrolled: Enrolled, replica: Replica) -> None:
    """The count is an upper bound that honest connections do not raise, however many calls they make."""
    before = replica.handshakes_begun - replica.handshakes.connections_with_a_call
    peer = replica.again(enrolled.peer)
    for _ in range(3):
        await peer.list("tasks")
    assert replica.handshakes_begun - replica.handshakes.connections_with_a_call == before


# ── TLS 1.3 or nothing ────────────────────────────────────────────────────────────────────────────────────────────────────────────


LISTENERS: Final = [
    *((identity, "internal") for identity in IDENTITIES if identity != OPERATOR),
    ("grants", "operator"),
    ("enrollment", "public"),
    ("edge-inbound", "public"),
    ("edge-outbound", "user"),
]


def shake_hands(address: str, context: ssl.SSLContext, name: str) -> str | None:
    """Return the version that was agreed on."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain, context.wrap_socket(plain, server_hostname=name) as tls:
        return tls.version()


@pytest.fixture
def client_context(work: Gateway, enrolled: Enrolled, tmp_path: Path) -> Callable[[str, str], ssl.SSLContext]:
    """A client of whatever listener, with the certificate that it wants, and every suite that OpenSSL knows."""

    def make(identity: str, listener: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2"])
        context.load_verify_locations(cadata=work.service_root.decode())
        if listener == "internal":
            folder = work.pki / OPERATOR
            context.load_cert_chain(folder / "internal.pem", folder / "internal.key")
        elif identity == EDGE_INBOUND:
            chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
            chain.write_bytes(enrolled.peer.chain)
            key.write_bytes(enrolled.peer.key)
            context.load_cert_chain(chain, key)
        return context

    return make


@pytest.mark.parametrize(("identity", "listener"), [pytest.param(*each, id=":".join(each)) for each in LISTENERS])
async def test_every_listener_speaks_tls_1_3_and_nothing_older(
    work: Gateway, client_context: Callable[[str, str], ssl.SSLContext], identity: str, listener: str
) -> None:
    """The same client, with the same certificate, gets in with TLS 1.3 and not with TLS 1.2, whatever suite it offers."""
    address, name = work.addresses[identity, listener], dns_name(identity, work.name)
    context = client_context(identity, listener)
    assert await asyncio.to_thread(shake_hands, address, context, name) == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(shake_hands, address, context, name)


@pytest.mark.openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_1", "-tls1"])
async def test_openssl_cannot_go_below_tls_1_3(enrolled: Enrolled, replica: Replica, tmp_path: Path, version: str) -> None:
    """A peer with a good certificate and an old protocol fails in the handshake, which is counted like any other."""
    address = replica.gateway.addresses[EDGE_INBOUND, "public"]
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(enrolled.peer.chain)
    key.write_bytes(enrolled.peer.key)
    command = ["openssl", "s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-alpn", "h2", "-connect", address]
    certificate = ["-cert", str(chain), "-cert_chain", str(chain), "-key", str(key)]
    begun = replica.handshakes_begun
    done = await asyncio.to_thread(
        subprocess.run, [*command, *certificate], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=10
    )
    assert done.returncode != 0
    assert "Cipher is (NONE)" in done.stdout
    assert replica.handshakes_begun > begun
