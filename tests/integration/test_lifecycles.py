"""Grants and peers from their beginning to their end, as operators see and move them."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from mosaic.grants.v1 import grants_pb2, types_pb2
from mosaic_common.auth import Role
from mosaic_common.errors import Layer
from mosaic_common.identity import GRANTS

from tests.support.audit_records import assert_recorded, record_of
from tests.support.gateway import TASKS_NOTES_MEMORY, Gateway
from tests.support.housekeepers import Housekeeper, keeper, listed, work
from tests.support.offers import Offer
from tests.support.operators import delete, delete_grant, grant_of, read_again, resume, revoke, revoke_grant, suspend
from tests.support.peers import Refusal, refusal
from tests.support.rows import Rows

__all__ = ["keeper", "work"]

DENIED = grpc.StatusCode.PERMISSION_DENIED
Step = Callable[[Gateway, str], Awaitable[object]]


def peer_id_of(work: Gateway, grant_id: UUID) -> str:
    [(peer,)] = work.rows("SELECT peer_id::text FROM federation.federation_grants WHERE id = %s", grant_id)
    return str(peer)


async def end_at_once(work: Gateway, grant_id: UUID) -> None:
    """Its time is over, and no sweep has been there."""
    work.execute("UPDATE federation.federation_grants SET expires_at = now() - interval '1 s' WHERE id = %s", grant_id)


def told(refused: Refusal) -> tuple[grpc.StatusCode, str]:
    return refused.code, refused.reason


# ── the ways a grant ends ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def by_revocation(work: Gateway, offer: Offer) -> None:
    await revoke_grant(work, offer.grant_id)


async def by_its_peers_revocation(work: Gateway, offer: Offer) -> None:
    await revoke(work, peer_id_of(work, offer.grant_id))


async def by_time(work: Gateway, offer: Offer) -> None:
    await end_at_once(work, offer.grant_id)


async def by_its_users_end(work: Gateway, offer: Offer) -> None:
    work.execute("DELETE FROM public.users WHERE id = %s", offer.subject)


async def by_its_users_absence(work: Gateway, offer: Offer) -> None:
    work.execute("UPDATE public.users SET active = false WHERE id = %s", offer.subject)


Ending = Callable[[Gateway, Offer], Awaitable[None]]


@pytest.mark.parametrize(
    ("end", "reason", "grant_status", "status", "event"),
    [
        pytest.param(by_revocation, "GRANT_NOT_ACTIVE", "revoked", "revoked", "grant.revoked", id="revoked"),
        pytest.param(by_its_peers_revocation, "GRANT_NOT_ACTIVE", "revoked", "revoked", "grant.revoked", id="its peer revoked"),
        pytest.param(by_time, "GRANT_NOT_ACTIVE", "expired", "expired", "grant.expired", id="its time over"),
        pytest.param(by_its_users_absence, "SUBJECT_INACTIVE", None, "revoked", "grant.revoked", id="its user disabled"),
        pytest.param(by_its_users_end, "SUBJECT_INACTIVE", None, "revoked", "grant.revoked", id="its user gone"),
    ],
)
async def test_an_end_is_in_force_at_once_and_then_on_the_list(
    work: Gateway, keeper: Housekeeper, end: Ending, reason: str, grant_status: str | None, status: str, event: str
) -> None:
    """On a connection that is open and has just read, the next call is refused with its reason before anybody swept or told the
    authority; the sweep writes the end down, and the certificate's serial is on the verified list before nothing is owed any more.
    """
    offer = await Offer.make(work)
    peer = await offer.enroll()
    await peer.list("tasks")
    serial = int((await grant_of(work, offer.grant_id)).certificates[0].serial)

    await end(work, offer)
    refused = await refusal(peer.list("tasks"))
    assert told(refused) == (DENIED, reason)
    assert refused.metadata.get("grant_status") == grant_status
    assert_recorded(work, refused, Layer.GRANT if reason == "GRANT_NOT_ACTIVE" else Layer.SUBJECT)

    await keeper.sweeps.run_once()
    ended = await grant_of(work, offer.grant_id)
    assert types_pb2.GrantStatus.Name(ended.status) == f"GRANT_STATUS_{status.upper()}"
    assert [certificate.state for certificate in ended.certificates] == [types_pb2.CERTIFICATE_STATE_REVOKED]
    assert ended.revocations_owed == 1
    [row] = [row for row in work.audit(event) if row["grant_id"] == offer.grant_id]
    assert row["result_count"] == 1
    assert row["denied_reason"] == ("SUBJECT_INACTIVE" if reason == "SUBJECT_INACTIVE" else None)

    await keeper.revocations.tell()
    assert (await grant_of(work, offer.grant_id)).revocations_owed == 1, "promised is not published"
    await keeper.revocations.compare()
    assert (await grant_of(work, offer.grant_id)).revocations_owed == 0
    assert serial in await listed(keeper)
    assert told(await refusal(peer.list("tasks"))) == (DENIED, "GRANT_NOT_ACTIVE")


async def test_the_sweep_ends_what_is_over_once(work: Gateway, keeper: Housekeeper) -> None:
    """Two replicas sweep, again and again: one row says it, and nothing else is ended."""
    offers = [await Offer.make(work) for _ in range(3)]
    await end_at_once(work, offers[0].grant_id)
    await by_its_users_absence(work, offers[1])
    for _ in range(2):
        await asyncio.gather(keeper.sweeps.run_once(), keeper.sweeps.run_once())
    assert [offer.standing()[0] for offer in offers] == ["expired", "revoked", "pending"]
    ended = [row for row in work.audit() if row["event"] in {"grant.expired", "grant.revoked"}]
    assert [sum(row["grant_id"] == offer.grant_id for row in ended) for offer in offers] == [1, 1, 0]


async def test_a_grant_that_was_revoked_stays_as_it_is(work: Gateway) -> None:
    """Revoking again is no error, and neither time nor reason change; one that has expired says so."""
    offer = await Offer.make(work)
    first = await revoke_grant(work, offer.grant_id, "left the company")
    again = await revoke_grant(work, offer.grant_id, "another word")
    assert again == first
    assert again.revoked_reason == "left the company"

    over = await Offer.make(work)
    await end_at_once(work, over.grant_id)
    refused = await refusal(revoke_grant(work, over.grant_id))
    assert told(refused) == (grpc.StatusCode.ABORTED, "GRANT_STATE_CHANGED")
    assert "expired" in refused.message
    assert_recorded(work, refused, Layer.GRANT)
    assert record_of(work, refused)["grant_id"] == over.grant_id


async def test_whoever_comes_with_the_token_of_a_grant_that_ended_is_told_so(work: Gateway) -> None:
    """Not that a newer one replaced it, which they would look for."""
    offer = await Offer.make(work)
    await revoke_grant(work, offer.grant_id)
    refused = await refusal(work.redeem(offer.url))
    assert told(refused) == (grpc.StatusCode.FAILED_PRECONDITION, "ENROLLMENT_TOKEN_VOIDED")
    assert refused.message == "The grant of this enrollment token has ended."
    assert offer.redemptions() == [("enrollment.refused", "denied", "token", "ENROLLMENT_TOKEN_VOIDED")]


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "a\u202eb", "x" * 201], ids=["lines", "escape", "bidi", "too long"])
async def test_a_reason_is_one_line_that_a_terminal_can_show(work: Gateway, reason: str) -> None:
    """Whoever writes a reason does not write into whoever reads it."""
    offer = await Offer.make(work)
    refused = await refusal(revoke_grant(work, offer.grant_id, reason))
    assert (refused.reason, set(refused.violations)) == ("REQUEST_INVALID", {"reason"})
    assert offer.standing()[0] == "pending"


@pytest.mark.parametrize("call", [revoke_grant, delete_grant])
async def test_what_is_not_there_does_not_end(work: Gateway, call: Callable[[Gateway, UUID], Awaitable[Any]]) -> None:
    """A mistyped id is refused by name and recorded."""
    refused = await refusal(call(work, uuid4()))
    assert told(refused) == (grpc.StatusCode.NOT_FOUND, "GRANT_NOT_FOUND")
    assert_recorded(work, refused, Layer.GRANT)


# ── peers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def peer_in(work: Gateway, state: str) -> str:
    """A peer that came to a state as peers do."""
    offer = await Offer.make(work)
    peer = peer_id_of(work, offer.grant_id)
    if state != "pending":
        await offer.enroll()
    if state == "suspended":
        await suspend(work, peer)
    if state == "revoked":
        await revoke(work, peer)
    return peer


LEGAL: dict[tuple[str, Step], str] = {
    ("pending", revoke): "revoked",
    ("active", suspend): "suspended",
    ("active", resume): "active",
    ("active", revoke): "revoked",
    ("suspended", suspend): "suspended",
    ("suspended", resume): "active",
    ("suspended", revoke): "revoked",
    ("revoked", revoke): "revoked",
}


@pytest.mark.parametrize("step", [suspend, resume, revoke])
@pytest.mark.parametrize("state", ["pending", "active", "suspended", "revoked"])
async def test_a_peer_moves_only_as_it_may(work: Gateway, state: str, step: Step) -> None:
    """pending → active ⇄ suspended → revoked; any other step is refused with a sentence and a row, and moves nothing."""
    peer = await peer_in(work, state)
    target = LEGAL.get((state, step))
    if target is None:
        refused = await refusal(step(work, peer))
        assert told(refused) == (grpc.StatusCode.ABORTED, "PEER_STATE_CHANGED")
        assert f"is {state}, and cannot become" in refused.message
        assert_recorded(work, refused, Layer.PEER)
        assert str(record_of(work, refused)["peer_id"]) == peer
    else:
        await step(work, peer)
    assert work.rows("SELECT state FROM federation.federation_peers WHERE id = %s", peer) == [(target or state,)]


async def test_a_suspended_peer_is_refused_until_it_is_resumed(work: Gateway) -> None:
    """At once, on an open connection; what it was given is still there afterwards."""
    offer = await Offer.make(work)
    client, peer = await offer.enroll(), peer_id_of(work, offer.grant_id)
    await client.list("tasks")
    await suspend(work, peer)
    refused = await refusal(client.list("tasks"))
    assert told(refused) == (DENIED, "PEER_NOT_ACTIVE")
    assert_recorded(work, refused, Layer.PEER)
    await resume(work, peer)
    await read_again(client)


async def test_revoking_a_peer_ends_every_live_grant_of_it(work: Gateway) -> None:
    """Pending and active ones, each with a row of its own; one that was over before ends as expired, and other peers' stay."""
    offer, other = await Offer.make(work), await Offer.make(work)
    await offer.enroll()
    peer = peer_id_of(work, offer.grant_id)
    pending = UUID(await work.create_grant(user=str(offer.subject), peer=peer_name(work, peer), scope=TASKS_NOTES_MEMORY))
    over = UUID(await work.create_grant(user=str(offer.subject), peer=peer_name(work, peer), scope=TASKS_NOTES_MEMORY))
    await end_at_once(work, over)
    request = grants_pb2.RevokePeerRequest(peer=peer, reason="evicted")
    answer = await work.peers.RevokePeer(request, metadata=work.operator_metadata())
    assert answer.grants_revoked == 3
    rows = {
        row["grant_id"]: (row["event"], row["result_count"])
        for row in work.audit()
        if str(row["peer_id"]) == peer and row["grant_id"] and row["event"] in {"grant.revoked", "grant.expired"}
    }
    assert rows == {offer.grant_id: ("grant.revoked", 1), pending: ("grant.revoked", 0), over: ("grant.expired", 0)}
    assert other.standing()[0] == "pending"


