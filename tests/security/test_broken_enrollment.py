"""Somebody broke into enrollment and tries. They hear all that clients send, and hold its leaf: nothing of theirs gets pinned."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pytest
from mosaic.ca.v1 import certificate_authority_pb2 as ca_pb2
from mosaic.ca.v1 import certificate_authority_pb2_grpc as ca_grpc
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import ledger_pb2, ledger_pb2_grpc
from mosaic_common.errors import Layer, Reason
from mosaic_common.identity import CA_BROKER, ENROLLMENT, GRANTS
from mosaic_common.warrants import Warrant
from mosaic_common.x509 import make_csr

from tests.support.audit_records import assert_recorded, record_of
from tests.support.authorities import new_key
from tests.support.forgeries import authority_of
from tests.support.gateway import Gateway
from tests.support.offers import Offer
from tests.support.orders import SigningOrder
from tests.support.peers import Redeemed, Redemption, refusal

SOURCE: Final = "203.0.113.7"


@dataclass(frozen=True, slots=True)
class Intruder:
    """Whoever holds enrollment's key: what the other services answer is all that there is to gain."""

    gateway: Gateway
    ledger: Any
    broker: Any

    @classmethod
    def at(cls, gateway: Gateway) -> "Intruder":
        return cls(
            gateway,
            ledger_pb2_grpc.EnrollmentLedgerServiceStub(gateway.internal_channel(GRANTS, caller=ENROLLMENT)),
            ca_grpc.CertificateAuthorityServiceStub(gateway.internal_channel(CA_BROKER, caller=ENROLLMENT)),
        )

    def claim(self, heard: Redemption, **changes: Any) -> Any:
        """Pass a client's request on, altered as wished."""
        request = ledger_pb2.ClaimEnrollmentRequest(
            token_public_key=heard.request.token_public_key,
            csr_der=heard.request.csr_der,
            redemption_id=heard.request.redemption_id,
            proof=heard.request.proof,
            source_address=SOURCE,
            signer_reachable=True,
        )
        request.MergeFrom(ledger_pb2.ClaimEnrollmentRequest(**changes))
        return self.ledger.ClaimEnrollment(request)

    async def claimed(self, heard: Redemption) -> ledger_pb2.Attempt:
        attempt: ledger_pb2.Attempt = (await self.claim(heard)).attempt
        return attempt

    def issue(self, csr_der: bytes, warrant: str) -> Any:
        return self.broker.IssueCertificate(ca_pb2.IssueCertificateRequest(csr_der=csr_der, warrant=warrant))

    def complete(self, attempt: ledger_pb2.Attempt, chain: list[bytes], **changes: Any) -> Any:
        request = ledger_pb2.CompleteEnrollmentRequest(
            token_id=attempt.token_id,
            attempt=attempt.number,
            certificate_der=chain[0],
            chain_der=chain[1:],
            source_address=SOURCE,
        )
        request.MergeFrom(ledger_pb2.CompleteEnrollmentRequest(**changes))
        return self.ledger.CompleteEnrollment(request)


@pytest.fixture
def intruder(work: Gateway) -> Intruder:
    return Intruder.at(work)


def chain_of(issued: ca_pb2.IssueCertificateResponse) -> list[bytes]:
    return [issued.certificate_der, *issued.chain_der]


async def honest_still_finishes(offer: Offer, heard: Redemption) -> None:
    """The lease of what the intruder began is over; then the client's retry gets the certificate for the client's key."""
    offer.gateway.execute(
        "UPDATE federation.federation_enrollment_tokens SET lease_until = now() WHERE token_id = %s", offer.token_id
    )
    answer = await offer.gateway.enrollment.Enroll(heard.request)
    assert offer.standing() == ("active", "active", 1)
    assert await offer.gateway.peer_client(Redeemed(heard, answer)).capabilities()


