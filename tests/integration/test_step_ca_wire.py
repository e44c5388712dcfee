"""What the broker makes of a wire that lies, stalls or breaks, under a real TLS handshake."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc.jwk import ECKey
from mosaic_ca_broker.adapters.federation_root import FederationRoot
from mosaic_ca_broker.adapters.provisioner_key import ProvisionerKey
from mosaic_ca_broker.adapters.step_ca import StepCa
from mosaic_common.clock import SystemClock
from mosaic_common.errors import CA_MAY_HAVE_SIGNED, CaUnreachable
from mosaic_common.keys import private_pem

from tests.support.authorities import LyingAuthority, new_key
from tests.support.orders import SigningOrder

NOW = datetime.now(UTC)
AUTHORITY = LyingAuthority.make(NOW, intermediate=False)
STRANGER = LyingAuthority.make(NOW, intermediate=False)
# Far below the broker's own four seconds: what is measured is that there is an end, not how long it takes.
WHOLE_ANSWER = timedelta(seconds=0.5)
LOOPBACK = x509.IPAddress(IPv4Address("127.0.0.1"))

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Presented:
    """The certificate of the server that answers in step-ca's place."""

    authority: LyingAuthority = AUTHORITY
    name: x509.GeneralName = LOOPBACK
    begins: datetime = NOW - timedelta(days=1)
    ends: datetime = NOW + timedelta(days=1)

    def context(self, folder: Path) -> ssl.SSLContext:
        key = new_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "step-ca")]))
            .issuer_name(self.authority.root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins)
            .not_valid_after(self.ends)
            .add_extension(x509.SubjectAlternativeName([self.name]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.root_key.public_key()), critical=False)
        )
        certificate = builder.sign(self.authority.root_key, hashes.SHA256())
        path = folder / "server.pem"
        path.write_bytes(certificate.public_bytes(Encoding.PEM) + private_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


async def never(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def refuse_to_read(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def reset_after_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


def writing(content: bytes, *, then: Behaviour = refuse_to_read) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(content)
        await writer.drain()
        await then(reader, writer)

    return behave


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each byte in time, the whole never: a deadline for each read would wait for ever."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 60000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()


@asynccontextmanager
async def answering(behave: Behaviour, context: ssl.SSLContext | None) -> AsyncIterator[StepCa]:
    """Yield the broker's client of a server that behaves so."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await behave(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    root = FederationRoot(AUTHORITY.root_pem, AUTHORITY.root.fingerprint(hashes.SHA256()))
    key = ProvisionerKey("kid", ECKey.generate_key("P-256", parameters={"kid": "kid"}))
    client = StepCa(f"https://127.0.0.1:{port}", root, key, SystemClock(), whole_answer=WHOLE_ANSWER)
    try:
        yield client
    finally:
        await client.aclose()
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections)
        await server.wait_closed()


async def assert_unreachable(client: StepCa, remedy: str, *, may_have_signed: bool = True) -> None:
    order = SigningOrder.make()
    with pytest.raises(CaUnreachable) as raised:
        await client.sign(order.csr, order.warrant)
    assert raised.value.remedy is not None
    assert remedy in raised.value.remedy
    assert raised.value.metadata[CA_MAY_HAVE_SIGNED] == ("true" if may_have_signed else "false")


@pytest.mark.parametrize(
    ("behave", "remedy"),
    [
        pytest.param(never, "not overloaded", id="silence"),
        pytest.param(drip, "not overloaded", id="an answer that trickles"),
        pytest.param(writing(b"HTTP/1.1 201 Created\r\n", then=never), "not overloaded", id="half a header"),
        pytest.param(flood, "step-ca runs", id="an answer without end"),
        pytest.param(refuse_to_read, "step-ca runs", id="reset at once"),
        pytest.param(reset_after_the_request, "step-ca runs", id="reset after the request: it may have signed"),
        pytest.param(writing(b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n{"), "step-ca runs", id="reset within the answer"),
        pytest.param(writing(b"SSH-2.0-OpenSSH_9.2\r\n"), "step-ca runs", id="another protocol"),
        pytest.param(writing(b"HTTP/1.1 201 Created\r\n" + b"x: y\r\n" * 50_000), "step-ca runs", id="headers without end"),
        pytest.param(
            writing(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"),
            "step-ca itself",
            id="a redirect, which is not followed",
        ),
    ],
)
async def test_ends_whatever_the_wire_does(tmp_path: Path, behave: Behaviour, remedy: str) -> None:
    """Every way that an answer can fail to come ends in time, in one typed error that leaves open whether it signed."""
    async with answering(behave, Presented().context(tmp_path)) as client:
        await assert_unreachable(client, remedy)


@pytest.mark.parametrize(
    ("presented", "remedy"),
    [
        pytest.param(Presented(authority=STRANGER), "STEP_CA_ROOT_CERT_PATH", id="another root"),
        pytest.param(Presented(name=x509.DNSName("ca.example.com")), "dnsNames", id="another name"),
        pytest.param(Presented(ends=NOW - timedelta(minutes=1)), "clocks", id="expired"),
        pytest.param(Presented(begins=NOW + timedelta(hours=1)), "clocks", id="not valid yet"),
    ],
)
async def test_tells_the_ways_apart_in_which_a_certificate_is_wrong(tmp_path: Path, presented: Presented, remedy: str) -> None:
    """A clock, a name and a root are three things to do; and nothing was sent, so nothing was signed."""
    async with answering(never, presented.context(tmp_path)) as client:
        await assert_unreachable(client, remedy, may_have_signed=False)


async def test_speaks_nothing_below_tls_1_3(tmp_path: Path) -> None:
    """step-ca is configured for 1.3; what offers less stands in front of it."""
    context = Presented().context(tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with answering(never, context) as client:
        await assert_unreachable(client, "ends TLS", may_have_signed=False)


async def test_speaks_no_plain_http() -> None:
    """A port without TLS is answered with what to check, and gets no token."""
    seen = bytearray()

    async def answer_in_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.read(4096))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with answering(answer_in_plain, None) as client:
        await assert_unreachable(client, "ends TLS", may_have_signed=False)
    assert b"ott" not in seen
