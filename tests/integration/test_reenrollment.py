"""Both ends of a connection that is begun, interrupted, made anew, refused and begun afresh."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import grants_pb2, ledger_pb2, ledger_pb2_grpc, types_pb2
from mosaic_common.auth import Role, query_audience
from mosaic_common.errors import Layer
from mosaic_common.identity import EDGE_OUTBOUND, GRANTS
from mosaic_common.tokens import EnrollmentToken, EnrollmentUrl, token_id

from tests.support.audit_records import assert_recorded
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway, Pair
from tests.support.operators import grant_of, peer_of, read_again, resume, revoke, revoke_grant, suspend
from tests.support.peers import PeerClient, refusal
from tests.support.rows import Rows

ABORTED = grpc.StatusCode.ABORTED


async def make_token(work: Gateway, grant_id: str, *, reenroll: bool) -> EnrollmentUrl:
    token = EnrollmentToken.generate()
    request = grants_pb2.CreateEnrollmentTokenRequest(grant_id=grant_id, token_public_key=token.public_key, reenroll=reenroll)
    answer = await work.grants.CreateEnrollmentToken(request, metadata=work.operator_metadata())
    return EnrollmentUrl.parse(f"{answer.url_without_token}&token={token.encode()}")


@dataclass(slots=True)
class Connecting:
    """A user at home, and what their operator does with the URLs that come from work."""

    home: Gateway
    work: Gateway
    user: UUID
    name: str

    async def grant(self) -> str:
        with self.work.database.connect() as owner:
            subject = str(Rows(owner).user())
        return await self.work.create_grant(user=subject, peer="home", scope=TASKS_NOTES_MEMORY)

    async def prepare(self, url: EnrollmentUrl, *, reenroll: bool = False, name: str = "") -> Any:
        return await self.home.peers.PrepareConnection(
            grants_pb2.PrepareConnectionRequest(
                user=str(self.user),
                name=name or self.name,
                remote_gateway=self.work.name,
                common_name=url.common_name,
                enrollment_address=url.address,
                token_id=token_id(url.token.public_key),
                reenroll=reenroll,
                pin=url.pin or b"",
            ),
            metadata=self.home.operator_metadata(),
        )

    async def redeem(self, url: EnrollmentUrl, prepared: Any) -> enrollment_pb2.EnrollResponse:
        answer: enrollment_pb2.EnrollResponse = await self.work.enrollment.Enroll(
            enrollment_pb2.EnrollRequest(
                token_public_key=url.token.public_key,
                csr_der=prepared.csr_der,
                redemption_id=prepared.redemption_id,
                proof=url.token.prove(prepared.csr_der, UUID(prepared.redemption_id), url.pin),
            )
        )
        return answer

    async def activate(self, prepared: Any, answer: enrollment_pb2.EnrollResponse) -> types_pb2.Peer:
        activated = await self.home.peers.ActivateConnection(
            grants_pb2.ActivateConnectionRequest(
                peer_id=prepared.peer.id,
                certificate_der=answer.certificate_der,
                chain_der=answer.chain_der,
                grant_id=answer.grant_id,
                subject_user_id=answer.subject_user_id,
                gateway=answer.gateway,
                federation_endpoint=answer.federation_endpoint,
                pinned_root_der=ssl.PEM_cert_to_DER_cert(self.work.service_root.decode()),
                endpoint_host_confirmed=True,
            ),
            metadata=self.home.operator_metadata(),
        )
        peer: types_pb2.Peer = activated.peer
        return peer

    async def add(self, url: EnrollmentUrl, *, reenroll: bool = False) -> types_pb2.Peer:
        prepared = await self.prepare(url, reenroll=reenroll)
        return await self.activate(prepared, await self.redeem(url, prepared))

    async def connect(self) -> types_pb2.Peer:
        return await self.add(await make_token(self.work, await self.grant(), reenroll=False))

    @property
    def credentials(self) -> Any:
        channel = self.home.internal_channel(GRANTS, caller=EDGE_OUTBOUND)
        return ledger_pb2_grpc.PeerCredentialServiceStub(channel)

    def token(self, user: UUID | None = None) -> str:
        return self.home.token(str(user or self.user), Role.QUERY, audience=query_audience(self.home.name))

    async def client(self) -> PeerClient:
        """Whoever holds what home's outbound edge is given."""
        request = ledger_pb2.GetPeerCredentialRequest(user_token=self.token(), connection=self.name)
        [credential] = (await self.credentials.GetPeerCredential(request)).credentials
        return self.work.peer_client_with(credential.client_key_pem, credential.client_chain_pem, credential.remote_grant_id)

    async def report(self, peer_id: str, reason: str = "", grant_status: str = "", *, user: UUID | None = None) -> None:
        value = errors_pb2.Reason.Value(f"REASON_{reason}") if reason else errors_pb2.REASON_UNSPECIFIED
        request = ledger_pb2.ReportConnectionRequest(
            user_token=self.token(user), peer_id=peer_id, reason=value, grant_status=grant_status
        )
        await self.credentials.ReportConnection(request)