def peer_name(work: Gateway, peer: str) -> str:
    [(name,)] = work.rows("SELECT name FROM federation.federation_peers WHERE id = %s", peer)
    return str(name)


async def test_the_name_of_an_evicted_peer_comes_free_and_its_certificate_stays_out(work: Gateway) -> None:
    """A new peer of the same name is another one: what the old one holds is refused, what the new one gets is let in."""
    name = f"peer-{uuid4().hex}"
    with work.database.connect() as owner:
        user = str(Rows(owner).user())
    evicted = await work.enroll(user=user, peer=name)
    await evicted.list("tasks")
    await revoke(work, name)
    welcome = await work.enroll(user=user, peer=name)
    await welcome.list("tasks")
    assert told(await refusal(evicted.list("tasks"))) == (DENIED, "GRANT_NOT_ACTIVE")
    shown = await work.peers.GetPeer(grants_pb2.GetPeerRequest(peer=name), metadata=work.operator_metadata(Role.READ))
    assert shown.peer.state == types_pb2.PEER_STATE_ACTIVE


# ── forgetting ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_never_became_active_can_be_forgotten(work: Gateway, keeper: Housekeeper) -> None:
    """Grant, then peer; its token is unknown from then on, and what an attempt may have had signed stays owed."""
    offer = await Offer.make(work)
    peer = peer_id_of(work, offer.grant_id)
    refused = await refusal(delete(work, peer))
    assert told(refused) == (grpc.StatusCode.ABORTED, "PEER_STATE_CHANGED")
    assert "It has grants." in refused.message
    work.execute(
        "UPDATE federation.federation_enrollment_tokens SET redemption_id = gen_random_uuid(), csr_sha256 = sha256('a'),"
        " spki_sha256 = sha256('b'), serial = 4711, attempt = 1, lease_until = now() WHERE token_id = %s",
        offer.token_id,
    )
    await delete_grant(work, offer.grant_id)
    await delete(work, peer)
    assert told(await refusal(work.redeem(offer.url))) == (grpc.StatusCode.NOT_FOUND, "ENROLLMENT_TOKEN_UNKNOWN")
    assert work.rows("SELECT grant_id FROM federation.federation_ca_outbox WHERE serial = 4711") == [(offer.grant_id,)]
    for event, named in (("grant.deleted", "grant_id"), ("peer.deleted", "peer_id")):
        assert str(work.audit(event)[-1][named]) == (str(offer.grant_id) if named == "grant_id" else peer)
    await keeper.revocations.tell()
    await keeper.revocations.compare()
    assert 4711 in await listed(keeper)


