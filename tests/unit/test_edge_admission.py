"""Step 0 of a federated read: limits before anything else, and what of it is recorded how."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from mosaic_common.audit import Chain, SealedRow
from mosaic_common.errors import AuthRefused, CertificateRefused, InvalidInput, Layer, MosaicError, RateLimited, Reason
from mosaic_common.identity import PeerCertificates
from mosaic_common.rpc.call import Call, Outcome, Transport
from mosaic_common.rpc.methods import Method
from mosaic_common.x509 import Ordered
from mosaic_federation_edge.adapters.audit_writer import AuditWriter
from mosaic_federation_edge.adapters.recorder import AuditRecorder
from mosaic_federation_edge.api.admission import Admission
from mosaic_federation_edge.api.handshakes import Handshakes
from mosaic_federation_edge.domain.rate_limit import Rate, TokenBuckets
from mosaic_federation_edge.methods import INBOUND

from tests.support.authorities import LyingAuthority, new_key, without_eku
from tests.support.clock import FakeClock

CLOCK = FakeClock()
AUTHORITY = LyingAuthority.make(CLOCK.now(), intermediate=False)
GRANT, SUBJECT = uuid4(), uuid4()
LIST: Method = next(method for method in INBOUND if method.name == "ListResources")


def certificate(*lies: object) -> bytes:
    order = Ordered("home", GRANT, SUBJECT, uuid4().int, b"", CLOCK.now() + timedelta(days=30), CLOCK.now())
    return AUTHORITY.sign_pem(new_key().public_key(), order, *lies)  # type: ignore[arg-type]


def call(source: str = "192.0.2.7", port: int = 5000) -> Call:
    return Call(LIST, uuid4(), "", source, f"{source}:{port}", deadline=0.0, started_ns=0)


class Bed:
    """Admission with three calls for a source and two for a certificate, on a clock that stands still."""

    def __init__(self) -> None:
        self.handshakes = Handshakes()
        self.admission = Admission(
            PeerCertificates(),
            self.handshakes,
            CLOCK,
            sources=TokenBuckets(Rate(1, 3), Layer.SOURCE, lambda: 0.0),
            fingerprints=TokenBuckets(Rate(1, 2), Layer.SOURCE, lambda: 0.0),
        )

    def authenticate(self, pem: bytes | None, source: str = "192.0.2.7") -> Call:
        begun = call(source)
        begun.caller = self.admission.authenticate(begun, Transport(pem, None))
        return begun

    def admit(self, pem: bytes, source: str = "192.0.2.7") -> None:
        self.admission.admit(self.authenticate(pem, source))


def test_a_call_that_sends_nothing_spends_nothing() -> None:
    """Ten thousand silent or reset streams leave an honest caller behind the same address all that it needs."""
    bed, pem = Bed(), certificate()
    for _ in range(10_000):
        bed.authenticate(pem)
    bed.admit(pem)
    bed.admit(pem)


def test_a_certificate_is_limited_wherever_it_calls_from() -> None:
    """Another address gives one certificate no further call, and another certificate behind the same address still calls."""
    bed, pem = Bed(), certificate()
    bed.admit(pem, "192.0.2.1")
    bed.admit(pem, "192.0.2.2")
    with pytest.raises(RateLimited) as refused:
        bed.authenticate(pem, "192.0.2.3")
    assert refused.value.layer is Layer.SOURCE
    bed.admit(certificate(), "192.0.2.1")


def test_a_source_is_limited_before_its_certificate_is_read() -> None:
    """An exhausted address hears so, whatever it presents."""
    bed = Bed()
    for _ in range(3):
        bed.admit(certificate())
    with pytest.raises(RateLimited):
        bed.authenticate(b"whatever")


def test_a_certificate_that_is_refused_spends_at_once() -> None:
    """It leaves an audit row although no message may ever come, so it cannot be repeated at will."""
    bed, pem = Bed(), certificate(without_eku)
    for _ in range(3):
        with pytest.raises(CertificateRefused):
            bed.authenticate(pem)
    with pytest.raises(RateLimited):
        bed.authenticate(pem)


def test_a_call_without_certificate_is_refused() -> None:
    """mTLS lets none through; if it did, it would be nobody."""
    with pytest.raises(CertificateRefused) as refused:
        Bed().authenticate(None)
    assert refused.value.reason is Reason.CERTIFICATE_NOT_ACCEPTED


def test_connections_that_made_a_call_are_counted_once() -> None:
    """However many calls a connection makes; what is remembered of connections is bounded."""
    handshakes = Handshakes(max_connections=2)
    for connection in ("a:1", "a:2", "a:1", "b:1", "a:1"):
        handshakes.made_a_call(connection)
    assert handshakes.connections_with_a_call == 3
    assert len(handshakes._seen) == 2


class Store:
    def __init__(self) -> None:
        self.rows: list[SealedRow] = []

    async def append(self, _chain: Chain, rows: list[SealedRow]) -> None:
        self.rows.extend(rows)

    async def open(self) -> Chain:
        return Chain(b"\0" * 16, 0, b"\0" * 32)


async def recorded(*refused: tuple[Call, MosaicError]) -> list[tuple[str, Reason | None, int]]:
    """What the log holds after these refusals and the end of their second."""
    store = Store()
    writer = AuditWriter(store, store)  # type: ignore[arg-type]  # a list is a sequence
    recorder = AuditRecorder(writer, CLOCK)
    async with asyncio.TaskGroup() as group:
        work = group.create_task(writer.run())
        for each, error in refused:
            await recorder.record(each, Outcome(error, 0, 1))
        await recorder.post_counted()
        while len(writer._queue) or writer._parts:
            await asyncio.sleep(0)
        work.cancel()
    return [(each.row.source_address, each.row.denied_reason, each.row.repeated) for each in store.rows]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RateLimited(Reason.RATE_LIMITED, "Slow.", layer=Layer.SOURCE), id="beyond a limit of step 0"),
        pytest.param(InvalidInput(Reason.MESSAGE_MALFORMED, "No message.", layer=Layer.REQUEST), id="no message, or none of ours"),
        pytest.param(
            AuthRefused(Reason.AUTH_TOKEN_INVALID, "No.", layer=Layer.CALLER), id="a bearer token that anyone can make up"
        ),
    ],
)
async def test_what_costs_its_sender_nothing_is_counted(error: MosaicError) -> None:
    """One row per key and second says how many it stands for, and no call waits for it."""
    assert await recorded(*((call("192.0.2.1"), error) for _ in range(100)), (call("192.0.2.2"), error)) == [
        ("192.0.2.1", error.reason, 100),
        ("192.0.2.2", error.reason, 1),
    ]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RateLimited(Reason.RATE_LIMITED, "Slow.", layer=Layer.RATE), id="beyond a grant's limit"),
        pytest.param(CertificateRefused(Reason.CERTIFICATE_OID_MISSING, "No.", layer=Layer.CERTIFICATE), id="a certificate"),
    ],
)
async def test_what_was_paid_for_has_its_own_row(error: MosaicError) -> None:
    """Each refusal behind the limits stands in the log by itself."""
    assert await recorded(*((call(), error) for _ in range(3))) == [("192.0.2.7", error.reason, 1)] * 3


def test_a_refused_certificate_is_named() -> None:
    """Beyond its limit a certificate's refusals name grant and certificate, not just the address."""
    bed, pem = Bed(), certificate()
    bed.admit(pem, "192.0.2.1")
    bed.admit(pem, "192.0.2.2")
    begun = call("192.0.2.3")
    with pytest.raises(RateLimited):
        bed.admission.authenticate(begun, Transport(pem, None))
    assert begun.caller is not None
    assert (begun.facts.grant_id, begun.facts.subject_user_id) == (UUID(str(GRANT)), SUBJECT)
