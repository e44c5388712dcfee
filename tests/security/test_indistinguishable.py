"""Answers that must not tell a stranger what there is: equal to the byte, but for the request id."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from uuid import UUID, uuid4

import mosaic_grants.app
import mosaic_grants.config
import pytest
from mosaic.enrollment.v1 import enrollment_pb2
from mosaic.federation.v1 import federation_pb2
from mosaic.grants.v1 import ledger_pb2, ledger_pb2_grpc
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.config import load
from mosaic_common.identity import EDGE_INBOUND, GRANTS, OPERATOR
from mosaic_common.tokens import EnrollmentToken

from tests.support.answers import refused_bytes
from tests.support.forgeries import forged_peer
from tests.support.gateway import Gateway
from tests.support.health import serving
from tests.support.offers import Offer
from tests.support.peers import PeerClient, Redemption, refusal
from tests.support.postgres import PostgresServer
from tests.support.rows import Rows
from tests.support.statements import StatementRelay


def list_tasks(peer: PeerClient) -> Awaitable[object]:
    return peer.list("tasks")


def list_what_no_grant_shows(peer: PeerClient) -> Awaitable[object]:
    return peer.list("credentials")


def list_what_does_not_exist(peer: PeerClient) -> Awaitable[object]:
    return peer.list("secrets")


def list_backwards(peer: PeerClient) -> Awaitable[object]:
    return peer.list("tasks", page_size=-1)


def list_from_a_made_up_page(peer: PeerClient) -> Awaitable[object]:
    return peer.list("tasks", page_token="made up")


def capabilities(peer: PeerClient) -> Awaitable[object]:
    return peer.capabilities()


def get_a_row(peer: PeerClient) -> Awaitable[object]:
    answer: Awaitable[object] = peer.stub.GetResource(federation_pb2.GetResourceRequest(resource="tasks", id=str(uuid4())))
    return answer


def search(peer: PeerClient) -> Awaitable[object]:
    answer: Awaitable[object] = peer.stub.SearchResources(federation_pb2.SearchResourcesRequest(resources=["tasks"], query="x"))
    return answer


@pytest.mark.parametrize(
    "ask",
    [
        *(list_tasks, list_what_no_grant_shows, list_what_does_not_exist, list_backwards, list_from_a_made_up_page),
        *(capabilities, get_a_row, search),
    ],
)
async def test_a_pending_grant_looks_like_none(work: Gateway, ask: Callable[[PeerClient], Awaitable[object]]) -> None:
    """Whatever is asked, and whoever the certificate says it is for: that a grant waits to be redeemed shows nowhere."""
    offer = await Offer.make(work)
    of_nobody = await refused_bytes(ask(forged_peer(work, uuid4(), uuid4())))
    assert b"GRANT_NOT_ACTIVE" in of_nobody
    assert await refused_bytes(ask(forged_peer(work, offer.grant_id, offer.subject))) == of_nobody
    assert await refused_bytes(ask(forged_peer(work, offer.grant_id, uuid4()))) == of_nobody


async def test_a_pending_grant_looks_like_none_while_grants_is_away(work: Gateway) -> None:
    """The edge forgets both at the same age; what it says then is said of either."""
    offer = await Offer.make(work)
    pending, of_nobody = forged_peer(work, offer.grant_id, offer.subject), forged_peer(work, uuid4(), uuid4())
    heard = [await refused_bytes(list_tasks(peer)) for peer in (pending, of_nobody)]
    assert heard[0] == heard[1]
    await work.stop(GRANTS)
    try:
        async with asyncio.timeout(4):  # below the 5 s for which a live grant is remembered
            while (forgotten := await refused_bytes(list_tasks(of_nobody))) == heard[1]:
                await asyncio.sleep(0.05)
        assert b"DEPENDENCY_UNAVAILABLE" in forgotten
        assert await refused_bytes(list_tasks(pending)) == forgotten
    finally:
        await work.start(GRANTS)
        await serving(work.internal_channel(EDGE_INBOUND, caller=OPERATOR), GRANTS)


@pytest.fixture(scope="module")
async def heard_grants(
    postgres_server: PostgresServer, valkey: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Gateway, StatementRelay]]:
    """A grants service whose every statement is heard."""
    with postgres_server.fresh() as database:
        async with StatementRelay(database.url("mosaic_grants")) as relay:
            gateway = Gateway("work", tmp_path_factory.mktemp("heard"), database, valkey)
            gateway.prepare()
            config = load(mosaic_grants.config.Config, gateway.environment(GRANTS) | {"DATABASE_URL": relay.url})
            gateway.instead[GRANTS] = lambda each: mosaic_grants.app.build(config, each.clock)
            try:
                await gateway.start(GRANTS)
                await serving(gateway.internal_channel(GRANTS, caller=OPERATOR), "postgres")
                yield gateway, relay
            finally:
                await gateway.close()


async def test_a_pending_grant_costs_what_none_costs(heard_grants: tuple[Gateway, StatementRelay]) -> None:
    """The edge asks grants once for either, and grants asks the database the same: no time tells them apart."""
    gateway, relay = heard_grants
    with gateway.database.connect() as owner:
        rows = Rows(owner)
        granted = rows.grant(rows.user())
        owner.execute("UPDATE federation.federation_grants SET status = 'pending' WHERE id = %s", (granted.id,))
    resolver = ledger_pb2_grpc.GrantResolverServiceStub(gateway.internal_channel(GRANTS, caller=EDGE_INBOUND))

    async def asked_for(grant_id: UUID) -> list[str]:
        """Of the ledger, and without what a sweep asked meanwhile: the shortest of several."""
        heard = []
        for _ in range(5):
            with relay.noting() as asked:
                await resolver.ResolveGrant(ledger_pb2.ResolveGrantRequest(grant_id=str(grant_id)))
            heard.append([each.text for each in asked.executed if "federation.federation_" in each.text])
        return min(heard, key=len)

    of_one = await asked_for(granted.id)
    assert "federation_grants" in str(of_one)
    assert await asked_for(uuid4()) == of_one


async def pending(offer: Offer) -> None:
    """As it was made."""


async def redeemed(offer: Offer) -> None:
    await offer.gateway.redeem(offer.url)


async def voided(offer: Offer) -> None:
    await offer.gateway.create_token(str(offer.grant_id))


async def expired(offer: Offer) -> None:
    offer.gateway.execute(
        "UPDATE federation.federation_enrollment_tokens SET expires_at = now() WHERE token_id = %s", offer.token_id
    )


async def of_a_revoked_grant(offer: Offer) -> None:
    offer.gateway.execute(
        "UPDATE federation.federation_grants SET status = 'revoked', revoked_at = now() WHERE id = %s", offer.grant_id
    )


@pytest.mark.parametrize("state", [pending, redeemed, voided, expired, of_a_revoked_grant])
async def test_a_token_shows_itself_only_to_its_holder(work: Gateway, state: Callable[[Offer], Awaitable[None]]) -> None:
    """Without the proof, a token that is there answers like one that never was, whatever has become of it."""
    offer = await Offer.make(work)
    await state(offer)
    nobodys = Redemption.of(replace(offer.url, token=EnrollmentToken.generate())).request
    of_none = await refused_bytes(work.enrollment.Enroll(nobodys))
    assert b"ENROLLMENT_TOKEN_UNKNOWN" in of_none
    before = unproven_in_the_log(work)
    unproven = attempts_without_the_token(offer)
    for attempt in unproven:
        assert await refused_bytes(work.enrollment.Enroll(attempt)) == of_none
    # They cost their sender nothing, so they share a row a second, and name no grant: the token was not even looked up.
    async with asyncio.timeout(5):
        while unproven_in_the_log(work) < before + len(unproven):
            await asyncio.sleep(0.05)
    assert "ENROLLMENT_TOKEN_UNKNOWN" not in str(offer.redemptions())


def unproven_in_the_log(work: Gateway) -> int:
    """How many redemptions without a proof the audit log stands for."""
    rows = [row for row in work.audit("enrollment.refused") if row["denied_reason"] == "ENROLLMENT_TOKEN_UNKNOWN"]
    assert all((row["outcome"], row["denied_layer"], row["grant_id"]) == ("denied", "token", None) for row in rows)
    return sum(row["repeated"] for row in rows)


def attempts_without_the_token(offer: Offer) -> list[enrollment_pb2.EnrollRequest]:
    """Requests that name the token by its public key; each proof is one that does not hold for its request."""
    proven = Redemption.of(offer.url).request

    def changed(**fields: object) -> enrollment_pb2.EnrollRequest:
        request = enrollment_pb2.EnrollRequest()
        request.CopyFrom(proven)
        for name, value in fields.items():
            setattr(request, name, value)
        return request

    return [
        changed(proof=b""),
        changed(proof=bytes(64)),
        changed(proof=proven.proof + b"\x00"),
        changed(proof=Redemption.of(replace(offer.url, token=EnrollmentToken.generate())).request.proof),
        changed(csr_der=Redemption.of(offer.url).request.csr_der),
        changed(csr_der=b"no CSR"),
        changed(redemption_id=str(uuid4())),
        Redemption.of(replace(offer.url, pin=None)).request,
        Redemption.of(replace(offer.url, pin=bytes(range(32)))).request,
    ]


@pytest.mark.parametrize("length", [0, 31, 33, 4096])
async def test_a_public_key_that_is_none_is_an_unknown_token(work: Gateway, length: int) -> None:
    """What cannot be a token's public key is answered like a token that nobody knows."""
    offer = await Offer.make(work)
    request = Redemption.of(offer.url).request
    of_none = await refused_bytes(
        work.enrollment.Enroll(Redemption.of(replace(offer.url, token=EnrollmentToken.generate())).request)
    )
    request.token_public_key = bytes(length)
    assert await refused_bytes(work.enrollment.Enroll(request)) == of_none


async def test_the_holder_hears_more(work: Gateway) -> None:
    """With its proof a used token is told from an unknown one: the comparisons above are between things that differ."""
    offer = await Offer.make(work)
    await offer.gateway.redeem(offer.url)
    assert (await refusal(work.redeem(offer.url))).reason == "ENROLLMENT_TOKEN_USED"