@pytest.mark.parametrize("state", ["active", "suspended", "revoked"])
async def test_what_was_active_is_kept(work: Gateway, state: str) -> None:
    """By the service with a sentence, and by the database whatever a service says."""
    offer = await Offer.make(work)
    await offer.enroll()
    peer = peer_id_of(work, offer.grant_id)
    if state != "active":
        await (suspend if state == "suspended" else revoke)(work, peer)
    refused = await refusal(delete_grant(work, offer.grant_id))
    assert told(refused) == (grpc.StatusCode.ABORTED, "GRANT_STATE_CHANGED")
    assert_recorded(work, refused, Layer.GRANT)
    refused = await refusal(delete(work, peer))
    assert told(refused) == (grpc.StatusCode.ABORTED, "PEER_STATE_CHANGED")
    assert_recorded(work, refused, Layer.PEER)
    with work.database.connect("mosaic_grants") as grants:
        for table, row in (("federation_grants", offer.grant_id), ("federation_peers", peer)):
            with pytest.raises(psycopg.errors.RestrictViolation, match="was active is kept"):
                grants.execute(f"DELETE FROM federation.{table} WHERE id = %s".encode(), (row,))
            with pytest.raises(psycopg.errors.RestrictViolation, match="and so is when"):
                grants.execute(f"UPDATE federation.{table} SET activated_at = NULL WHERE id = %s".encode(), (row,))


