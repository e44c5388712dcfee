"""A token is redeemed once, and is itself nowhere: it signs, and never travels."""

import asyncio
import base64
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.rpc.call import Behaviour, Wrapper
from mosaic_common.rpc.methods import Method
from mosaic_common.tokens import EnrollmentUrl
from mosaic_common.x509 import make_csr
from psycopg import sql
from structlog.testing import capture_logs

from tests.support.authorities import new_key
from tests.support.gateway import Gateway
from tests.support.log_lines import lines_written
from tests.support.offers import Offer
from tests.support.peers import Redemption, Refusal, refusal
from tests.support.postgres import Database

ENROLL = "/mosaic.enrollment.v1.EnrollmentService/Enroll"


class Tapped:
    """A call whose messages are noted as they are read."""

    def __init__(self, context: Any, path: str, received: list[tuple[str, bytes]]) -> None:
        self._context = context
        self._path = path
        self._received = received

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._received.append((self._path, message))
        return message


@dataclass(frozen=True, slots=True)
class Wiretap:
    """Every header and every message that any service of the gateway received, as received: before it was decoded."""

    received: list[tuple[str, bytes]] = field(default_factory=list)

    def handler(self, served: Any, method: Method) -> Any:
        """Listen in front of a handler of the wrapper."""

        async def serve(messages: AsyncIterator[bytes], context: Any) -> bytes:
            for key, value in context.invocation_metadata() or ():
                self.received.append((method.path, key.encode()))
                self.received.append((method.path, value if isinstance(value, bytes) else value.encode()))
            answer: bytes = await served.stream_unary(messages, Tapped(context, method.path, self.received))
            return answer

        return grpc.stream_unary_rpc_method_handler(serve, request_deserializer=None, response_serializer=None)

    def messages(self, path: str) -> list[bytes]:
        return [received for where, received in self.received if where == path]


@pytest.fixture(scope="module")
def wiretap() -> Iterator[Wiretap]:
    """Listen on every listener that starts from now on."""
    tap, handler = Wiretap(), Wrapper.handler

    def tapped(wrapper: Wrapper, method: Method, behaviour: Behaviour) -> Any:
        return tap.handler(handler(wrapper, method, behaviour), method)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wrapper, "handler", tapped)
        yield tap


@pytest.fixture(scope="module")
async def tapped(wiretap: Wiretap, work: Gateway) -> Gateway:
    """The gateway, started after the tap was set."""
    return work


async def redeem(work: Gateway, redemption: Redemption) -> enrollment_pb2.EnrollResponse | Refusal:
    try:
        answer: enrollment_pb2.EnrollResponse = await work.enrollment.Enroll(redemption.request)
    except grpc.RpcError as refused:
        return Refusal.of(refused)
    return answer


# ── once ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_fifty_at_once_make_one_certificate(tapped: Gateway) -> None:
    """Fifty hold one token, each with a key and a redemption of their own: one gets a certificate, 49 hear that it is gone."""
    offer, spent = await Offer.make(tapped), tapped.folder / "ca" / "used"
    signed_before = len(list(spent.iterdir()))
    outcomes = await asyncio.gather(*(redeem(tapped, Redemption.of(offer.url)) for _ in range(50)))

    (answer,) = (each for each in outcomes if isinstance(each, enrollment_pb2.EnrollResponse))
    refused = [each for each in outcomes if isinstance(each, Refusal)]
    assert {(each.code, each.reason, each.metadata["http_status"]) for each in refused} == {
        (grpc.StatusCode.FAILED_PRECONDITION, "ENROLLMENT_TOKEN_USED", "410")
    }
    assert len(refused) == 49
    assert offer.standing() == ("active", "active", 1)
    assert tapped.rows("SELECT der FROM federation.federation_certificates WHERE grant_id = %s", offer.grant_id) == [
        (answer.certificate_der,)
    ]
    assert len(list(spent.iterdir())) == signed_before + 1
    recorded = offer.redemptions()
    assert recorded.count(("enrollment.claimed", "allowed", None, None)) == 1
    assert recorded.count(("enrollment.completed", "allowed", None, None)) == 1
    assert recorded.count(("enrollment.refused", "denied", "token", "ENROLLMENT_TOKEN_USED")) == 49


async def test_the_same_redemption_gets_the_same_certificate(tapped: Gateway) -> None:
    """Whoever missed the answer asks again and gets it, byte for byte; no second one is signed."""
    offer = await Offer.make(tapped)
    redemption = Redemption.of(offer.url)
    first = await redeem(tapped, redemption)
    assert isinstance(first, enrollment_pb2.EnrollResponse)
    for _ in range(3):
        assert await redeem(tapped, redemption) == first
    assert offer.standing() == ("active", "active", 1)