@pytest.mark.parametrize(
    "swap",
    [
        pytest.param({"csr_der": make_csr(new_key(), "anybody")}, id="their own CSR under the client's proof"),
        pytest.param({"redemption_id": "00000000-0000-4000-8000-000000000000"}, id="another redemption under the client's proof"),
        pytest.param({"proof": bytes(64)}, id="no proof"),
    ],
)
async def test_what_a_client_signed_cannot_be_altered(intruder: Intruder, work: Gateway, swap: dict[str, Any]) -> None:
    """The token signed this CSR and this redemption; with anything else in their place it is as if nobody knew it."""
    offer = await Offer.make(work)
    heard = Redemption.of(offer.url)
    refused = await refusal(intruder.claim(heard, **swap))
    assert (refused.reason, refused.metadata["http_status"]) == (Reason.ENROLLMENT_TOKEN_UNKNOWN, "404")
    assert offer.standing() == ("pending", "pending", 0)
    await honest_still_finishes(offer, heard)


async def test_a_kept_proof_is_good_for_the_clients_key_only(intruder: Intruder, work: Gateway) -> None:
    """Replayed later, the request gives a warrant for the client's CSR: with any other the broker refuses it; none is signed."""
    offer = await Offer.make(work)
    heard = Redemption.of(offer.url)
    attempt = await intruder.claimed(heard)
    refused = await refusal(intruder.issue(make_csr(new_key(), offer.url.common_name), attempt.warrant))
    assert (refused.reason, refused.metadata["http_status"]) == (Reason.CSR_MISMATCH, "400")
    assert offer.standing() == ("pending", "pending", 0)
    await honest_still_finishes(offer, heard)


async def test_a_completed_redemption_replayed_gives_the_same_certificate(intruder: Intruder, work: Gateway) -> None:
    """What they hear when they replay it is what the client has, and useless without the client's key."""
    offer = await Offer.make(work)
    heard = Redemption.of(offer.url)
    answer = await work.enrollment.Enroll(heard.request)
    replayed = (await intruder.claim(heard)).enrolled
    assert replayed.certificate_der == answer.certificate_der
    assert offer.standing() == ("active", "active", 1)


async def test_certificates_of_two_clients_cannot_be_swapped(intruder: Intruder, work: Gateway) -> None:
    """Two enrollments under way: each completes with its own certificate and with no other, whoever's attempt is named."""
    offers = [await Offer.make(work) for _ in range(2)]
    heard = [Redemption.of(offer.url) for offer in offers]
    attempts = [await intruder.claimed(each) for each in heard]
    chains = [chain_of(await intruder.issue(h.request.csr_der, a.warrant)) for h, a in zip(heard, attempts, strict=True)]
    for attempt, chain in zip(attempts, reversed(chains), strict=True):
        refused = await refusal(intruder.complete(attempt, chain))
        assert (refused.reason, refused.metadata["http_status"]) == (Reason.CA_LIED, "502")
        assert record_of(work, refused)["denied_layer"] == Layer.CA
    assert [offer.standing() for offer in offers] == [("pending", "pending", 0)] * 2
    for attempt, chain in zip(attempts, chains, strict=True):
        await intruder.complete(attempt, chain)
    assert [offer.standing() for offer in offers] == [("active", "active", 1)] * 2


@pytest.mark.parametrize("number", [0, 2, 7, -1])
async def test_nobody_completes_an_attempt_that_is_not_theirs(intruder: Intruder, work: Gateway, number: int) -> None:
    """A certificate with another attempt's number is one that nobody waits for."""
    offer = await Offer.make(work)
    heard = Redemption.of(offer.url)
    attempt = await intruder.claimed(heard)
    chain = chain_of(await intruder.issue(heard.request.csr_der, attempt.warrant))
    wrong = ledger_pb2.Attempt(token_id=attempt.token_id, number=number)
    refused = await refusal(intruder.complete(wrong, chain))
    assert (refused.reason, refused.metadata["http_status"]) == (Reason.ENROLLMENT_TOKEN_USED, "410")
    assert_recorded(work, refused, Layer.TOKEN)
    assert offer.standing() == ("pending", "pending", 0)
    await intruder.complete(attempt, chain)
    assert offer.standing() == ("active", "active", 1)