# ── lists and what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def every_grant(work: Gateway, **wanted: Any) -> list[types_pb2.Grant]:
    seen, token = [], ""
    while True:
        request = grants_pb2.ListGrantsRequest(page_token=token, **wanted)
        page = await work.grants.ListGrants(request, metadata=work.operator_metadata(Role.READ))
        assert len(page.grants) <= wanted["page_size"]
        seen += page.grants
        if not (token := page.next_page_token):
            return seen


async def every_peer(work: Gateway, **wanted: Any) -> list[types_pb2.Peer]:
    seen, token = [], ""
    while True:
        request = grants_pb2.ListPeersRequest(page_token=token, **wanted)
        page = await work.peers.ListPeers(request, metadata=work.operator_metadata(Role.READ))
        assert len(page.peers) <= wanted["page_size"]
        seen += page.peers
        if not (token := page.next_page_token):
            return seen


async def test_grants_are_found_by_user_peer_and_status_whatever_the_page(work: Gateway) -> None:
    """Three hundred, many of one microsecond: each once, newest first, over page boundaries and with every filter."""
    offer = await Offer.make(work)
    peer = peer_id_of(work, offer.grant_id)
    work.execute(
        """INSERT INTO federation.federation_grants (subject_user_id, peer_id, scope, created_by, created_at, status, activated_at,
               revoked_at, expires_at)
           SELECT subject_user_id, peer_id, scope, 'otto', now() - interval '1 s' * (n / 50),
                  (ARRAY['pending', 'active', 'revoked', 'expired', 'active'])[mod(n, 5) + 1], now(),
                  CASE mod(n, 5) WHEN 2 THEN now() END, CASE mod(n, 5) WHEN 4 THEN now() - interval '1 s' END
           FROM federation.federation_grants, generate_series(0, 299) n WHERE id = %s""",
        offer.grant_id,
    )
    [(email,)] = work.rows("SELECT email FROM public.users WHERE id = %s", offer.subject)
    for size in (7, 100, 301, 500):
        found = await every_grant(work, page_size=size, user=email, peer=peer)
        assert len({grant.id for grant in found}) == len(found) == 301
        assert [(g.created_at_us, UUID(g.id)) for g in found] == sorted(
            ((g.created_at_us, UUID(g.id)) for g in found), reverse=True
        )
    # Past its end it is expired, whatever is written.
    counts = {"PENDING": 61, "ACTIVE": 60, "REVOKED": 60, "EXPIRED": 120}
    for name, count in counts.items():
        status = types_pb2.GrantStatus.Value(f"GRANT_STATUS_{name}")
        found = await every_grant(work, page_size=59, user=str(offer.subject), status=status)
        assert ({grant.status for grant in found}, len(found)) == ({status}, count)
    assert await every_grant(work, page_size=10, user=str(uuid4())) == []