async def test_the_same_redemption_ten_times_at_once_is_one(tapped: Gateway) -> None:
    """Repeats that overtake each other get the one certificate, or are told when to come back for it."""
    offer = await Offer.make(tapped)
    redemption = Redemption.of(offer.url)
    outcomes = await asyncio.gather(*(redeem(tapped, redemption) for _ in range(10)))
    certificates = {each.certificate_der for each in outcomes if isinstance(each, enrollment_pb2.EnrollResponse)}
    waiting = [each for each in outcomes if isinstance(each, Refusal)]
    assert {(each.code, each.reason) for each in waiting} <= {(grpc.StatusCode.ABORTED, "ENROLLMENT_IN_PROGRESS")}
    assert all(each.retry_after_seconds for each in waiting)
    again = await redeem(tapped, redemption)
    assert isinstance(again, enrollment_pb2.EnrollResponse)
    assert certificates == {again.certificate_der}
    assert offer.standing() == ("active", "active", 1)


def another_csr(redemption: Redemption, url: EnrollmentUrl) -> enrollment_pb2.EnrollRequest:
    return proved(url, make_csr(new_key(), url.common_name), redemption.request.redemption_id)


def another_redemption_id(redemption: Redemption, url: EnrollmentUrl) -> enrollment_pb2.EnrollRequest:
    return proved(url, redemption.request.csr_der, str(uuid4()))


def proved(url: EnrollmentUrl, csr_der: bytes, redemption_id: str) -> enrollment_pb2.EnrollRequest:
    """What a holder of the token may ask: the proof holds."""
    return enrollment_pb2.EnrollRequest(
        token_public_key=url.token.public_key,
        csr_der=csr_der,
        redemption_id=redemption_id,
        proof=url.token.prove(csr_der, UUID(redemption_id), url.pin),
    )


@pytest.mark.parametrize("change", [another_csr, another_redemption_id])
async def test_a_redemption_that_differs_is_another_one(
    tapped: Gateway, change: Callable[[Redemption, EnrollmentUrl], enrollment_pb2.EnrollRequest]
) -> None:
    """A retry is the same token, the same CSR and the same redemption id; with either changed the token is gone."""
    offer = await Offer.make(tapped)
    redemption = Redemption.of(offer.url)
    await redeem(tapped, redemption)
    refused = await refusal(tapped.enrollment.Enroll(change(redemption, offer.url)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENROLLMENT_TOKEN_USED")
    assert offer.redemptions()[-1] == ("enrollment.refused", "denied", "token", "ENROLLMENT_TOKEN_USED")
    assert offer.standing() == ("active", "active", 1)


async def replace_token(offer: Offer) -> None:
    await offer.gateway.create_token(str(offer.grant_id))


async def let_it_expire(offer: Offer) -> None:
    offer.gateway.execute(
        "UPDATE federation.federation_enrollment_tokens SET expires_at = now() WHERE token_id = %s", offer.token_id
    )


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param(replace_token, "ENROLLMENT_TOKEN_VOIDED", id="a newer token was made"),
        pytest.param(let_it_expire, "ENROLLMENT_TOKEN_EXPIRED", id="its time is over"),
    ],
)
async def test_a_token_that_ended_gives_nothing(tapped: Gateway, end: Callable[[Offer], Any], reason: str) -> None:
    """Expired and replaced tokens are gone, each by its own name, and leave a row."""
    offer = await Offer.make(tapped)
    await end(offer)
    refused = await refusal(tapped.redeem(offer.url))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert refused.metadata["http_status"] == "410"
    assert offer.redemptions() == [("enrollment.refused", "denied", "token", reason)]
    assert offer.standing() == ("pending", "pending", 0)


async def test_a_retry_ends_with_the_token(tapped: Gateway) -> None:
    """The recorded certificate is handed out again until the token expires, and not later."""
    offer = await Offer.make(tapped)
    redemption = Redemption.of(offer.url)
    await redeem(tapped, redemption)
    await let_it_expire(offer)
    assert (await refusal(tapped.enrollment.Enroll(redemption.request))).reason == "ENROLLMENT_TOKEN_EXPIRED"