def _their_own(work: Gateway, warrant: Warrant) -> list[bytes]:
    """Under the real authority, in their hands, with everything as ordered but the key."""
    return list(authority_of(work).sign(new_key().public_key(), warrant))


def _under_their_root(work: Gateway, warrant: Warrant) -> list[bytes]:
    stranger = authority_of(work).make(work.clock.now())
    return list(stranger.sign(new_key().public_key(), warrant))


@pytest.mark.parametrize("forge", [_their_own, _under_their_root], ids=["under the real authority", "under their own root"])
async def test_a_certificate_for_their_own_key_is_not_pinned(intruder: Intruder, work: Gateway, forge: Any) -> None:
    """Even one that the real authority signed, with the right ids, name, serial and dates: the key is not the claimed CSR's."""
    offer = await Offer.make(work)
    heard = Redemption.of(offer.url)
    attempt = await intruder.claimed(heard)
    [(serial,)] = work.rows("SELECT serial FROM federation.federation_enrollment_tokens WHERE token_id = %s", offer.token_id)
    order = SigningOrder.make(
        common_name=offer.url.common_name,
        grant_id=offer.grant_id,
        subject_user_id=offer.subject,
        serial=int(serial),
        not_after=work.clock.now().replace(microsecond=0) + timedelta(days=7),
    )
    refused = await refusal(intruder.complete(attempt, forge(work, order.warrant)))
    assert (refused.reason, refused.metadata["http_status"]) == (Reason.CA_LIED, "502")
    assert_recorded(work, refused, Layer.CA, outcome=record_of(work, refused)["outcome"])
    assert offer.standing() == ("pending", "pending", 0)
    await honest_still_finishes(offer, heard)


async def test_a_claim_taken_from_its_owner_is_only_a_refusal(intruder: Intruder, work: Gateway) -> None:
    """Released behind the client's back, the claim costs one attempt: its serial is owed, and the client's retry finishes."""
    offer = await Offer.make(work)
    heard = Redemption.of(offer.url)
    attempt = await intruder.claimed(heard)
    chain = chain_of(await intruder.issue(heard.request.csr_der, attempt.warrant))
    await intruder.ledger.ReleaseEnrollment(
        ledger_pb2.ReleaseEnrollmentRequest(
            token_id=attempt.token_id, attempt=attempt.number, reason=errors_pb2.REASON_CA_REFUSED, source_address=SOURCE
        )
    )
    refused = await refusal(intruder.complete(attempt, chain))
    assert refused.reason == Reason.ENROLLMENT_TOKEN_USED
    [(owed,)] = work.rows("SELECT count(*) FROM federation.federation_ca_outbox WHERE grant_id = %s", offer.grant_id)
    assert owed == 1
    answer = await work.enrollment.Enroll(heard.request)
    assert answer.certificate_der != chain[0]
    assert offer.standing() == ("active", "active", 1)


@pytest.mark.parametrize(
    ("service", "method"),
    [
        pytest.param(GRANTS, "/mosaic.grants.v1.GrantResolverService/ResolveGrant", id="what a grant shows"),
        pytest.param(GRANTS, "/mosaic.grants.v1.PeerCredentialService/GetPeerCredential", id="keys of connections"),
        pytest.param(CA_BROKER, "/mosaic.ca.v1.CertificateAuthorityService/RevokeCertificate", id="revoking"),
        pytest.param(CA_BROKER, "/mosaic.ca.v1.CertificateAuthorityService/GetRevocationList", id="the list"),
    ],
)
async def test_nothing_else_is_open_to_them(work: Gateway, service: str, method: str) -> None:
    """Enrollment's leaf opens what its row allows, and nothing beside it."""
    call: Any = work.internal_channel(service, caller=ENROLLMENT).unary_unary(method)
    refused = await refusal(call(b""))
    assert (refused.reason, refused.metadata["http_status"]) == (Reason.CALLER_NOT_ALLOWED, "403")