async def test_peers_are_found_by_state_and_direction_whatever_the_page(work: Gateway) -> None:
    """Two hundred of one microsecond: each once, over page boundaries and with every filter."""
    before = len(await every_peer(work, page_size=500))
    with work.database.connect() as owner:
        user = Rows(owner).user()
    work.execute(
        """INSERT INTO federation.federation_peers (name, common_name, direction, state, local_user_id, created_by, created_at,
               activated_at, revoked_at, endpoint_url, remote_gateway, remote_grant_id, remote_subject_user_id)
           SELECT 'many-' || n, 'many-' || n, 'outbound', (ARRAY['pending', 'active', 'suspended', 'revoked'])[mod(n, 4) + 1], %s,
                  'otto', now(), CASE WHEN mod(n, 4) > 0 THEN now() END, CASE mod(n, 4) WHEN 3 THEN now() END, 'there:1', 'there',
                  gen_random_uuid(), gen_random_uuid() FROM generate_series(0, 199) n""",
        user,
    )
    for size in (9, 100, 500):
        found = await every_peer(work, page_size=size)
        assert len({peer.id for peer in found}) == len(found) == before + 200
    outbound = types_pb2.PEER_DIRECTION_OUTBOUND
    for name in ("PENDING", "ACTIVE", "SUSPENDED", "REVOKED"):
        state = types_pb2.PeerState.Value(f"PEER_STATE_{name}")
        found = await every_peer(work, page_size=50, state=state, direction=outbound, user=str(user))
        assert ({peer.state for peer in found}, len(found)) == ({state}, 50)
    inbound = await every_peer(work, page_size=500, direction=types_pb2.PEER_DIRECTION_INBOUND)
    assert {peer.direction for peer in inbound} == {types_pb2.PEER_DIRECTION_INBOUND}
    assert len(inbound) == before


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({"status": 99}, id="a status"),
        pytest.param({"page_size": -1}, id="a page size"),
        pytest.param({"page_token": "AAAA"}, id="a page token"),
        pytest.param({"user": "nobody@example.com"}, id="an email"),
    ],
)
async def test_a_list_asked_for_what_there_is_not_is_refused(work: Gateway, wanted: dict[str, Any]) -> None:
    """Not answered empty, and not an internal error."""
    request = grants_pb2.ListGrantsRequest(**wanted)
    refused = await refusal(work.grants.ListGrants(request, metadata=work.operator_metadata(Role.READ)))
    assert refused.code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
    assert record_of(work, refused)["event"] == "call.refused"


