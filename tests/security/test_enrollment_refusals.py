"""The negative rows of an enrollment at the real public listener: CSR, proof and token, each by itself and with all else right.

A refusal says what is wrong, leaves a row that says the same, and costs the token nothing that it does not have to cost: the same
token is redeemed right afterwards.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
import pytest
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic_common.errors import Reason
from mosaic_common.tokens import EnrollmentToken, EnrollmentUrl
from mosaic_common.x509 import make_csr

from tests.support import csrs
from tests.support.authorities import new_key
from tests.support.csrs import CsrOf, redemption_with
from tests.support.gateway import Gateway
from tests.support.offers import Offer
from tests.support.peers import Redemption, Refusal, refusal

INVALID_ARGUMENT, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
OVER_THE_CAP: Final = 100_000

Request = enrollment_pb2.EnrollRequest


def assert_heard(refused: Refusal, code: grpc.StatusCode, reason: str, http_status: str) -> None:
    assert (refused.code, refused.reason, refused.metadata["http_status"]) == (code, reason, http_status)
    assert UUID(refused.metadata["request_id"])


def assert_recorded(offer: Offer, code: grpc.StatusCode, layer: str, reason: str) -> None:
    """One row, of the token, its grant and where the attempt came from; and nothing was claimed, signed or pinned."""
    assert offer.redemptions() == [("enrollment.refused", "denied", layer, reason)]
    [(grant_id, subject, source, status_code, results)] = offer.gateway.rows(
        """SELECT grant_id, subject_user_id, source_address, status_code, result_count
           FROM federation.federation_audit_log WHERE token_id = %s AND event = 'enrollment.refused'""",
        offer.token_id,
    )
    assert (grant_id, subject, source, status_code, results) == (offer.grant_id, offer.subject, "127.0.0.1", code.value[0], 0)
    assert_untouched(offer)


def assert_untouched(offer: Offer) -> None:
    claims = offer.gateway.rows(
        """SELECT attempt, redemption_id, csr_sha256, serial, lease_until, fingerprint_sha256
           FROM federation.federation_enrollment_tokens WHERE token_id = %s""",
        offer.token_id,
    )
    assert claims == [(0, None, None, None, None, None)]
    assert offer.standing() == ("pending", "pending", 0)


async def assert_redeemable(offer: Offer, url: EnrollmentUrl | None = None) -> None:
    """What was refused cost nothing."""
    redeemed = await offer.gateway.redeem(url or offer.url)
    assert redeemed.answer.grant_id == str(offer.grant_id)
    assert offer.standing() == ("active", "active", 1)


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def changed(url: EnrollmentUrl, **fields: Any) -> Request:
    """A redemption with a proof that holds, and then these fields."""
    request = Redemption.of(url).request
    for name, value in fields.items():
        setattr(request, name, value)
    return request


def proof_of(
    url: EnrollmentUrl,
    *,
    csr_der: bytes | None = None,
    redemption_id: UUID | None = None,
    pin: Callable[[bytes], bytes | None] = bytes,
) -> Request:
    """A redemption with the proof for another one, which differs in this."""
    request = Redemption.of(url).request
    assert url.pin is not None
    request.proof = url.token.prove(csr_der or request.csr_der, redemption_id or UUID(request.redemption_id), pin(url.pin))
    return request


def with_proof(change: Callable[[bytes], bytes]) -> Callable[[EnrollmentUrl], Request]:
    def make(url: EnrollmentUrl) -> Request:
        request = Redemption.of(url).request
        request.proof = change(request.proof)
        return request

    return make


def by_another_key(url: EnrollmentUrl) -> Request:
    request = Redemption.of(replace(url, token=EnrollmentToken.generate())).request
    request.token_public_key = url.token.public_key
    return request


def with_another_csr_of_the_same_key(url: EnrollmentUrl) -> Request:
    redemption = Redemption.of(url)
    redemption.request.csr_der = make_csr(redemption.key, url.common_name)  # ECDSA is randomised: not the same bytes
    return redemption.request


UNPROVEN: Final = [
    pytest.param(by_another_key, id="another token's proof"),
    pytest.param(lambda url: proof_of(url, csr_der=make_csr(new_key(), url.common_name)), id="for another CSR"),
    pytest.param(with_another_csr_of_the_same_key, id="for another CSR of the same key"),
    pytest.param(lambda url: changed(url, csr_der=Redemption.of(url).request.csr_der), id="the CSR exchanged by a relay"),
    pytest.param(lambda url: changed(url, csr_der=Redemption.of(url).request.csr_der + b"\x00"), id="a byte behind the CSR"),
    pytest.param(lambda url: changed(url, csr_der=b""), id="the CSR removed"),
    pytest.param(lambda url: proof_of(url, redemption_id=uuid4()), id="for another redemption id"),
    pytest.param(lambda url: changed(url, redemption_id=str(uuid4())), id="the redemption id exchanged"),
    pytest.param(lambda url: proof_of(url, pin=lambda _: bytes(range(32))), id="for another pin: signed under another root"),
    pytest.param(lambda url: proof_of(url, pin=lambda _: None), id="without the pin"),
    pytest.param(lambda url: proof_of(url, pin=lambda pin: pin[:-1]), id="for a shorter pin"),
    pytest.param(lambda url: proof_of(url, pin=lambda pin: pin[::-1]), id="for the pin backwards"),
    pytest.param(with_proof(lambda _: b""), id="none"),
    pytest.param(with_proof(lambda _: bytes(64)), id="zeros"),
    pytest.param(with_proof(lambda proof: proof[:-1]), id="truncated by a byte"),
    pytest.param(with_proof(lambda proof: proof[:32]), id="half of it"),
    pytest.param(with_proof(lambda proof: proof + b"\x00"), id="a byte behind it"),
    pytest.param(with_proof(lambda proof: proof * 2), id="twice"),
    pytest.param(with_proof(lambda proof: bytes([proof[0] ^ 1]) + proof[1:]), id="a bit of R altered"),
    pytest.param(with_proof(lambda proof: proof[:-32] + _plus_group_order(proof[-32:])), id="S + L: a second proof from the first"),
]


def _plus_group_order(scalar: bytes) -> bytes:
    """RFC 8032 §5.1.7: S has to be below L, or each signature would have a twin."""
    group_order = 2**252 + 27742317777372353535851937790883648493
    return (int.from_bytes(scalar, "little") + group_order).to_bytes(32, "little")


async def test_each_proof_that_does_not_hold_is_counted(work: Gateway) -> None:
    """They cost their sender nothing, so they share a row a second, which says how many it stands for and names no grant."""
    # The first of this module: of what others were refused, the rows come up to a second later.
    assert counted(work, "ENROLLMENT_TOKEN_UNKNOWN") == 0
    offer = await Offer.make(work)
    for row in UNPROVEN:
        (forge,) = row.values
        assert callable(forge)
        await refusal(work.enrollment.Enroll(forge(offer.url)))
    async with asyncio.timeout(10):
        while counted(work, "ENROLLMENT_TOKEN_UNKNOWN") < len(UNPROVEN):
            await asyncio.sleep(0.05)
    assert counted(work, "ENROLLMENT_TOKEN_UNKNOWN") == len(UNPROVEN)
    assert_untouched(offer)


def counted(work: Gateway, reason: str) -> int:
    """How many refusals of this kind the audit log stands for."""
    rows = [row for row in work.audit("enrollment.refused") if row["denied_reason"] == reason]
    assert all((row["outcome"], row["grant_id"], row["source_address"]) == ("denied", None, "127.0.0.1") for row in rows)
    return sum(row["repeated"] for row in rows)


@pytest.mark.parametrize("forge", UNPROVEN)
async def test_a_proof_that_does_not_hold_costs_its_holder_nothing(
    work: Gateway, forge: Callable[[EnrollmentUrl], Request]
) -> None:
    """Whoever knows a token's public side alone hears that there is no such token, and can neither burn nor hold it."""
    offer = await Offer.make(work)
    refused = await refusal(work.enrollment.Enroll(forge(offer.url)))
    assert_heard(refused, NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN", "404")
    assert (refused.message, refused.violations) == ("This gateway knows no such enrollment token.", {})
    assert_untouched(offer)
    await assert_redeemable(offer)


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda _: "", id="none"),
        pytest.param(str.upper, id="upper case"),
        pytest.param(lambda text: text.replace("-", ""), id="no hyphens"),
        pytest.param(lambda text: f"{{{text}}}", id="in braces"),
        pytest.param(lambda text: f"urn:uuid:{text}", id="a URN"),
        pytest.param(lambda text: f"{text}\n", id="a line feed behind it"),
        pytest.param(lambda text: text[:-1], id="a character short"),
        pytest.param(lambda text: f"{text[:-1]}g", id="not hexadecimal"),
        pytest.param(lambda _: "\u0661" * 36, id="other digits"),
    ],
)
async def test_a_redemption_id_has_one_spelling(work: Gateway, spell: Callable[[str], str]) -> None:
    """A second spelling would be a second redemption to one reader and the same to another; the field is named, the token stays."""
    offer, redemption_id = await Offer.make(work), "0b4e3c2a-9f1d-4c5b-8a76-1e2d3c4b5a69"
    before = counted(work, "REQUEST_INVALID")
    refused = await refusal(work.enrollment.Enroll(changed(offer.url, redemption_id=spell(redemption_id))))
    assert_heard(refused, INVALID_ARGUMENT, "REQUEST_INVALID", "400")
    assert set(refused.violations) == {"redemption_id"}
    async with asyncio.timeout(5):
        while counted(work, "REQUEST_INVALID") <= before:
            await asyncio.sleep(0.05)
    assert_untouched(offer)
    await assert_redeemable(offer)


