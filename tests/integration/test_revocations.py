"""What has ended is refused first and told to the authority later; what the authority says is believed as far as it is proved."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
import pytest
from mosaic.ca.v1 import certificate_authority_pb2, certificate_authority_pb2_grpc
from mosaic.grants.v1 import types_pb2
from mosaic_common.errors import CaUnreachable, MosaicError, Reason, RevocationListRefused
from mosaic_common.identity import CA_BROKER, GRANTS
from mosaic_common.x509 import draw_serial
from mosaic_grants.domain.revocations import Revocations
from structlog.testing import capture_logs

from tests.support.authorities import LyingAuthority
from tests.support.forgeries import authority_of
from tests.support.gateway import Gateway
from tests.support.housekeepers import Housekeeper, keeper, listed, work
from tests.support.offers import Offer
from tests.support.operators import grant_of, revoke_grant
from tests.support.peers import refusal

__all__ = ["keeper", "work"]


@dataclass(slots=True)
class ScriptedAuthority:
    """Port of Revocations: does as it is told.

    Attributes:
        deaf: raised instead of an answer.
        told: serials that it was asked to revoke, in order.
    """

    signer: LyingAuthority
    number: int = 1
    deaf: MosaicError | None = None
    told: list[int] = field(default_factory=list)
    published: set[int] = field(default_factory=set)

    async def revoke(self, serial: int, why: str) -> None:
        assert why
        if self.deaf is not None:
            raise self.deaf
        self.told.append(serial)

    async def get_revocation_list(self) -> tuple[bytes, Sequence[bytes]]:
        if self.deaf is not None:
            raise self.deaf
        return self.signer.publish(self.published, number=self.number), self.signer.chain_der


@pytest.fixture
def scripted(keeper: Housekeeper) -> Iterator[tuple[ScriptedAuthority, Revocations]]:
    """An authority under the gateway's own root, whose lists go on from the last one that was believed."""
    rows = keeper.gateway.rows("SELECT number FROM federation.federation_revocation_list")
    authority = ScriptedAuthority(authority_of(keeper.gateway), number=int(rows[0][0]) + 1 if rows else 0)
    authority.published = set(owed_and_listed(keeper.gateway))
    yield authority, keeper.believing(authority)
    # Its numbers are not those of the real one, whose lists other tests believe.
    keeper.gateway.execute("DELETE FROM federation.federation_revocation_list")


def owed_and_listed(work: Gateway) -> list[int]:
    return [int(serial) for (serial,) in work.rows("SELECT serial FROM federation.federation_ca_outbox WHERE done_at IS NOT NULL")]


def due_now(work: Gateway) -> None:
    """Let whatever waits for its next try be due: tests do not wait for the pause to pass."""
    work.execute("UPDATE federation.federation_ca_outbox SET next_attempt_at = now() WHERE done_at IS NULL")


async def serial_of(work: Gateway, offer: Offer) -> int:
    return int((await grant_of(work, offer.grant_id)).certificates[0].serial)


async def test_a_revocation_outlasts_an_authority_that_is_down(work: Gateway, keeper: Housekeeper) -> None:
    """With the broker gone the peer is refused at once and the debt stays, with its cause; when it is back it hears of it."""
    offer = await Offer.make(work)
    peer = await offer.enroll()
    serial = await serial_of(work, offer)
    await work.stop(CA_BROKER)
    try:
        await revoke_grant(work, offer.grant_id)
        assert (await refusal(peer.list("tasks"))).reason == "GRANT_NOT_ACTIVE"
        with capture_logs() as logs:
            assert await keeper.revocations.tell() == 0
        assert [(log["grant_id"], log["attempts"]) for log in logs if log["event"] == "revocation_not_sent"] == [
            (str(offer.grant_id), 1)
        ]
        assert work.rows("SELECT last_error IS NOT NULL FROM federation.federation_ca_outbox WHERE serial = %s", serial) == [
            (True,)
        ]
        assert await keeper.revocations.tell() == 0, "it is not asked again at once"
        with pytest.raises(MosaicError):
            await keeper.revocations.compare()
        assert (await grant_of(work, offer.grant_id)).revocations_owed == 1
    finally:
        await work.start(CA_BROKER)
        async with asyncio.timeout(30):
            await keeper.broker.channel_ready()
    due_now(work)
    assert await keeper.revocations.tell() >= 1
    await keeper.revocations.compare()
    assert (await grant_of(work, offer.grant_id)).revocations_owed == 0
    assert serial in await listed(keeper)


async def test_a_replica_that_dies_while_telling_leaves_it_to_the_next(
    work: Gateway, keeper: Housekeeper, scripted: tuple[ScriptedAuthority, Revocations]
) -> None:
    """Taken and never told, or told and never settled: another one tells it again when the lease is over, and not before."""
    authority, revocations = scripted
    offer = await Offer.make(work)
    await offer.enroll()
    serial = await serial_of(work, offer)
    await revoke_grant(work, offer.grant_id)
    async with keeper.ledger.transaction() as tx:
        assert serial in {owed.serial for owed in await tx.outbox.take_due(limit=100)}
    # Here it dies.
    await revocations.tell()
    assert serial not in authority.told
    due_now(work)
    await revocations.tell()
    assert authority.told.count(serial) == 1
    # Told, and it dies again: the authority never published it.
    await revocations.compare()
    assert (await grant_of(work, offer.grant_id)).revocations_owed == 1
    due_now(work)
    await revocations.tell()
    assert authority.told.count(serial) == 2
    authority.published.add(serial)
    authority.number += 1
    await revocations.compare()
    assert (await grant_of(work, offer.grant_id)).revocations_owed == 0
    due_now(work)
    await revocations.tell()
    assert authority.told.count(serial) == 2