async def test_a_grant_shows_its_tokens_certificates_records_and_debts(work: Gateway, keeper: Housekeeper) -> None:
    """Every token with the word for its state, the certificates, at most twenty rows with the newest first, and what is owed."""
    offer = await Offer.make(work)
    grant_id = str(offer.grant_id)
    words = [token_states(await grant_of(work, offer.grant_id))]
    claim = "redemption_id = gen_random_uuid(), csr_sha256 = sha256('a'), spki_sha256 = sha256('b'), attempt = 1"
    work.execute(
        f"UPDATE federation.federation_enrollment_tokens SET {claim}, serial = 815, lease_until = now() + interval '1 min'"
        " WHERE token_id = %s",
        offer.token_id,
    )
    words.append(token_states(await grant_of(work, offer.grant_id)))
    work.execute(
        "UPDATE federation.federation_enrollment_tokens SET lease_until = now() - interval '1 s',"
        " expires_at = now() - interval '1 s' WHERE token_id = %s",
        offer.token_id,
    )
    words.append(token_states(await grant_of(work, offer.grant_id)))
    await keeper.sweeps.run_once()
    await keeper.sweeps.run_once()
    [unfinished] = [row for row in work.audit("enrollment.unfinished") if row["token_id"] == offer.token_id]
    assert (unfinished["grant_id"], unfinished["actor"]) == (offer.grant_id, GRANTS)
    words.append(token_states(await grant_of(work, offer.grant_id)))
    url = await work.create_token(grant_id)
    words.append(token_states(await grant_of(work, offer.grant_id)))
    await work.redeem(url)
    words.append(token_states(await grant_of(work, offer.grant_id)))
    assert words == [["OPEN"], ["CLAIMED"], ["UNFINISHED"], ["UNFINISHED"], ["OPEN", "VOIDED"], ["USED", "VOIDED"]]

    for _ in range(16):
        await refusal(work.redeem(url))
    shown = await grant_of(work, offer.grant_id)
    assert len(shown.recent) == 20
    assert [entry.time_us for entry in shown.recent] == sorted((entry.time_us for entry in shown.recent), reverse=True)
    assert {(entry.event, entry.denied_reason) for entry in shown.recent[:16]} == {("enrollment.refused", "ENROLLMENT_TOKEN_USED")}
    assert [certificate.state for certificate in shown.certificates] == [types_pb2.CERTIFICATE_STATE_ACTIVE]
    assert shown.revocations_owed == 1, "the attempt that nobody finished"


