"""What another gateway refused is read here in words: by this side's operator, without asking the other one."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

import pytest
from mosaic.federation.v1 import federation_pb2, query_pb2
from mosaic.grants.v1 import grants_pb2, types_pb2
from mosaic_common.audit import Event

from tests.support.connections import connect
from tests.support.gateway import Gateway, Pair

MAYA: Final = "maya@example.com"


async def ask(home: Gateway, user: UUID) -> query_pb2.SourceResult:
    """Ask through the user's only connection; how that source answered."""
    request = query_pb2.QueryRequest(verb=federation_pb2.VERB_LIST, resources=["tasks"], source="federated:work")
    answer = await home.queries.Query(request, metadata=home.user_metadata(user))
    source: query_pb2.SourceResult
    [source] = answer.sources
    return source


async def shown(home: Gateway, peer_id: str, until: Callable[[types_pb2.Peer], bool]) -> types_pb2.Peer:
    """The connection as `peer show` has it, once what the edge reported has arrived."""
    async with asyncio.timeout(5):
        while True:
            request = grants_pb2.GetPeerRequest(peer=peer_id)
            peer: types_pb2.Peer = (await home.peers.GetPeer(request, metadata=home.operator_metadata())).peer
            if until(peer):
                return peer
            await asyncio.sleep(0.02)


@pytest.fixture
async def connection(pair: Pair) -> tuple[UUID, str, str]:
    """A fresh user of home, their connection `work`, and the grant that it uses at work."""
    with pair.home.database.connect() as owner:
        [(user,)] = owner.execute(
            b"INSERT INTO public.users (email, name) VALUES (gen_random_uuid()::text, 'Somebody') RETURNING id"
        ).fetchall()
    grant_id = await connect(pair.home, user, pair.work, remote_user=MAYA)
    [(peer_id,)] = pair.home.rows("SELECT id::text FROM federation.federation_peers WHERE local_user_id = %s", user)
    return user, str(peer_id), grant_id


async def test_a_revoked_grant_is_told_in_words(pair: Pair, connection: tuple[UUID, str, str]) -> None:
    """W revoked the grant: H's next query is denied, and H's `peer show` says so and what to do, once in the audit log."""
    user, peer_id, grant_id = connection
    assert (await ask(pair.home, user)).status == query_pb2.SOURCE_STATUS_OK
    answering = await shown(pair.home, peer_id, lambda peer: peer.HasField("last_seen_at_us"))
    assert not answering.HasField("refusal")

    request = grants_pb2.RevokeGrantRequest(id=grant_id, reason="moved on")
    await pair.work.grants.RevokeGrant(request, metadata=pair.work.operator_metadata())
    for _ in range(2):
        denied = await ask(pair.home, user)
        assert (denied.status, denied.reason) == (query_pb2.SOURCE_STATUS_DENIED, "GRANT_NOT_ACTIVE")
        assert denied.message == (
            f"The peer refuses this connection: its grant is revoked; `mosaic federation peer show {peer_id}` says what to do."
        )

    refused = await shown(pair.home, peer_id, lambda peer: peer.HasField("refusal"))
    assert refused.refusal.grant_status == "revoked"
    assert refused.refusal.sentence == (
        f"work has revoked the grant: ask its operator for a new grant, then `mosaic federation peer revoke {peer_id}` and "
        "`peer add` with the new URL."
    )
    rows = [row for row in pair.home.audit(Event.CONNECTION_REFUSED) if str(row["peer_id"]) == peer_id]
    told = [(row["actor"], row["outcome"], row["denied_reason"], row["subject_user_id"]) for row in rows]
    assert told == [("edge-outbound", "denied", "GRANT_NOT_ACTIVE", user)]


async def test_a_suspension_is_told_and_forgotten(pair: Pair, connection: tuple[UUID, str, str]) -> None:
    """W suspended home and resumed it: H's `peer show` says so while it lasts."""
    user, peer_id, _ = connection
    metadata = pair.work.operator_metadata()
    await pair.work.peers.SuspendPeer(grants_pb2.SuspendPeerRequest(peer="home"), metadata=metadata)
    try:
        assert (await ask(pair.home, user)).reason == "PEER_NOT_ACTIVE"
        refused = await shown(pair.home, peer_id, lambda peer: peer.HasField("refusal"))
        assert refused.refusal.sentence == "work has suspended or revoked this gateway: ask its operator."
    finally:
        await pair.work.peers.ResumePeer(grants_pb2.ResumePeerRequest(peer="home"), metadata=metadata)
    async with asyncio.timeout(5):
        # What refused is believed for a second.
        while (await ask(pair.home, user)).status != query_pb2.SOURCE_STATUS_OK:
            await asyncio.sleep(0.1)
    await shown(pair.home, peer_id, lambda peer: not peer.HasField("refusal"))


async def test_an_expired_grant_is_told_in_words(pair: Pair, connection: tuple[UUID, str, str]) -> None:
    """The grant's time is over by W's database: H's operator reads that it has expired."""
    user, peer_id, grant_id = connection
    pair.work.execute("UPDATE federation.federation_grants SET expires_at = now() WHERE id = %s", grant_id)
    assert (await ask(pair.home, user)).reason == "GRANT_NOT_ACTIVE"
    refused = await shown(pair.home, peer_id, lambda peer: peer.HasField("refusal"))
    assert refused.refusal.grant_status == "expired"
    assert refused.refusal.sentence.startswith("work says that the grant has expired: ask its operator for a new grant")


async def test_the_serving_side_shows_when_a_peer_last_asked(pair: Pair, connection: tuple[UUID, str, str]) -> None:
    """W's `peer show` has the time of H's last read, whatever it was answered."""
    user, _, _ = connection
    begun = pair.work.clock.now()
    assert (await ask(pair.home, user)).status == query_pb2.SOURCE_STATUS_OK
    seen = await shown(pair.work, "home", lambda peer: peer.HasField("last_seen_at_us"))
    assert seen.last_seen_at_us >= int(begun.timestamp() * 1_000_000)