# ── the CSR ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("make", "reason"), csrs.REFUSED)
async def test_a_refused_csr_leaves_the_token_open(work: Gateway, make: CsrOf, reason: Reason) -> None:
    """With a proof that holds for it, a bad request is named for what it is, and the right one is redeemed afterwards."""
    offer = await Offer.make(work)
    refused = await refusal(work.enrollment.Enroll(redemption_with(offer.url, make(offer.url.common_name))))
    assert_heard(refused, INVALID_ARGUMENT, reason, "400")
    assert_recorded(offer, INVALID_ARGUMENT, "csr", reason)
    await assert_redeemable(offer)


async def test_a_csr_over_the_message_cap_enters_no_handler(work: Gateway) -> None:
    """100 kB, perfect otherwise: the library refuses the message, so there is no reason and no row; the token stays open."""
    offer = await Offer.make(work)
    refused = await refusal(work.enrollment.Enroll(redemption_with(offer.url, csrs.of_size(OVER_THE_CAP)(offer.url.common_name))))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
    assert offer.redemptions() == []
    assert_untouched(offer)
    await assert_redeemable(offer)


async def test_of_two_faults_of_a_request_the_proof_is_named(work: Gateway) -> None:
    """A bad CSR is told to whoever holds the token; to everybody else a token shows nothing, so a CSR is not even read."""
    offer = await Offer.make(work)
    request = redemption_with(offer.url, make_csr(new_key(), "elsewhere"))
    request.proof = bytes(64)
    assert_heard(await refusal(work.enrollment.Enroll(request)), NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN", "404")
    assert offer.redemptions() == []
    await assert_redeemable(offer)


# ── the token ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "public_key",
    [
        *(pytest.param(lambda _, size=size: bytes(size), id=f"{size} bytes") for size in (0, 1, 31, 33, 64, 4096)),
        pytest.param(lambda key: key[:-1], id="a byte short"),
        pytest.param(lambda key: key + b"\x00", id="a byte long"),
        pytest.param(lambda key: key.hex().encode(), id="in hexadecimal"),
        pytest.param(lambda key: key[::-1], id="backwards"),
        pytest.param(lambda key: bytes([key[0] ^ 1]) + key[1:], id="a bit altered"),
        pytest.param(lambda _: EnrollmentToken.generate().public_key, id="of a token that nobody made"),
    ],
)
async def test_a_public_key_that_is_no_tokens_is_unknown(work: Gateway, public_key: Callable[[bytes], bytes]) -> None:
    """Whatever its length and whatever is wrong with it: the answer is that of an unknown token, and the real one stays open."""
    offer = await Offer.make(work)
    request = changed(offer.url, token_public_key=public_key(offer.url.token.public_key))
    assert_heard(await refusal(work.enrollment.Enroll(request)), NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN", "404")
    assert offer.redemptions() == []
    await assert_redeemable(offer)


async def test_a_token_that_nobody_made_is_unknown(work: Gateway) -> None:
    """Its own proof holds, and opens nothing."""
    offer = await Offer.make(work)
    refused = await refusal(work.redeem(replace(offer.url, token=EnrollmentToken.generate())))
    assert_heard(refused, NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN", "404")
    await assert_redeemable(offer)


@pytest.mark.parametrize("point", ["01" + "00" * 31, "00" * 32, "ec" + "ff" * 30 + "7f"], ids=["order 1", "order 4", "order 2"])
async def test_a_proof_that_anybody_could_make_opens_nothing(work: Gateway, point: str) -> None:
    """Under a key of small order R = S·B verifies for many messages without a secret; no such key is a token's."""
    offer, identity = await Offer.make(work), bytes.fromhex("01" + "00" * 31)
    request = changed(offer.url, token_public_key=bytes.fromhex(point), proof=identity + bytes(32))
    assert_heard(await refusal(work.enrollment.Enroll(request)), NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN", "404")
    await assert_redeemable(offer)


async def expired_by_a_second(offer: Offer) -> EnrollmentUrl:
    """By the database's clock; returns the URL that takes its place."""
    offer.gateway.execute(
        """UPDATE federation.federation_enrollment_tokens
           SET created_at = now() - interval '901 s', expires_at = now() - interval '1 s' WHERE token_id = %s""",
        offer.token_id,
    )
    return offer.url


async def voided(offer: Offer) -> EnrollmentUrl:
    return await offer.gateway.create_token(str(offer.grant_id))


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param(expired_by_a_second, "ENROLLMENT_TOKEN_EXPIRED", id="expired a second ago"),
        pytest.param(voided, "ENROLLMENT_TOKEN_VOIDED", id="voided by a newer one"),
    ],
)
async def test_a_token_that_ended_is_gone_and_the_next_one_is_not(
    work: Gateway, end: Callable[[Offer], Awaitable[EnrollmentUrl]], reason: str
) -> None:
    """An ended token says how it ended, also to a retry; the grant waits on, and a token made afterwards redeems it."""
    offer = await Offer.make(work)
    newest = await end(offer)
    request = Redemption.of(offer.url).request
    assert_heard(await refusal(work.enrollment.Enroll(request)), FAILED_PRECONDITION, reason, "410")
    assert_recorded(offer, FAILED_PRECONDITION, "token", reason)
    assert (await refusal(work.enrollment.Enroll(request))).reason == reason
    await assert_redeemable(offer, newest if newest != offer.url else await work.create_token(str(offer.grant_id)))


async def test_a_token_lives_until_its_last_second(work: Gateway) -> None:
    """Expired is what lies in the past of the database's clock, and nothing earlier: with its time running out it still redeems."""
    offer = await Offer.make(work)
    work.execute(
        """UPDATE federation.federation_enrollment_tokens
           SET created_at = now() - interval '895 s', expires_at = now() + interval '5 s' WHERE token_id = %s""",
        offer.token_id,
    )
    await assert_redeemable(offer)


async def test_a_token_of_another_peer_is_refused_until_the_ledger_agrees_with_itself(work: Gateway) -> None:
    """Should the rows ever say that a token was made for another peer than its grant's, nothing is signed for either of them."""
    offer, other = await Offer.make(work), await Offer.make(work)
    [(own_peer,)] = work.rows("SELECT peer_id FROM federation.federation_grants WHERE id = %s", offer.grant_id)
    [(others_peer,)] = work.rows("SELECT peer_id FROM federation.federation_grants WHERE id = %s", other.grant_id)
    made_for = "UPDATE federation.federation_enrollment_tokens SET peer_id = %s WHERE token_id = %s"
    work.execute(made_for, others_peer, offer.token_id)
    assert_heard(await refusal(work.redeem(offer.url)), INVALID_ARGUMENT, "GRANT_PEER_MISMATCH", "400")
    assert_recorded(offer, INVALID_ARGUMENT, "grant", "GRANT_PEER_MISMATCH")
    in_the_others_name = redemption_with(offer.url, make_csr(new_key(), other.url.common_name))
    assert (await refusal(work.enrollment.Enroll(in_the_others_name))).reason == "CSR_COMMON_NAME_MISMATCH"
    assert_untouched(offer)
    assert_untouched(other)

    work.execute(made_for, own_peer, offer.token_id)
    await assert_redeemable(offer)
    await assert_redeemable(other)