def token_states(grant: types_pb2.Grant) -> list[str]:
    return [types_pb2.EnrollmentTokenState.Name(token.state).removeprefix("ENROLLMENT_TOKEN_STATE_") for token in grant.tokens]


async def test_an_inbound_peer_shows_when_it_was_seen_and_what_was_refused(work: Gateway) -> None:
    """Whether a peer is alive is seen from its reads, and why it is refused from its records."""
    offer = await Offer.make(work)
    client, peer = await offer.enroll(), peer_id_of(work, offer.grant_id)
    await client.list("tasks")
    await refusal(client.list("credentials"))
    answer = await work.peers.GetPeer(grants_pb2.GetPeerRequest(peer=peer), metadata=work.operator_metadata(Role.READ))
    assert (answer.peer.recent[0].event, answer.peer.recent[0].denied_reason) == ("read", "RESOURCE_NOT_GRANTED")
    assert answer.peer.last_seen_at_us == answer.peer.recent[0].time_us


# ── who may be given something ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("state", "code", "reason"),
    [
        pytest.param("suspended", grpc.StatusCode.FAILED_PRECONDITION, "PEER_NOT_ELIGIBLE", id="suspended"),
        pytest.param("revoked", grpc.StatusCode.FAILED_PRECONDITION, "PEER_NOT_ELIGIBLE", id="revoked"),
    ],
)
async def test_nothing_is_given_to_a_peer_that_is_not_welcome(
    work: Gateway, state: str, code: grpc.StatusCode, reason: str
) -> None:
    """Neither a grant nor a token for one that it was given before."""
    peer = await peer_in(work, state)
    with work.database.connect() as owner:
        user = str(Rows(owner).user())
    request = grants_pb2.CreateGrantRequest(user=user, peer=peer, scope_json='{"resources": ["tasks"], "max_rows_per_query": 1}')
    refused = await refusal(work.grants.CreateGrant(request, metadata=work.operator_metadata()))
    assert told(refused) == (code, reason)
    assert_recorded(work, refused, Layer.PEER)


async def test_nothing_is_given_in_the_name_of_a_user_who_is_not_active(work: Gateway) -> None:
    """A disabled user is nobody's subject."""
    peer = await peer_in(work, "active")
    with work.database.connect() as owner:
        user = str(Rows(owner).user(active=False))
    request = grants_pb2.CreateGrantRequest(user=user, peer=peer, scope_json='{"resources": ["tasks"], "max_rows_per_query": 1}')
    refused = await refusal(work.grants.CreateGrant(request, metadata=work.operator_metadata()))
    assert told(refused) == (grpc.StatusCode.FAILED_PRECONDITION, "SUBJECT_NOT_ELIGIBLE")
    assert_recorded(work, refused, Layer.SUBJECT)


async def test_a_grant_for_a_while_ends_by_the_databases_clock(work: Gateway) -> None:
    """`--expires-in` bounds the grant and the certificate that is given under it."""
    with work.database.connect() as owner:
        user = str(Rows(owner).user())
    grant_id = await work.create_grant(
        user=user, peer=f"peer-{uuid4().hex}", scope=TASKS_NOTES_MEMORY, expires_in_seconds=int(timedelta(hours=2).total_seconds())
    )
    redeemed = await work.redeem(await work.create_token(grant_id))
    [(life, ends)] = work.rows(
        "SELECT expires_at - created_at, expires_at FROM federation.federation_grants WHERE id = %s", grant_id
    )
    assert life == timedelta(hours=2)
    assert ends - timedelta(seconds=1) <= redeemed.certificate.not_valid_after_utc <= ends
