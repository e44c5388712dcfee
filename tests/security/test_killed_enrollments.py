"""Acceptance 2 of the enrollment: whoever dies, at whatever step, the same command finishes or names the one thing to do.

Everybody who takes part in `peer add` is killed with −9 at every step of it, and comes back on his data; then the same command is
run again, for as long as it takes. What no step asks needs no column: edge-outbound, and at home all but grants and its database,
are not even there. The small form runs in every test run; `make stress` runs all of it and writes the table.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from mosaic.errors.v1 import errors_pb2
from mosaic.grants.v1 import grants_pb2, ledger_pb2, ledger_pb2_grpc, types_pb2
from mosaic_common.identity import ENROLLMENT, GRANTS
from mosaic_common.tokens import EnrollmentToken, EnrollmentUrl

from tests.support.audit_records import chains_of
from tests.support.pausing import Step
from tests.support.peers import refusal
from tests.support.processes import Bed, Victim, running_bed
from tests.support.processes_enrollment import LISTED_SECONDS, Enrollment

pytestmark = pytest.mark.stepca

TABLE: Final = Path(__file__).parents[2] / ".bench" / "killed_enrollments.md"

# Whom a step has just heard: killed there, he did what was asked of him, and nobody ever heard of it.
LAST_HEARD: Final = {
    Step.PREPARED: Victim.HOME_POSTGRES,
    Step.CLAIMED: Victim.POSTGRES,
    Step.SIGNED: Victim.STEP_CA,
    Step.COMPLETED: Victim.POSTGRES,
    Step.ACTIVATED: Victim.HOME_POSTGRES,
}
ALL: Final = tuple((step, victim) for step in Step for victim in Victim)
# Each victim once, where it hurts most.
SMALL: Final = (
    (Step.PREPARED, Victim.HOME_POSTGRES),
    (Step.COUNTED, Victim.VALKEY),
    (Step.CLAIMED, Victim.GRANTS),
    (Step.WARRANTED, Victim.COMMAND),
    (Step.SIGNED, Victim.STEP_CA),
    (Step.ISSUED, Victim.CA_BROKER),
    (Step.COMPLETED, Victim.POSTGRES),
    (Step.ENROLLED, Victim.ENROLLMENT),
    (Step.REDEEMED, Victim.EDGE_INBOUND),
    (Step.ACTIVATED, Victim.HOME_GRANTS),
)
# Where the certificate is recorded and nobody has it: the one case that takes both operators.
SMALL_POWER_CUTS: Final = (Step.COMPLETED,)
POWER_CUT: Final = "all of them, and the token runs out"


async def _killed(bed: Bed, step: Step, victim: Victim) -> str:
    """Kill one at one step, and return how the enrollment ended, for the table."""
    async with Enrollment.offered(bed) as enrollment:
        pause = bed.steps.stop_at(step)
        run = enrollment.start()
        await pause.reached()
        if victim is Victim.COMMAND:
            await run.kill()
        else:
            await bed.kill(victim)
        pause.go_on(lost=LAST_HEARD.get(step) is victim)
        if victim is not Victim.COMMAND:
            await bed.restore(victim)
        await bed.be_healthy()
        enrollment.verify_whole()
        enrollment.restored.set()
        repeated = await enrollment.run_until_finished(run)
        await enrollment.verify()
        return ("again" if repeated else "finished") + (", after the lease" if enrollment.leases else "")


async def _power_cut(bed: Bed, step: Step) -> str:
    """Kill everybody at one step and let the token run out; do what one is told, and return what that was."""
    async with Enrollment.offered(bed) as enrollment:
        pause = bed.steps.stop_at(step)
        run = enrollment.start()
        await pause.reached()
        everybody = [victim for victim in Victim if victim is not Victim.COMMAND]
        await run.kill()
        await bed.kill(*everybody)
        pause.go_on()
        await bed.restore(*everybody)
        enrollment.restored.set()
        await bed.be_healthy()
        enrollment.verify_whole()
        enrollment.let_the_token_run_out()
        claimed = bool(enrollment.drawn) and not enrollment.certificates()

        again = enrollment.start()
        if await again.succeeded():
            assert step is Step.ACTIVATED
            await enrollment.verify()
            return "finished"
        assert not enrollment.connected() or enrollment.connected()[0][0] == "pending"
        reason, remedy = enrollment.refused(again)
        assert reason == "ENROLLMENT_TOKEN_EXPIRED"
        assert "mosaic federation grant token" in remedy
        if claimed:
            await _named_as_unfinished(enrollment)
        url, how = await _new_token(enrollment)
        assert await enrollment.start(url).succeeded()
        await enrollment.verify(replaced=how == "new token --reenroll")
        return how


async def _named_as_unfinished(enrollment: Enrollment) -> None:
    """The sweep records the claim that nobody finished, and `grant show` names it."""
    async with asyncio.timeout(LISTED_SECONDS):
        while "enrollment.unfinished" not in enrollment.events():
            await asyncio.sleep(0.1)
    request = grants_pb2.GetGrantRequest(id=str(enrollment.offer.grant_id))
    answer = await enrollment.client.grants.GetGrant(request, metadata=enrollment.client.operator_metadata())
    assert [(token.token_id, token.state) for token in answer.grant.tokens] == [
        (enrollment.offer.token_id, types_pb2.ENROLLMENT_TOKEN_STATE_UNFINISHED)
    ]


async def _new_token(enrollment: Enrollment) -> tuple[EnrollmentUrl, str]:
    """What the operator of work does when asked for a new one: what he is told when that is refused names the other way."""
    client, grant_id = enrollment.client, str(enrollment.offer.grant_id)
    if not enrollment.certificates():
        return await client.create_token(grant_id), "new token"
    refused = await refusal(client.create_token(grant_id))
    assert refused.reason == "GRANT_STATE_CHANGED"
    assert "--reenroll" in refused.metadata["remediation"]
    token = EnrollmentToken.generate()
    request = grants_pb2.CreateEnrollmentTokenRequest(grant_id=grant_id, token_public_key=token.public_key, reenroll=True)
    answer = await client.grants.CreateEnrollmentToken(request, metadata=client.operator_metadata())
    return EnrollmentUrl.parse(f"{answer.url_without_token}&token={token.encode()}"), "new token --reenroll"


@pytest.fixture(scope="module")
async def bed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bed]:
    """The two gateways; when all is over, their audit logs are whole."""
    async with running_bed(tmp_path_factory.mktemp("killed")) as running:
        yield running
        for gateway in (running.work, running.home):
            for chain in chains_of(gateway, "grants"):
                chain.verify()


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[Step, str], str]]:
    """Outcomes by step and victim, written down at the end."""
    outcomes: dict[tuple[Step, str], str] = {}
    began = time.monotonic()
    yield outcomes
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(_rendered(outcomes, time.monotonic() - began))


def _rendered(outcomes: dict[tuple[Step, str], str], seconds: float) -> str:
    columns = [*Victim, POWER_CUT]
    lines = [
        "Killed with -9 at this step: the running command finished all the same, or the same one finished when run again.",
        "In the last column: what the command, and then the other operator's, named as the one thing to do.",
        "",
        f"| step | {' | '.join(columns)} |",
        f"|---{'|---' * len(columns)}|",
        *(f"| {step} | {' | '.join(outcomes.get((step, column), '-') for column in columns)} |" for step in Step),
        "",
        f"{len(outcomes)} cases in {seconds:.0f} s",
    ]
    return "\n".join([*lines, ""])


def _id(case: tuple[Step, Victim]) -> str:
    step, victim = case
    return f"{step.name.lower()}: {victim}"


async def test_the_steps_are_those_of_an_enrollment(bed: Bed) -> None:
    """An undisturbed enrollment passes every step of the table once, in its order: none is stopped at that never comes."""
    async with Enrollment.offered(bed) as enrollment:
        bed.steps.let_pass()
        enrollment.restored.set()
        assert await enrollment.start().succeeded()
        assert bed.steps.passed == list(Step)
        await enrollment.verify()


@pytest.mark.parametrize("case", SMALL, ids=_id)
async def test_whoever_is_killed_the_same_command_finishes(case: tuple[Step, Victim], bed: Bed) -> None:
    """One certificate, pinned on both sides; what was drawn beside it is on the list; the token is as good as it was."""
    await _killed(bed, *case)


@pytest.mark.parametrize("step", SMALL_POWER_CUTS, ids=lambda step: step.name.lower())
async def test_after_a_power_cut_and_the_tokens_end_the_one_thing_to_do_is_named(step: Step, bed: Bed) -> None:
    """Whoever held the token learns that it is over and whom to ask; who is asked learns what to make; that finishes."""
    await _power_cut(bed, step)


# ── overtaken: nobody dies, somebody is late ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_late_attempt_loses_to_the_one_after_it(bed: Bed) -> None:
    """An attempt whose lease ran out neither completes nor releases any more what another attempt has claimed since."""
    async with Enrollment.offered(bed) as enrollment:
        enrollment.restored.set()
        late = bed.steps.stop_at(Step.BROUGHT)
        first = enrollment.start()
        await late.reached()
        enrollment.let_the_lease_run_out()
        current = bed.steps.stop_at(Step.BROUGHT)
        second = enrollment.start()
        await current.reached()
        ledger = ledger_pb2_grpc.EnrollmentLedgerServiceStub(enrollment.client.internal_channel(GRANTS, caller=ENROLLMENT))
        await ledger.ReleaseEnrollment(
            ledger_pb2.ReleaseEnrollmentRequest(
                token_id=enrollment.offer.token_id, attempt=1, reason=errors_pb2.REASON_CSR_MISMATCH, source_address="127.0.0.1"
            )
        )
        late.go_on()
        assert not await first.succeeded()
        assert enrollment.refused(first)[0] == "ENROLLMENT_TOKEN_USED"
        current.go_on()
        assert await second.succeeded()
        await enrollment.verify()
        assert await enrollment.start().succeeded(), "who was late finds that all is done"


async def test_of_two_tokens_the_newer_one_counts(bed: Bed) -> None:
    """An attempt under the older one, already signed, is not completed once the newer one exists; the command says which to use."""
    async with Enrollment.offered(bed) as enrollment:
        late = bed.steps.stop_at(Step.BROUGHT)
        run = enrollment.start()
        await late.reached()
        enrollment.note_drawn()
        newer = await enrollment.client.create_token(str(enrollment.offer.grant_id))
        late.go_on()
        assert not await run.succeeded()
        assert enrollment.refused(run)[0] == "ENROLLMENT_TOKEN_VOIDED"
        again = enrollment.start()
        assert not await again.succeeded()
        reason, remedy = enrollment.refused(again)
        assert reason == "ENROLLMENT_TOKEN_VOIDED"
        assert "newest URL" in remedy
        assert await enrollment.start(newer).succeeded()
        await enrollment.verify()


async def _revoke_grant(enrollment: Enrollment) -> None:
    client = enrollment.client
    await client.grants.RevokeGrant(
        grants_pb2.RevokeGrantRequest(id=str(enrollment.offer.grant_id)), metadata=client.operator_metadata()
    )


async def _delete_grant(enrollment: Enrollment) -> None:
    client = enrollment.client
    await client.grants.DeleteGrant(
        grants_pb2.DeleteGrantRequest(id=str(enrollment.offer.grant_id)), metadata=client.operator_metadata()
    )


async def _revoke_peer(enrollment: Enrollment) -> None:
    client = enrollment.client
    name = enrollment.offer.url.common_name
    await client.peers.RevokePeer(grants_pb2.RevokePeerRequest(peer=name), metadata=client.operator_metadata())


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param(_revoke_grant, "GRANT_STATE_CHANGED", id="grant revoked"),
        pytest.param(_delete_grant, "ENROLLMENT_TOKEN_UNKNOWN", id="grant deleted"),
        pytest.param(_revoke_peer, "GRANT_STATE_CHANGED", id="peer revoked"),
    ],
)
async def test_a_completion_after_the_end_pins_nothing(end: Callable[[Enrollment], Awaitable[None]], reason: str, bed: Bed) -> None:
    """What ended while the certificate was under way stays ended, and the certificate is on the list."""
    async with Enrollment.offered(bed) as enrollment:
        late = bed.steps.stop_at(Step.BROUGHT)
        run = enrollment.start()
        await late.reached()
        enrollment.note_drawn()
        await end(enrollment)
        late.go_on()
        assert not await run.succeeded()
        assert enrollment.refused(run)[0] == reason
        assert enrollment.certificates() == {}
        assert len(enrollment.drawn) == 1
        await enrollment.all_listed()


# ── all of it ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.stress
@pytest.mark.parametrize("case", ALL, ids=_id)
async def test_whoever_is_killed_at_whatever_step(case: tuple[Step, Victim], bed: Bed, table: dict[tuple[Step, str], str]) -> None:
    """The same for everybody at every step."""
    step, victim = case
    table[step, victim] = await _killed(bed, step, victim)


@pytest.mark.stress
@pytest.mark.parametrize("step", Step, ids=lambda step: step.name.lower())
async def test_after_a_power_cut_at_whatever_step(step: Step, bed: Bed, table: dict[tuple[Step, str], str]) -> None:
    """The same for a power cut at every step."""
    table[step, POWER_CUT] = await _power_cut(bed, step)
