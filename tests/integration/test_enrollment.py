"""From a token to a pinned certificate, and everything that does not lead there."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mosaic.ca.v1 import certificate_authority_pb2, certificate_authority_pb2_grpc
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic.grants.v1 import grants_pb2, ledger_pb2, ledger_pb2_grpc, types_pb2
from mosaic_common.auth import Role, query_audience
from mosaic_common.tokens import EnrollmentUrl
from mosaic_common.x509 import fingerprint_sha256

from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway, Pair
from tests.support.peers import Redemption, refusal

SUBJECT = "maya@example.com"


@pytest.fixture(scope="module")
def work(pair: Pair) -> Gateway:
    return pair.work


@pytest.fixture
async def url(work: Gateway) -> EnrollmentUrl:
    """A fresh token for a fresh grant."""
    return await work.create_token(await work.create_grant(user=SUBJECT, peer="home", scope=TASKS_NOTES_MEMORY))


async def test_a_token_becomes_a_certificate_and_an_active_grant(work: Gateway, url: EnrollmentUrl) -> None:
    """Acceptance 2 and 4: the certificate names grant and subject, is pinned, and grant and peer are active."""
    redeemed = await work.redeem(url)
    answer = redeemed.answer
    assert (answer.gateway, answer.federation_endpoint) == ("work", work.addresses["edge-inbound", "public"])
    [(status, subject, fingerprint, peer_state)] = work.rows(
        """SELECT g.status, g.subject_user_id::text, c.fingerprint_sha256, p.state
           FROM federation.federation_grants g
           JOIN federation.federation_certificates c ON c.grant_id = g.id
           JOIN federation.federation_peers p ON p.id = g.peer_id WHERE g.id = %s""",
        answer.grant_id,
    )
    assert (status, peer_state, subject) == ("active", "active", answer.subject_user_id)
    assert bytes(fingerprint) == fingerprint_sha256(answer.certificate_der)
    assert [row["outcome"] for row in work.audit("enrollment.completed")][-1] == "allowed"


async def test_a_retry_after_a_lost_reply_gets_the_same_certificate(work: Gateway, url: EnrollmentUrl) -> None:
    """The same redemption is answered again, without another signature."""
    first = await work.redeem(url)
    again = await work.enrollment.Enroll(first.redemption.request)
    assert again.certificate_der == first.answer.certificate_der
    certificates = work.rows("SELECT count(*) FROM federation.federation_certificates WHERE grant_id = %s", first.answer.grant_id)
    assert certificates == [(1,)]


async def test_a_second_redemption_is_gone(work: Gateway, url: EnrollmentUrl) -> None:
    """Acceptance 3: another CSR and another redemption id find a used token, and the audit log names it."""
    redeemed = await work.redeem(url)
    refused = await refusal(work.redeem(url))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENROLLMENT_TOKEN_USED")
    assert refused.metadata["http_status"] == "410"
    last = work.audit("enrollment.refused")[-1]
    assert (last["denied_layer"], last["denied_reason"]) == ("token", "ENROLLMENT_TOKEN_USED")
    assert str(last["grant_id"]) == redeemed.answer.grant_id


async def test_an_expired_token_is_gone_by_the_databases_clock(work: Gateway, url: EnrollmentUrl) -> None:
    """One second late is late."""
    work.execute(
        """UPDATE federation.federation_enrollment_tokens
           SET created_at = now() - interval '901 s', expires_at = now() - interval '1 s'
           WHERE fingerprint_sha256 IS NULL AND voided_at IS NULL"""
    )
    refused = await refusal(work.redeem(url))
    assert (refused.reason, refused.metadata["http_status"]) == ("ENROLLMENT_TOKEN_EXPIRED", "410")


async def test_a_voided_token_is_gone(work: Gateway, url: EnrollmentUrl) -> None:
    """A newer token takes the older one's place."""
    [(grant_id,)] = work.rows("SELECT grant_id::text FROM federation.federation_enrollment_tokens ORDER BY created_at DESC LIMIT 1")
    await work.create_token(grant_id)
    assert (await refusal(work.redeem(url))).reason == "ENROLLMENT_TOKEN_VOIDED"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda r: setattr(r, "proof", r.proof[:-1]), id="truncated proof"),
        pytest.param(lambda r: setattr(r, "proof", bytes(64)), id="no proof"),
        pytest.param(lambda r: setattr(r, "redemption_id", str(uuid4())), id="proof for another redemption"),
        pytest.param(lambda r: setattr(r, "csr_der", r.csr_der + b"\x00"), id="proof for another CSR"),
        pytest.param(
            lambda r: setattr(r, "token_public_key", Ed25519PrivateKey.generate().public_key().public_bytes_raw()),
            id="another token",
        ),
    ],
)
async def test_whoever_does_not_hold_the_token_learns_nothing(
    work: Gateway, url: EnrollmentUrl, spoil: Callable[[enrollment_pb2.EnrollRequest], None]
) -> None:
    """A wrong proof and an unknown token answer the same, whatever else is wrong with the request."""
    request = Redemption.of(url).request
    spoil(request)
    refused = await refusal(work.enrollment.Enroll(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN")
    assert refused.message == "This gateway knows no such enrollment token."


async def test_a_proof_for_another_root_is_refused(work: Gateway, url: EnrollmentUrl) -> None:
    """A relay under another root makes the client sign another pin; here it is worth nothing."""
    redemption = Redemption.of(url)
    request = redemption.request
    request.proof = url.token.prove(request.csr_der, UUID(request.redemption_id), bytes(32))
    assert (await refusal(work.enrollment.Enroll(redemption.request))).reason == "ENROLLMENT_TOKEN_UNKNOWN"


async def test_a_csr_for_another_name_leaves_the_token_open(work: Gateway, url: EnrollmentUrl) -> None:
    """Bad input gets a precise error, and nothing is lost: the right CSR redeems the token afterwards."""
    refused = await refusal(work.enrollment.Enroll(Redemption.of(url, common_name="elsewhere").request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CSR_COMMON_NAME_MISMATCH")
    assert (await work.redeem(url)).answer.certificate_der


async def test_a_grant_that_left_pending_is_not_activated(work: Gateway, url: EnrollmentUrl) -> None:
    """Revoked between token and redemption: nothing is signed, nothing becomes active."""
    [(grant_id,)] = work.rows("SELECT grant_id::text FROM federation.federation_enrollment_tokens ORDER BY created_at DESC LIMIT 1")
    work.execute("UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %s", grant_id)
    refused = await refusal(work.redeem(url))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "GRANT_STATE_CHANGED")
    assert work.rows("SELECT count(*) FROM federation.federation_certificates WHERE grant_id = %s", grant_id) == [(0,)]


async def test_while_the_broker_is_down_no_token_is_claimed(work: Gateway, url: EnrollmentUrl) -> None:
    """An outage costs a retry, not a lease; and the answer does not tell a stranger what is down."""
    redemption = Redemption.of(url)
    await work.stop("ca-broker")
    try:
        await _until_down(work, "ca-broker")
        refused = await refusal(work.enrollment.Enroll(redemption.request))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        assert "ca-broker" not in str(refused)
    finally:
        await work.start("ca-broker")
    await _until_up(work, "ca-broker")
    assert (await work.enrollment.Enroll(redemption.request)).certificate_der


async def test_an_attempt_that_was_given_up_cannot_complete_any_more(work: Gateway, url: EnrollmentUrl) -> None:
    """Once the serial of a dead attempt is owed to the CA, its certificate, late as it comes, is never pinned."""
    ledger = ledger_pb2_grpc.EnrollmentLedgerServiceStub(work.internal_channel("grants", caller="enrollment"))
    broker = certificate_authority_pb2_grpc.CertificateAuthorityServiceStub(work.internal_channel("ca-broker", caller="enrollment"))
    request = Redemption.of(url).request
    claimed = await ledger.ClaimEnrollment(
        ledger_pb2.ClaimEnrollmentRequest(
            token_public_key=request.token_public_key,
            csr_der=request.csr_der,
            redemption_id=request.redemption_id,
            proof=request.proof,
            source_address="192.0.2.7",
            signer_reachable=True,
        )
    )
    issued = await broker.IssueCertificate(
        certificate_authority_pb2.IssueCertificateRequest(csr_der=request.csr_der, warrant=claimed.attempt.warrant)
    )
    token_id = claimed.attempt.token_id
    [(lease,)] = work.rows("SELECT lease_until FROM federation.federation_enrollment_tokens WHERE token_id = %s", token_id)
    work.execute(
        """UPDATE federation.federation_enrollment_tokens
           SET created_at = now() - interval '901 s', expires_at = now() - interval '1 s', lease_until = now() - interval '1 s'
           WHERE token_id = %s""",
        token_id,
    )
    owed = """SELECT o.reason, t.grant_id::text FROM federation.federation_ca_outbox o
              JOIN federation.federation_enrollment_tokens t ON t.serial = o.serial WHERE t.token_id = %s"""
    async with asyncio.timeout(10):
        while not work.rows(owed, token_id):
            await asyncio.sleep(0.05)
    # What was ordered, and until when, is told by the lease: it is put back, so that nothing but the debt refuses.
    work.execute("UPDATE federation.federation_enrollment_tokens SET lease_until = %s WHERE token_id = %s", lease, token_id)
    late = ledger_pb2.CompleteEnrollmentRequest(
        token_id=token_id,
        attempt=claimed.attempt.number,
        certificate_der=issued.certificate_der,
        chain_der=issued.chain_der,
        source_address="192.0.2.7",
    )
    assert (await refusal(ledger.CompleteEnrollment(late))).reason == "ENROLLMENT_TOKEN_USED"
    [(_, grant_id)] = work.rows(owed, token_id)
    assert work.rows("SELECT status FROM federation.federation_grants WHERE id = %s", grant_id) == [("pending",)]
    assert work.rows("SELECT count(*) FROM federation.federation_certificates WHERE grant_id = %s", grant_id) == [(0,)]


async def test_a_newer_token_owes_what_the_older_one_may_have_had_signed(work: Gateway, url: EnrollmentUrl) -> None:
    """Voiding a claimed token leaves a serial that nobody will record; it goes to the outbox with the same commit."""
    ledger = ledger_pb2_grpc.EnrollmentLedgerServiceStub(work.internal_channel("grants", caller="enrollment"))
    request = Redemption.of(url).request
    claimed = await ledger.ClaimEnrollment(
        ledger_pb2.ClaimEnrollmentRequest(
            token_public_key=request.token_public_key,
            csr_der=request.csr_der,
            redemption_id=request.redemption_id,
            proof=request.proof,
            source_address="192.0.2.7",
            signer_reachable=True,
        )
    )
    [(grant_id, serial)] = work.rows(
        "SELECT grant_id::text, serial FROM federation.federation_enrollment_tokens WHERE token_id = %s", claimed.attempt.token_id
    )
    await work.create_token(grant_id)
    assert work.rows("SELECT reason FROM federation.federation_ca_outbox WHERE serial = %s", serial) == [("token replaced",)]


async def test_connections_are_released_to_the_role_query_only(work: Gateway) -> None:
    """grants decides that itself: the edge that asks may be the one that was broken into."""
    [(user_id,)] = work.rows("SELECT id FROM public.users WHERE email = %s", SUBJECT)
    token = work.token(str(user_id), Role.READ, audience=query_audience("work"))
    stub = ledger_pb2_grpc.PeerCredentialServiceStub(work.internal_channel("grants", caller="edge-outbound"))
    refused = await refusal(stub.GetPeerCredential(ledger_pb2.GetPeerCredentialRequest(user_token=token)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    last = work.audit("credential.released")[-1]
    assert (last["outcome"], last["denied_reason"], last["result_count"]) == ("denied", "ROLE_REQUIRED", 0)


async def test_a_lost_audit_chain_costs_one_refusal_and_not_the_service(work: Gateway) -> None:
    """Closed, or behind after a failover: what grants wrote stays, the next deed opens another chain and is recorded."""
    await work.peers.CreatePeer(grants_pb2.CreatePeerRequest(name="before"), metadata=work.operator_metadata())
    work.execute("UPDATE federation.federation_audit_chains SET closed_at_us = 1 WHERE writer = 'grants'")
    request = grants_pb2.CreatePeerRequest(name="meanwhile")
    refused = await refusal(work.peers.CreatePeer(request, metadata=work.operator_metadata()))
    assert refused.reason == "DEPENDENCY_UNAVAILABLE"
    assert work.rows("SELECT count(*) FROM federation.federation_peers WHERE name = 'meanwhile'") == [(0,)]
    await work.peers.CreatePeer(request, metadata=work.operator_metadata())
    [(chain,)] = work.rows(
        """SELECT c.chain_number FROM federation.federation_audit_log l JOIN federation.federation_audit_chains c USING (chain_id)
           JOIN federation.federation_peers p ON p.id = l.peer_id WHERE p.name = 'meanwhile' AND l.event = 'peer.created'"""
    )
    assert work.rows("SELECT closed_at_us FROM federation.federation_audit_chains WHERE chain_number = %s", chain) == [(None,)]


async def test_what_the_door_refuses_itself_is_recorded(work: Gateway) -> None:
    """A message that is none never reaches the ledger; its refusal does, one row per source and second."""
    enroll: Any = work.channel("enrollment", "public").unary_unary("/mosaic.enrollment.v1.EnrollmentService/Enroll")
    refusals = [await refusal(enroll(b"\xff\xff")) for _ in range(3)]
    assert {each.reason for each in refusals} == {"MESSAGE_MALFORMED"}

    def told() -> int:
        rows = [row for row in work.audit("enrollment.refused") if row["denied_reason"] == "MESSAGE_MALFORMED"]
        assert all(row["source_address"] == "127.0.0.1" for row in rows)
        return sum(row["repeated"] for row in rows)

    async with asyncio.timeout(10):
        while told() < len(refusals):
            await asyncio.sleep(0.05)


async def test_renewal_has_its_row_and_not_yet_its_code(work: Gateway) -> None:
    """The shape stands; the answer says so."""
    refused = await refusal(work.enrollment.Renew(enrollment_pb2.RenewRequest()))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")


async def test_the_connections_key_is_ciphertext_bound_to_row_and_user(pair: Pair) -> None:
    """Acceptance 5: a raw read gives ciphertext; in another row, or for another user, it does not open."""
    home, work = pair.home, pair.work
    url = await work.create_token(await work.create_grant(user=SUBJECT, peer="home", scope=TASKS_NOTES_MEMORY))
    prepared = await home.peers.PrepareConnection(
        grants_pb2.PrepareConnectionRequest(
            user=SUBJECT, name="sealed", remote_gateway="work", common_name=url.common_name, enrollment_address=url.address
        ),
        metadata=home.operator_metadata(),
    )
    answer = await work.enrollment.Enroll(
        enrollment_pb2.EnrollRequest(
            token_public_key=url.token.public_key,
            csr_der=prepared.csr_der,
            redemption_id=prepared.redemption_id,
            proof=url.token.prove(prepared.csr_der, UUID(prepared.redemption_id), url.pin),
        )
    )
    active = await home.peers.ActivateConnection(
        grants_pb2.ActivateConnectionRequest(
            peer_id=prepared.peer.id,
            certificate_der=answer.certificate_der,
            chain_der=answer.chain_der,
            grant_id=answer.grant_id,
            subject_user_id=answer.subject_user_id,
            gateway=answer.gateway,
            federation_endpoint=answer.federation_endpoint,
        ),
        metadata=home.operator_metadata(),
    )
    assert active.peer.state == types_pb2.PEER_STATE_ACTIVE
    [(raw, owner)] = home.rows(
        """SELECT k.client_key_pem, p.local_user_id FROM federation.federation_peer_keys k
           JOIN federation.federation_peers p ON p.id = k.peer_id WHERE p.name = 'sealed'"""
    )
    assert raw.startswith("v2.")
    assert "PRIVATE" not in raw

    stub = ledger_pb2_grpc.PeerCredentialServiceStub(home.internal_channel("grants", caller="edge-outbound"))

    async def released(user_id: UUID) -> list[bytes]:
        metadata = dict(home.user_metadata(user_id))
        request = ledger_pb2.GetPeerCredentialRequest(
            user_token=metadata["authorization"].removeprefix("Bearer "), connection="sealed"
        )
        return [each.client_key_pem for each in (await stub.GetPeerCredential(request)).credentials]

    [pem] = await released(owner)
    assert load_pem_private_key(pem, None)
    [(other,)] = home.rows("SELECT id FROM public.users WHERE id <> %s AND active LIMIT 1", owner)
    assert await released(other) == []
    home.execute("UPDATE federation.federation_peers SET local_user_id = %s WHERE name = 'sealed'", other)
    assert await released(other) == [], "the row given to another user does not open"
    home.execute("UPDATE federation.federation_peers SET local_user_id = %s WHERE name = 'sealed'", owner)
    home.execute("UPDATE federation.federation_peer_keys SET id = gen_random_uuid() WHERE client_key_pem = %s", raw)
    assert await released(owner) == [], "moved to another row it does not open"


async def _until_down(gateway: Gateway, dependency: str) -> None:
    await _until(gateway, dependency, up=False)


async def _until_up(gateway: Gateway, dependency: str) -> None:
    await _until(gateway, dependency, up=True)


async def _until(gateway: Gateway, dependency: str, *, up: bool) -> None:
    async with asyncio.timeout(10):
        while gateway.apps["enrollment"].health.is_up(dependency) is not up:
            await asyncio.sleep(0.05)