@pytest.fixture
async def connecting(pair: Pair) -> Connecting:
    with pair.home.database.connect() as owner:
        user = Rows(owner).user()
    return Connecting(pair.home, pair.work, user, f"c{uuid4().hex}")


# ── again ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lost_key_is_replaced_and_refused_at_once(connecting: Connecting) -> None:
    """The connection keeps its name and gets a new key; the old certificate is refused from the completion on, on a connection that
    is open, and is owed to the authority. The grant was active all the time.
    """
    before = await connecting.connect()
    lost = await connecting.client()
    await lost.list("tasks")
    url = await make_token(connecting.work, lost.grant_id, reenroll=True)
    prepared = await connecting.prepare(url, reenroll=True)
    await lost.list("tasks")
    answer = await connecting.redeem(url, prepared)
    refused = await refusal(lost.list("tasks"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_REVOKED")
    assert_recorded(connecting.work, refused, Layer.CERTIFICATE)

    after = await connecting.activate(prepared, answer)
    assert (after.id, after.name, after.remote_grant_id) == (before.id, before.name, before.remote_grant_id)
    assert after.certificates[0].serial != before.certificates[0].serial
    await read_again(await connecting.client())
    grant = await grant_of(connecting.work, UUID(lost.grant_id))
    assert grant.status == types_pb2.GRANT_STATUS_ACTIVE
    states = {certificate.serial: certificate.state for certificate in grant.certificates}
    assert states == {
        before.certificates[0].serial: types_pb2.CERTIFICATE_STATE_REVOKED,
        after.certificates[0].serial: types_pb2.CERTIFICATE_STATE_ACTIVE,
    }
    owed = connecting.work.rows(
        "SELECT reason FROM federation.federation_ca_outbox WHERE serial = %s", before.certificates[0].serial
    )
    assert owed == [("re-enrolled",)]
    keys = connecting.home.rows(
        "SELECT state FROM federation.federation_peer_keys WHERE peer_id = %s ORDER BY created_at", before.id
    )
    assert keys == [("superseded",), ("active",)]


async def test_a_token_is_for_a_beginning_or_for_a_loss(connecting: Connecting) -> None:
    """A plain one is made only for a pending grant, one that re-enrolls only for an active one; either sentence names the other."""
    grant_id = await connecting.grant()
    refused = await refusal(make_token(connecting.work, grant_id, reenroll=True))
    assert (refused.code, refused.reason) == (ABORTED, "GRANT_STATE_CHANGED")
    assert "without --reenroll" in refused.metadata["remediation"]
    await connecting.add(await make_token(connecting.work, grant_id, reenroll=False))
    refused = await refusal(make_token(connecting.work, grant_id, reenroll=False))
    assert (refused.code, refused.reason) == (ABORTED, "GRANT_STATE_CHANGED")
    assert "--reenroll" in refused.metadata["remediation"]
    assert_recorded(connecting.work, refused, Layer.GRANT)


async def test_another_grants_url_does_not_take_the_connection_over(connecting: Connecting) -> None:
    """A connection reads under one grant: an answer for another is refused, and it goes on with its own key."""
    await connecting.connect()
    other = await make_token(connecting.work, await connecting.grant(), reenroll=False)
    prepared = await connecting.prepare(other, reenroll=True)
    answer = await connecting.redeem(other, prepared)
    refused = await refusal(connecting.activate(prepared, answer))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert "another grant" in refused.message
    assert_recorded(connecting.home, refused, Layer.PEER)
    client = await connecting.client()
    await client.list("tasks")
    # And the right URL still works.
    await connecting.add(await make_token(connecting.work, client.grant_id, reenroll=True), reenroll=True)
    await read_again(await connecting.client())


@pytest.mark.parametrize("pin", [None, bytes(32)], ids=["no root", "another root"])
async def test_a_new_key_is_no_occasion_to_trust_somebody_else(connecting: Connecting, pin: bytes | None) -> None:
    """A URL that pins another root than the connection trusts is refused before its token is touched."""
    peer = await connecting.connect()
    url = await make_token(connecting.work, peer.remote_grant_id, reenroll=True)
    refused = await refusal(connecting.prepare(replace(url, pin=pin), reenroll=True))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PEER_NOT_ELIGIBLE")
    assert "another root" in refused.message
    assert_recorded(connecting.home, refused, Layer.PEER)
    await connecting.add(url, reenroll=True)


async def test_only_what_is_there_is_enrolled_again(connecting: Connecting) -> None:
    """`--reenroll` for a connection that nobody has is a mistyped name, not a new connection."""
    url = await make_token(connecting.work, await connecting.grant(), reenroll=False)
    refused = await refusal(connecting.prepare(url, reenroll=True))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PEER_NOT_FOUND")
    assert_recorded(connecting.home, refused, Layer.PEER)


# ── interrupted ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_interrupted_run_continues_where_it_was(connecting: Connecting) -> None:
    """The same URL prepares the same CSR and redemption id as often as it is run, and says so when all is done."""
    url = await make_token(connecting.work, await connecting.grant(), reenroll=False)
    first = await connecting.prepare(url)
    again = await connecting.prepare(url)
    assert (again.csr_der, again.redemption_id, again.already_active) == (first.csr_der, first.redemption_id, False)
    answer = await connecting.redeem(url, first)
    assert await connecting.redeem(url, await connecting.prepare(url)) == answer
    active = await connecting.activate(first, answer)
    done = await connecting.prepare(url)
    assert (done.already_active, done.peer.certificates) == (True, active.certificates)
    refused = await refusal(connecting.activate(first, answer))
    assert (refused.code, refused.reason) == (ABORTED, "PEER_STATE_CHANGED")


async def test_a_new_url_continues_with_the_key_that_waits(connecting: Connecting) -> None:
    """When a token ran out before it was redeemed, the next one serves the same key, CSR and redemption id."""
    grant_id = await connecting.grant()
    first = await connecting.prepare(await make_token(connecting.work, grant_id, reenroll=False))
    url = await make_token(connecting.work, grant_id, reenroll=False)
    prepared = await connecting.prepare(url)
    assert (prepared.peer.id, prepared.csr_der, prepared.redemption_id) == (first.peer.id, first.csr_der, first.redemption_id)
    await connecting.activate(prepared, await connecting.redeem(url, prepared))
    await read_again(await connecting.client())


async def test_an_active_connections_name_is_taken(connecting: Connecting) -> None:
    """Another URL without --reenroll does not touch it; a suspended one is resumed first."""
    peer = await connecting.connect()
    url = await make_token(connecting.work, await connecting.grant(), reenroll=False)
    refused = await refusal(connecting.prepare(url))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN")
    await suspend(connecting.home, peer.id)
    for reenroll in (False, True):
        refused = await refusal(connecting.prepare(url, reenroll=reenroll))
        assert (refused.code, refused.reason) == (ABORTED, "PEER_STATE_CHANGED")
        assert "resume" in refused.metadata["remediation"]
    assert (
        await connecting.credentials.GetPeerCredential(
            ledger_pb2.GetPeerCredentialRequest(user_token=connecting.token(), connection=connecting.name)
        )
    ).credentials == []
    await resume(connecting.home, peer.id)
    await read_again(await connecting.client())


async def test_a_suspension_in_the_middle_is_not_overtaken(connecting: Connecting) -> None:
    """An answer that arrives at a connection which was suspended meanwhile activates nothing."""
    peer = await connecting.connect()
    url = await make_token(connecting.work, peer.remote_grant_id, reenroll=True)
    prepared = await connecting.prepare(url, reenroll=True)
    answer = await connecting.redeem(url, prepared)
    await suspend(connecting.home, peer.id)
    refused = await refusal(connecting.activate(prepared, answer))
    assert (refused.code, refused.reason) == (ABORTED, "PEER_STATE_CHANGED")
    await resume(connecting.home, peer.id)
    await connecting.activate(prepared, answer)
    await read_again(await connecting.client())


# ── afresh ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_after_a_revocation_both_sides_begin_afresh(connecting: Connecting) -> None:
    """Work revokes; home ends its connection, whose name is free then; a new grant and its URL suffice."""
    old = await connecting.connect()
    await revoke_grant(connecting.work, UUID(old.remote_grant_id))
    evicted = await connecting.client()
    await revoke(connecting.home, old.id)
    new = await connecting.connect()
    assert (new.name, new.id != old.id) == (old.name, True)
    await read_again(await connecting.client())
    assert (await refusal(evicted.list("tasks"))).reason == "GRANT_NOT_ACTIVE"
    shown = await peer_of(connecting.home, old.id)
    assert (shown.state, shown.revoked_reason) == (types_pb2.PEER_STATE_REVOKED, "evicted")


async def test_two_gateways_have_several_connections_in_both_directions(connecting: Connecting) -> None:
    """Each with its own key and grant; ending one ends no other."""
    back = Connecting(connecting.work, connecting.home, await a_user(connecting.work), f"b{uuid4().hex}")
    back_grant = await connecting.home.create_grant(user=str(await a_user(connecting.home)), peer="work", scope=TASKS_NOTES_MEMORY)
    first = await connecting.connect()
    second = Connecting(connecting.home, connecting.work, connecting.user, f"d{uuid4().hex}")
    await asyncio.gather(second.connect(), back.add(await make_token(connecting.home, back_grant, reenroll=False)))
    clients = [await each.client() for each in (connecting, second, back)]
    assert len({client.grant_id for client in clients}) == 3
    for client in clients:
        await client.list("tasks")
    await revoke_grant(connecting.work, UUID(first.remote_grant_id))
    assert (await refusal(clients[0].list("tasks"))).reason == "GRANT_NOT_ACTIVE"
    for client in clients[1:]:
        await client.list("tasks")


async def a_user(gateway: Gateway) -> UUID:
    with gateway.database.connect() as owner:
        return Rows(owner).user()


# ── why ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reason", "grant_status", "sentence"),
    [
        pytest.param("GRANT_NOT_ACTIVE", "revoked", "work has revoked the grant", id="revoked"),
        pytest.param("GRANT_NOT_ACTIVE", "expired", "work says that the grant has expired", id="expired"),
        pytest.param("GRANT_NOT_ACTIVE", "", "work no longer accepts the grant", id="does not say"),
        pytest.param("GRANT_NOT_ACTIVE", "\x1b[2J", "work no longer accepts the grant", id="says anything"),
        pytest.param("PEER_NOT_ACTIVE", "", "work has suspended or revoked this gateway", id="suspended"),
        pytest.param("CERTIFICATE_REVOKED", "", "work has revoked this connection's certificate", id="certificate revoked"),
        pytest.param("CERTIFICATE_NOT_PINNED", "", "work does not know this connection's certificate", id="not pinned"),
        pytest.param("SUBJECT_INACTIVE", "", "not active at work", id="subject"),
        pytest.param("RESOURCE_NOT_GRANTED", "", "RESOURCE_NOT_GRANTED", id="anything else by name"),
    ],
)
async def test_the_other_sides_refusal_is_told_in_words(
    connecting: Connecting, reason: str, grant_status: str, sentence: str
) -> None:
    """Once recorded however often it is refused, kept until the other side answers, and gone then."""
    peer = await connecting.connect()
    for _ in range(3):
        await connecting.report(peer.id, reason, grant_status)
    shown = await peer_of(connecting.home, peer.id)
    assert shown.refusal.reason == errors_pb2.Reason.Value(f"REASON_{reason}")
    assert sentence in shown.refusal.sentence
    assert shown.refusal.grant_status == (grant_status if grant_status in {"revoked", "expired"} else "")
    [row] = [row for row in connecting.home.audit("connection.refused") if str(row["peer_id"]) == peer.id]
    assert (row["actor"], row["denied_layer"], row["denied_reason"]) == (EDGE_OUTBOUND, "peer", reason)
    assert row["subject_user_id"] == connecting.user

    await connecting.report(peer.id)
    assert not (await peer_of(connecting.home, peer.id)).HasField("refusal")
    await connecting.report(peer.id, reason, grant_status)
    assert len([row for row in connecting.home.audit("connection.refused") if str(row["peer_id"]) == peer.id]) == 2


async def test_only_a_users_own_connection_is_reported_on(connecting: Connecting) -> None:
    """A broken edge writes nothing beside connections of users who are not asking; an inbound peer is nobody's connection."""
    peer = await connecting.connect()
    [(inbound,)] = connecting.work.rows(
        "SELECT id::text FROM federation.federation_peers WHERE name = 'home' AND state <> 'revoked'"
    )
    stranger = await a_user(connecting.home)
    at_work = Connecting(connecting.work, connecting.home, await a_user(connecting.work), "x")
    calls: list[Callable[[], Awaitable[None]]] = [
        lambda: connecting.report(peer.id, "PEER_NOT_ACTIVE", user=stranger),
        lambda: connecting.report(str(uuid4()), "PEER_NOT_ACTIVE"),
        lambda: at_work.report(inbound, "PEER_NOT_ACTIVE"),
    ]
    for call in calls:
        refused = await refusal(call())
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "PEER_NOT_FOUND")
    assert not (await peer_of(connecting.home, peer.id)).HasField("refusal")