# ── nowhere ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def spellings(secret: bytes) -> dict[str, bytes]:
    """How bytes may stand in a record: raw, as numbers, escaped, and inside base64 that began before them."""
    found = {
        "raw": secret,
        "reversed": secret[::-1],
        "hexadecimal": secret.hex().encode(),
        "HEXADECIMAL": secret.hex().upper().encode(),
        "hexadecimal with colons": secret.hex(":").encode(),
        "decimal": str(int.from_bytes(secret, "big")).encode(),
        "a list of numbers": ", ".join(map(str, secret)).encode(),
        "escaped": repr(secret)[2:-1].encode(),
        "base32": base64.b32encode(secret).rstrip(b"=")[:-1],
    }
    for shift in range(3):
        # Only the characters that the secret's bits alone determine, whatever stands on either side of it.
        whole = base64.b64encode(bytes(shift) + secret + bytes(3))
        certain = whole[-(-8 * shift // 6) : 8 * (shift + len(secret)) // 6]
        found[f"base64 {shift}"] = certain
        found[f"base64url {shift}"] = certain.translate(bytes.maketrans(b"+/", b"-_"))
    return found


def where_found(secret: bytes, haystack: bytes) -> list[str]:
    return [name for name, spelled in spellings(secret).items() if spelled in haystack]


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(lambda s: b"\x0a\x20" + s, id="a protobuf field"),
        pytest.param(lambda s: json.dumps({"t": base64.b64encode(b"x" + s).decode()}).encode(), id="base64, shifted"),
        pytest.param(lambda s: base64.urlsafe_b64encode(b"xy" + s + b"z"), id="base64url, shifted"),
        pytest.param(lambda s: b"#token=" + base64.urlsafe_b64encode(s).rstrip(b"="), id="as the URL spells it"),
        pytest.param(lambda s: f"\\\\x{s.hex()}".encode(), id="bytea"),
        pytest.param(lambda s: str({"seed": s}).encode(), id="a dictionary's repr"),
    ],
)
def test_the_search_finds_what_is_there(record: Callable[[bytes], bytes]) -> None:
    """A token that was recorded would be found, however it was spelled."""
    secret = bytes(range(0xE0, 0x100))
    assert where_found(secret, b"before " + record(secret) + b" after")
    assert not where_found(secret, b"before " + record(secret[::-1][:16] * 2) + b" after")


def dump(database: Database) -> bytes:
    """Every column of every row of every table that is not PostgreSQL's own, and what its sessions last ran."""
    with database.connect_superuser() as connection:
        tables = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        pieces: list[bytes] = []
        for table in [*tables, ("pg_catalog", "pg_stat_activity")]:
            statement = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT").format(sql.Identifier(*table))
            with connection.cursor().copy(statement) as rows:
                pieces.extend(bytes(row) for row in rows)
        return b"".join(pieces)


async def enroll_by_cli(url: EnrollmentUrl, folder: Path) -> bytes:
    """Run `mosaic federation enroll` with the URL on its stdin; return all that it wrote to the terminal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mosaic_cli", "federation", "enroll", "--out", str(folder), "--output", "json"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(f"{url.format()}\n".encode())
    assert process.returncode == 0, err.decode()
    return out + err


def contents(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_the_token_is_found_nowhere(
    tapped: Gateway, wiretap: Wiretap, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """No table, no log line even before redaction, and no byte that any service received holds the token, nor does what our own CLI
    leaves behind: after it was made, redeemed, tried again and tried wrongly.
    """
    caplog.set_level(logging.DEBUG)
    with capture_logs() as events:
        offer = await Offer.make(tapped)
        shown = await enroll_by_cli(offer.url, tmp_path / "peer")
        assert (await refusal(tapped.redeem(offer.url))).reason == "ENROLLMENT_TOKEN_USED"
        forged = Redemption.of(offer.url).request
        forged.proof = bytes(64)
        assert (await refusal(tapped.enrollment.Enroll(forged))).reason == "ENROLLMENT_TOKEN_UNKNOWN"
        await lines_written()
    logged = repr(events).encode() + caplog.text.encode() + "".join(capfd.readouterr()).encode()
    received = b"\n".join(b for _, b in wiretap.received)
    database = dump(tapped.database)

    # What is looked through is not empty: the token's public side is in it.
    assert offer.standing() == ("active", "active", 1)
    assert len([each for each in wiretap.messages(ENROLL) if offer.url.token.public_key in each]) == 3
    assert where_found(offer.token_id, database)
    assert ENROLL.encode() in logged

    for name, haystack in {"database": database, "logs": logged, "wire": received, "peer": shown + contents(tmp_path)}.items():
        assert not where_found(offer.url.token.seed, haystack), name


async def test_a_token_is_not_tried_for_ever(tapped: Gateway) -> None:
    """Each attempt leaves a serial on the authority's list: after 200 of them it is void, and says what to look at."""
    offer = await Offer.make(tapped)
    tapped.execute("UPDATE federation.federation_enrollment_tokens SET attempt = 200 WHERE token_id = %s", offer.token_id)
    refused = await refusal(tapped.enrollment.Enroll(Redemption.of(offer.url).request))
    assert (refused.reason, refused.metadata["http_status"]) == ("ENROLLMENT_TOKEN_VOIDED", "410")
    assert "200 times" in refused.message
    assert offer.redemptions()[-1] == ("enrollment.refused", "denied", "token", "ENROLLMENT_TOKEN_VOIDED")