async def test_each_try_waits_longer(work: Gateway, scripted: tuple[ScriptedAuthority, Revocations]) -> None:
    """An authority that does not answer is not asked every second, and at last once in five minutes."""
    authority, revocations = scripted
    authority.deaf = CaUnreachable(Reason.CA_UNREACHABLE, "It does not answer.")
    offer = await Offer.make(work)
    await offer.enroll()
    await revoke_grant(work, offer.grant_id)
    pauses = []
    for _ in range(9):
        due_now(work)
        await revocations.tell()
        [(pause,)] = work.rows(
            "SELECT next_attempt_at - now() FROM federation.federation_ca_outbox WHERE grant_id = %s", offer.grant_id
        )
        pauses.append(round(pause / timedelta(seconds=30)))
    assert pauses == [1, 2, 4, 8, 10, 10, 10, 10, 10]


async def test_a_revocation_that_nobody_ordered_raises_an_alarm(work: Gateway, keeper: Housekeeper) -> None:
    """Whoever can revoke at the authority is noticed once, in log and record: a pinned certificate is refused from then
    on, here too, and its grant can be re-enrolled; a serial that was never signed is noticed as well.
    """
    offer = await Offer.make(work)
    peer = await offer.enroll()
    await peer.list("tasks")
    pinned, unknown = await serial_of(work, offer), draw_serial()
    broker = certificate_authority_pb2_grpc.CertificateAuthorityServiceStub(work.internal_channel(CA_BROKER, caller=GRANTS))
    for serial in (pinned, unknown):
        await broker.RevokeCertificate(certificate_authority_pb2.RevokeCertificateRequest(serial=str(serial), reason="intruder"))

    with capture_logs() as logs:
        await keeper.revocations.compare()
        await keeper.revocations.compare()
    [alarm] = [log for log in logs if log["event"] == "revocation_not_ordered"]
    assert (alarm["log_level"], set(alarm["serials"]), alarm["certificates_ended"]) == ("error", {str(pinned), str(unknown)}, 1)
    assert "break-in" in alarm["remedy"]
    [row] = [row for row in work.audit("revocation.not_ordered") if row["denied_reason"] == "CA_LIED"]
    assert (row["actor"], row["outcome"], row["denied_layer"], row["result_count"]) == ("grants", "denied", "ca", 2)
    [row] = [row for row in work.audit("certificate.revoked") if row["grant_id"] == offer.grant_id]

    refused = await refusal(peer.list("tasks"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_REVOKED")
    shown = await grant_of(work, offer.grant_id)
    assert shown.status == types_pb2.GRANT_STATUS_ACTIVE
    assert [certificate.state for certificate in shown.certificates] == [types_pb2.CERTIFICATE_STATE_REVOKED]


async def test_an_older_list_is_not_believed(work: Gateway, scripted: tuple[ScriptedAuthority, Revocations]) -> None:
    """A number that goes back settles nothing, ends nothing, replaces nothing, and raises an alarm."""
    authority, revocations = scripted
    offer = await Offer.make(work)
    peer = await offer.enroll()
    authority.number += 10
    await revocations.compare()
    held = work.rows("SELECT number, der FROM federation.federation_revocation_list")
    authority.number -= 1
    authority.published.add(await serial_of(work, offer))
    with capture_logs() as logs:
        await revocations.compare()
    assert [log["number"] for log in logs if log["event"] == "revocation_list_went_back"] == [authority.number]
    row = work.audit("revocation.not_ordered")[-1]
    assert (row["outcome"], row["denied_reason"]) == ("denied", "REVOCATION_LIST_REFUSED")
    assert work.rows("SELECT number, der FROM federation.federation_revocation_list") == held
    await peer.list("tasks")


async def test_a_list_under_another_root_is_not_believed(work: Gateway, scripted: tuple[ScriptedAuthority, Revocations]) -> None:
    """What the broker brings is verified here: a list that somebody else signed neither settles a debt nor ends a certificate."""
    authority, revocations = scripted
    offer, live = await Offer.make(work), await Offer.make(work)
    await offer.enroll()
    peer = await live.enroll()
    authority.published |= {await serial_of(work, offer), await serial_of(work, live)}
    authority.signer = LyingAuthority.make(work.clock.now())
    await revoke_grant(work, offer.grant_id)
    with pytest.raises(RevocationListRefused):
        await revocations.compare()
    assert (await grant_of(work, offer.grant_id)).revocations_owed == 1
    await peer.list("tasks")


async def test_what_ran_out_is_not_owed(work: Gateway) -> None:
    """A list is not made longer by certificates that nobody accepts any more."""
    offer = await Offer.make(work)
    await offer.enroll()
    work.execute(
        "UPDATE federation.federation_certificates SET not_before = now() - interval '2 d', not_after = now() - interval '1 s'"
        " WHERE grant_id = %s",
        offer.grant_id,
    )
    await revoke_grant(work, offer.grant_id)
    shown = await grant_of(work, offer.grant_id)
    assert ([certificate.state for certificate in shown.certificates], shown.revocations_owed) == (
        [types_pb2.CERTIFICATE_STATE_REVOKED],
        0,
    )
