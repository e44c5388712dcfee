"""Reaching another gateway for the first time: whom an enrollment URL allows us to believe.

With a pin, the one certificate of the presented chain whose SHA-256 is the pin is the only root, and the listener has to prove its
internal name under it. Without one, the listener is publicly trusted and proves its host name like any web server.
"""

import select
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

# First: it sets what grpc reads when it is imported.
import mosaic_common.rpc  # noqa: F401  isort: skip
import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from mosaic_common.identity import EDGE_INBOUND, ENROLLMENT, dns_name
from mosaic_common.tokens import EnrollmentOffer
from OpenSSL import SSL

from mosaic_cli.clocks import verify_dates
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.times import iso, utc_now

DIAL_SECONDS: Final = 10.0

_HTTP2: Final = "h2"  # a gRPC server hangs up on anything else
_OUT_OF_DATE: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is; an IPv6 host stands without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`. Raises CommandFailed."""
        host, separator, port = text.rpartition(":")
        if not separator or not host.strip("[]") or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
            raise CommandFailed(
                LocalReason.ENDPOINT_MALFORMED,
                f"The federation endpoint {text[:80]!r} is not host:port.",
                remedy="Tell the other operator: their gateway is configured with it.",
            )
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Trust:
    """What connections to one other gateway believe in.

    Attributes:
        roots_pem: nothing else is trusted.
        pinned_root_der: the one root, where the URL pins it; None where the system's roots apply.
    """

    gateway: str
    roots_pem: bytes
    pinned_root_der: bytes | None

    def name_of(self, identity: str, address: Address) -> str:
        """The name that a listener has to prove."""
        return address.host if self.pinned_root_der is None else dns_name(identity, self.gateway)


def establish_trust(offer: EnrollmentOffer, now: datetime) -> Trust:
    """Find the root that the URL names.

    Raises:
        CommandFailed: UNREACHABLE, PIN_MISMATCH, or CLOCK where this machine's time rules the certificate out.
    """
    if offer.pin is None:
        return Trust(offer.gateway, _system_roots(), None)
    address = Address(offer.host, offer.port)
    # Unverified here: only the pin decides what of it is believed, and the connection that follows verifies all the rest.
    unverified_chain = fetch_presented_chain(address, dns_name(ENROLLMENT, offer.gateway))
    root = _find_pinned(unverified_chain, offer.pin)
    if root is None:
        raise CommandFailed(
            LocalReason.PIN_MISMATCH,
            f"{address} does not present the root that the enrollment URL pins: it is not the gateway that made the URL, "
            "or its root has changed since.",
            remedy="Ask whoever gave you the URL for a new one, over a channel you trust; the token has not been used.",
        )
    for certificate in (unverified_chain[0], root):
        verify_dates(certificate, f"The certificate of {address}", now)
    return Trust(offer.gateway, root.public_bytes(Encoding.PEM), root.public_bytes(Encoding.DER))


def enrollment_channel(offer: EnrollmentOffer, trust: Trust) -> grpc.Channel:
    """A channel to the enrollment service that the URL means, or to nobody."""
    name = trust.name_of(ENROLLMENT, Address(offer.host, offer.port))
    options = (("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0))
    return grpc.secure_channel(offer.target, grpc.ssl_channel_credentials(trust.roots_pem), options=options)


def verify_endpoint(endpoint: Address, trust: Trust) -> None:
    """Return if the inbound edge of that gateway answers there.

    No client certificate is shown: who we are is nobody's business before we know who they are. In TLS 1.3 our side of it
    is over before the edge misses the certificate.

    Raises:
        CommandFailed: UNREACHABLE, ENDPOINT_NOT_VERIFIED.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([_HTTP2])
    context.load_verify_locations(cadata=trust.roots_pem.decode("ascii"))
    name = trust.name_of(EDGE_INBOUND, endpoint)
    try:
        with _connect(endpoint) as plain, context.wrap_socket(plain, server_hostname=name):
            pass
    except ssl.SSLCertVerificationError as error:
        raise _not_verified(endpoint, name, error) from None
    except OSError as error:
        raise _unreachable(endpoint, error) from None


def fetch_presented_chain(address: Address, server_name: str) -> list[x509.Certificate]:
    """What a listener presents, leaf first, unverified. (Python's own ssl can show it from 3.13 on.)

    Raises:
        CommandFailed: UNREACHABLE.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([_HTTP2.encode("ascii")])
    try:
        with _connect(address) as plain:
            connection = SSL.Connection(context, plain)
            connection.set_tlsext_host_name(server_name.encode("ascii"))
            connection.set_connect_state()
            _shake_hands(connection, plain, deadline=time.monotonic() + DIAL_SECONDS)
            presented = connection.get_peer_cert_chain(as_cryptography=True)
    except (OSError, SSL.Error) as error:
        raise _unreachable(address, error) from None
    if not presented:
        raise CommandFailed(
            LocalReason.UNREACHABLE, f"{address} presents no certificate.", remedy="Ask the other operator what answers there."
        )
    return list(presented)


def _find_pinned(unverified_chain: Sequence[x509.Certificate], pin: bytes) -> x509.Certificate | None:
    return next((each for each in unverified_chain if each.fingerprint(hashes.SHA256()) == pin), None)


def _connect(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=DIAL_SECONDS)


def _shake_hands(connection: SSL.Connection, plain: socket.socket, *, deadline: float) -> None:
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            # A socket with a timeout does not block, and pyOpenSSL leaves the waiting to us.
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([plain], [], [], remaining)[0]:
                raise TimeoutError("the TLS handshake was not answered") from None
        else:
            return


def _unreachable(address: Address, error: Exception) -> CommandFailed:
    match error:
        case ConnectionRefusedError():
            why = "nothing listens there"
        case TimeoutError():
            why = f"no answer within {DIAL_SECONDS:.0f} seconds"
        case socket.gaierror():
            why = "its name is not known"
        case ssl.SSLError() | SSL.Error():
            why = "what answers there does not speak TLS 1.3"
        case OSError(strerror=str(text)):
            why = text[0].lower() + text[1:]
        case _:
            why = type(error).__name__
    return CommandFailed(
        LocalReason.UNREACHABLE,
        f"{address} cannot be reached: {why}.",
        remedy="Check the address, the network between the two gateways, and that the service runs there; then run this again.",
    )


def _not_verified(endpoint: Address, name: str, error: ssl.SSLCertVerificationError) -> CommandFailed:
    says = error.verify_message.rstrip(".")
    if error.verify_code in _OUT_OF_DATE:
        return CommandFailed(
            LocalReason.CLOCK,
            f"The certificate of the federation endpoint {endpoint} does not hold now, at {iso(utc_now())} by this clock: {says}.",
            remedy="If this clock is right, the other gateway has to renew that certificate; otherwise set the clock.",
        )
    return CommandFailed(
        LocalReason.ENDPOINT_NOT_VERIFIED,
        f"The federation endpoint {endpoint} does not prove to be {name}: {says}.",
        remedy="Ask the other operator what answers there; then run the same command again.",
    )


def _system_roots() -> bytes:
    """The machine's trusted roots, which gRPC would otherwise replace by a list of its own."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile).read_bytes()
    hashed = sorted(Path(paths.capath).glob("*.[0-9]")) if paths.capath else []
    if not hashed:
        raise CommandFailed(
            LocalReason.CONFIGURATION,
            "The URL pins no root, and this machine has no trusted roots.",
            remedy="Install ca-certificates, or name a bundle in SSL_CERT_FILE.",
        )
    return b"\n".join(path.read_bytes() for path in hashed)
