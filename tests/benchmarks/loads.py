"""The two kinds of work that are compared, each by a client that does as little as it can while the clock runs.

Made ready, then run once: `run` returns the seconds that all operations took, and raises at the first that is refused.
"""

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import uuid4

import grpc
from mosaic_ca_broker.adapters.signing_claims import signing_claims
from mosaic_common.identity import ENROLLMENT
from mosaic_common.warrants import Purpose, Warrant
from mosaic_common.x509 import draw_serial, make_csr, verify_csr

from tests.benchmarks.offers_in_bulk import make_offers
from tests.support.authorities import new_key
from tests.support.gateway import Gateway
from tests.support.racers import ENROLL
from tests.support.stepca import StepCaServer

COMMON_NAME: Final = "bench"
# An answer of this size comes in chunks (net/http), and no JSON contains this.
LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class Load(Protocol):
    """Ready to run."""

    operations: int

    async def run(self) -> float: ...


class Signings:
    """`POST /1.0/sign` straight to step-ca, a thread and a connection for each call in flight."""

    def __init__(self, step_ca: StepCaServer, operations: int, in_flight: int) -> None:
        self.operations = operations
        self._step_ca = step_ca
        self._in_flight = in_flight
        now = datetime.now(UTC)
        self._requests = [_signing_request(step_ca, now) for _ in range(operations)]

    async def run(self) -> float:
        return await asyncio.to_thread(self._run)

    def _run(self) -> float:
        tls, waiting = self._step_ca.root.tls_context(), iter(self._requests)
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._in_flight))
            connections = [
                stack.enter_context(
                    tls.wrap_socket(socket.create_connection(("127.0.0.1", self._step_ca.port)), server_hostname="127.0.0.1")
                )
                for _ in range(self._in_flight)
            ]
            began = time.perf_counter()
            for done in [pool.submit(_sign_all, connection, waiting) for connection in connections]:
                done.result()
            return time.perf_counter() - began


class Enrollments:
    """`Enroll` at the public listener, a task and a connection for each call in flight."""

    def __init__(self, gateway: Gateway, operations: int, in_flight: int) -> None:
        self.operations = operations
        self._gateway = gateway
        self._in_flight = in_flight
        self._requests = make_offers(gateway, operations)

    async def run(self) -> float:
        channels = [self._gateway.channel(ENROLLMENT, "public") for _ in range(self._in_flight)]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        waiting = iter(self._requests)
        began = time.perf_counter()
        await asyncio.gather(*(_enroll_all(channel, waiting) for channel in channels))
        return time.perf_counter() - began


async def _enroll_all(channel: grpc.aio.Channel, waiting: Iterator[bytes]) -> None:
    enroll: Any = channel.unary_unary(ENROLL)
    for request in waiting:
        await enroll(request)


def _sign_all(connection: ssl.SSLSocket, waiting: Iterator[bytes]) -> None:
    for request in waiting:
        connection.sendall(request)
        answer = connection.recv(65_536)
        while not answer.endswith(LAST_CHUNK):
            more = connection.recv(65_536)
            assert more, answer
            answer += more
        assert answer.startswith(b"HTTP/1.1 201 "), answer


def _signing_request(step_ca: StepCaServer, now: datetime) -> bytes:
    """What the broker would send for one warrant, to the byte but for HTTP headers that say nothing."""
    csr = verify_csr(make_csr(new_key(), COMMON_NAME), common_name=COMMON_NAME)
    not_after = (now + timedelta(days=29)).replace(microsecond=0)
    warrant = Warrant(
        jti=uuid4(),
        common_name=COMMON_NAME,
        grant_id=uuid4(),
        subject_user_id=uuid4(),
        csr_sha256=csr.sha256,
        serial=draw_serial(),
        purpose=Purpose.ENROLL,
        not_after=not_after,
        issued_at=now,
        expires_at=now + timedelta(seconds=60),
    )
    pem = ssl.DER_cert_to_PEM_cert(csr.der).replace("CERTIFICATE-----", "CERTIFICATE REQUEST-----")
    token = step_ca.provisioner_key.mint(signing_claims(csr, warrant), audience=f"{step_ca.url}/1.0/sign", now=now)
    body = json.dumps({"csr": pem, "ott": token, "notAfter": not_after.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()
    head = f"POST /1.0/sign HTTP/1.1\r\nHost: 127.0.0.1:{step_ca.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
