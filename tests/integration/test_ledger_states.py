"""Whatever operators, peers, users, clocks and sweeps do, alone or at once: only what contracts.md draws happens.

A machine draws orders and, for two at once, the order of their statements; the real database carries them out, and a small model
says what may come of it.
"""

import asyncio
from collections.abc import Iterator
from typing import ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from mosaic_grants.adapters.ledger import transaction

from tests.support import ledger_model as model
from tests.support.ledger_bed import LedgerBed
from tests.support.postgres import PostgresServer
from tests.support.turns import PacedStatements, Turns

LONGEST_WAIT_SECONDS: Final = 2.0
NAMES: Final = ("home", "lake")
ANY: Final = st.integers(0, 9_999)
AT_ONCE: Final = st.lists(st.integers(0, 1), max_size=24)

# contracts.md: where each state may lead, in one step or several.
LEADS_TO: Final = {
    "peer": {
        "pending": {"active", "suspended", "revoked"},
        "active": {"suspended", "revoked"},
        "suspended": {"active", "revoked"},
        "revoked": set[str](),
    },
    "grant": {
        "pending": {"active", "revoked", "expired"},
        "active": {"revoked", "expired"},
        "revoked": set[str](),
        "expired": set[str](),
    },
    "certificate": {"active": {"revoked"}, "revoked": set[str]()},
}

ONE_LIVE_CERTIFICATE: Final = """
    SELECT g.id FROM federation.federation_grants g
    WHERE g.status = 'active'
      AND (SELECT count(*) FROM federation.federation_certificates c WHERE c.grant_id = g.id AND c.state = 'active') <> 1
"""
ONE_OPEN_TOKEN: Final = """
    SELECT grant_id FROM federation.federation_enrollment_tokens
    WHERE voided_at IS NULL AND fingerprint_sha256 IS NULL GROUP BY grant_id HAVING count(*) > 1
"""
NOTHING_UNDER_WHAT_ENDED: Final = """
    SELECT g.id FROM federation.federation_grants g JOIN federation.federation_certificates c ON c.grant_id = g.id
    WHERE g.status IN ('revoked', 'expired')
      AND (c.state <> 'revoked' OR NOT EXISTS (SELECT FROM federation.federation_ca_outbox o WHERE o.serial = c.serial))
"""
NO_LIVE_GRANT_OF_A_REVOKED_PEER: Final = """
    SELECT g.id FROM federation.federation_grants g JOIN federation.federation_peers p ON p.id = g.peer_id
    WHERE p.state = 'revoked' AND g.status IN ('pending', 'active')
"""


class LedgerMachine(RuleBasedStateMachine):
    """One ledger, and what it should hold."""

    bed: ClassVar[LedgerBed]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.world = model.World()
        self.numbers = iter(range(2, 1_000_000))
        self.history: list[str] = []

    @initialize()
    def begin(self) -> None:
        """Two grants of one peer: everything is a step or two away."""
        self.bed.empty()
        for order in (
            model.CreatePeer(0, NAMES[0]),
            model.CreateGrant(0, 0, 0),
            model.CreateGrant(1, 0, 1),
            model.CreateToken(0, 0, False),
        ):
            self.alone_does(order)

    @rule(which=ANY)
    def alone(self, which: int) -> None:
        self.alone_does(self.choose(which))

    @rule(which=ANY, other=ANY, turns=AT_ONCE)
    def at_once(self, which: int, other: int, turns: list[int]) -> None:
        self.at_once_do(self.choose(which), self.choose(other), turns)

    def at_once_do(self, first: model.Order, second: model.Order, turns: list[int]) -> None:
        allowed = list(model.serial_outcomes(self.world, first, second))
        self.history.append(f"{first} and {second} in turns {turns}")
        before = self.world
        answers = self.runner.run(self.both(first, second, turns))
        self.world = self.bed.observe()
        assert (self.world, answers) in allowed, self.explain(f"{answers}, {self.world}")
        self.verify_legal(before)

    def alone_does(self, order: model.Order) -> None:
        expected, [answer] = model.after(self.world, order)
        self.history.append(str(order))
        before = self.world
        came_to = self.runner.run(self.bed.perform(order))
        self.world = self.bed.observe()
        assert (self.world, came_to) == (expected, answer), self.explain(f"{came_to}, {self.world}\nnot {answer}, {expected}")
        self.verify_legal(before)

    async def both(self, first: model.Order, second: model.Order, turns: list[int]) -> tuple[str, str]:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS * 2):
            return await Turns(turns).both(lambda: self.bed.perform(first), lambda: self.bed.perform(second))

    def choose(self, which: int) -> model.Order:
        """Never drawn from what is there: two at once may end in either of two worlds, and what is drawn must not depend on it."""
        possible = list(self.possible())
        return possible[which % len(possible)]

    def explain(self, found: str) -> str:
        return "\n".join([*self.history, "came to", found])

    def possible(self) -> Iterator[model.Order]:
        """Every order about what is there, legal or not."""
        world = self.world
        for number, token in world.tokens.items():
            if token.attempt:
                yield model.Complete(number, token.attempt)
                yield model.Complete(number, 1)
                yield model.Release(number, token.attempt)
            yield model.Claim(number, 0)
            yield model.Claim(number, 1)
            yield model.LetLeaseRunOut(number)
            yield model.LetTokenRunOut(number)
        for number, grant in world.grants.items():
            yield model.CreateToken(next(self.numbers), number, grant.status == "active")
            yield model.CreateToken(next(self.numbers), number, grant.status != "active")
            yield model.RevokeGrant(number)
            yield model.DeleteGrant(number)
            yield model.LetGrantRunOut(number)
        for number in world.peers:
            if len(world.grants) < 4:
                yield model.CreateGrant(next(self.numbers), number, 0)
                yield model.CreateGrant(next(self.numbers), number, 1)
            yield model.SuspendPeer(number)
            yield model.ResumePeer(number)
            yield model.RevokePeer(number)
            yield model.DeletePeer(number)
        if len(world.peers) < 4:
            yield from (model.CreatePeer(next(self.numbers), name) for name in NAMES)
        yield from (model.SwitchUser(user, not active) for user, active in enumerate(world.users))
        yield model.Sweep()

    def verify_legal(self, before: model.World) -> None:
        """States moved along the edges that are drawn, and nothing that was active is gone."""
        moves = [
            *(("peer", peer.state, self.world.peers[n].state) for n, peer in before.peers.items() if n in self.world.peers),
            *(("grant", grant.status, self.world.grants[n].status) for n, grant in before.grants.items() if n in self.world.grants),
            *(("certificate", state, self.world.certificates[n][1]) for n, (_, state) in before.certificates.items()),
        ]
        for kind, source, target in moves:
            assert source == target or target in LEADS_TO[kind][source], (kind, source, target)
        assert all(n in self.world.peers for n, peer in before.peers.items() if peer.was_active)
        assert all(n in self.world.grants for n, grant in before.grants.items() if grant.was_active)
        assert before.owed <= self.world.owed

    @invariant()
    def promises(self) -> None:
        for broken in (ONE_LIVE_CERTIFICATE, ONE_OPEN_TOKEN, NOTHING_UNDER_WHAT_ENDED, NO_LIVE_GRANT_OF_A_REVOKED_PEER):
            assert self.bed.owner.execute(broken).fetchall() == []


@pytest.fixture(scope="module")
def machine(postgres_server: PostgresServer) -> Iterator[type[LedgerMachine]]:
    with (
        pytest.MonkeyPatch.context() as patch,
        postgres_server.fresh() as database,
        database.connect() as owner,
        # With a loop of its own making it leaves the session's alone.
        asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner,
    ):
        patch.setattr(transaction, "Statements", PacedStatements)
        bed = LedgerBed.make(database, owner)
        runner.run(bed.ledger.open())
        yield type("Machine", (LedgerMachine,), {"bed": bed, "runner": runner})
        runner.run(bed.ledger.close())


# ── each of two, stopped after each of its statements ─────────────────────────────────────────────────────────────────────────────

PEER: Final = (model.CreatePeer(0, "home"),)
GRANT: Final = (*PEER, model.CreateGrant(0, 0, 0))
TOKEN: Final = (*GRANT, model.CreateToken(0, 0, reenroll=False))
CLAIMED: Final = (*TOKEN, model.Claim(0, 0))
OVERDUE: Final = (*CLAIMED, model.LetGrantRunOut(0))
ACTIVE: Final = (*CLAIMED, model.Complete(0, 1))
REENROLLING: Final = (*ACTIVE, model.CreateToken(1, 0, reenroll=True), model.Claim(1, 0))

MEETINGS: Final[dict[tuple[model.Order, ...], list[tuple[model.Order, model.Order]]]] = {
    PEER: [
        (model.CreatePeer(1, "lake"), model.CreatePeer(2, "lake")),
        (model.CreatePeer(1, "home"), model.RevokePeer(0)),
        (model.CreateGrant(1, 0, 0), model.RevokePeer(0)),
        (model.CreateGrant(1, 0, 0), model.DeletePeer(0)),
        (model.DeletePeer(0), model.DeletePeer(0)),
    ],
    GRANT: [
        (model.CreateToken(1, 0, reenroll=False), model.CreateToken(2, 0, reenroll=False)),
        (model.CreateToken(1, 0, reenroll=False), model.DeleteGrant(0)),
        (model.CreateToken(1, 0, reenroll=False), model.RevokePeer(0)),
        (model.DeleteGrant(0), model.DeletePeer(0)),
        (model.DeleteGrant(0), model.RevokeGrant(0)),
    ],
    TOKEN: [
        (model.Claim(0, 0), model.Claim(0, 1)),
        (model.Claim(0, 0), model.Claim(0, 0)),
        (model.Claim(0, 0), model.CreateToken(1, 0, reenroll=False)),
        (model.Claim(0, 0), model.RevokeGrant(0)),
        (model.Claim(0, 0), model.DeleteGrant(0)),
        (model.Claim(0, 0), model.RevokePeer(0)),
    ],
    CLAIMED: [
        (model.Complete(0, 1), model.Complete(0, 1)),
        (model.Complete(0, 1), model.Release(0, 1)),
        (model.Complete(0, 1), model.RevokeGrant(0)),
        (model.Complete(0, 1), model.DeleteGrant(0)),
        (model.Complete(0, 1), model.RevokePeer(0)),
        (model.Complete(0, 1), model.CreateToken(1, 0, reenroll=False)),
        (model.Release(0, 1), model.CreateToken(1, 0, reenroll=False)),
    ],
    (*CLAIMED, model.LetLeaseRunOut(0)): [
        (model.Complete(0, 1), model.Claim(0, 0)),
        (model.Claim(0, 0), model.Claim(0, 0)),
    ],
    (*CLAIMED, model.LetLeaseRunOut(0), model.LetTokenRunOut(0)): [
        (model.Complete(0, 1), model.Sweep()),
        (model.Sweep(), model.Sweep()),
        (model.Release(0, 1), model.Sweep()),
        (model.DeleteGrant(0), model.Sweep()),
    ],
    OVERDUE: [
        (model.Sweep(), model.DeleteGrant(0)),
        (model.Sweep(), model.RevokePeer(0)),
        (model.Sweep(), model.RevokeGrant(0)),
    ],
    (*ACTIVE, model.SwitchUser(0, active=False)): [
        (model.Sweep(), model.SwitchUser(0, active=True)),
        (model.Sweep(), model.RevokeGrant(0)),
    ],
    REENROLLING: [
        (model.Complete(1, 1), model.RevokeGrant(0)),
        (model.Complete(1, 1), model.RevokePeer(0)),
        (model.Complete(1, 1), model.SuspendPeer(0)),
        (model.SuspendPeer(0), model.ResumePeer(0)),
        (model.SuspendPeer(0), model.RevokePeer(0)),
        (model.RevokePeer(0), model.RevokeGrant(0)),
    ],
}


@pytest.mark.parametrize(
    ("beginning", "first", "second"),
    [
        pytest.param(beginning, *meeting, id=f"{meeting[0]} and {meeting[1]} after {beginning[-1]}")
        for beginning, meetings in MEETINGS.items()
        for meeting in meetings
    ],
)
def test_two_at_once_come_to_what_one_after_the_other_does(
    machine: type[LedgerMachine], beginning: tuple[model.Order, ...], first: model.Order, second: model.Order
) -> None:
    """Wherever one is stopped while the other goes on: both answer, and leave what they would leave one after the other."""
    for stopped in (0, 1):
        for after_statements in range(1, 5):
            there = machine()
            there.bed.empty()
            for order in beginning:
                there.alone_does(order)
            there.at_once_do(first, second, [stopped] * after_statements + [1 - stopped] * 40)
            there.promises()


# ── whatever is drawn ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

DRAWN: Final = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=20,
    stateful_step_count=12,
    phases=(Phase.generate,),  # what two at once come to depends on the machine: nothing to shrink
    suppress_health_check=list(HealthCheck),
)


def test_only_legal_transitions_happen_whoever_acts_at_once(machine: type[LedgerMachine]) -> None:
    """Every answer and every row is that of one order of the two; no wait ends in a deadlock or after two seconds."""
    run_state_machine_as_test(machine, settings=DRAWN)


@pytest.mark.stress
def test_only_legal_transitions_happen_for_long(machine: type[LedgerMachine]) -> None:
    """The same, from other beginnings each time and for minutes."""
    run_state_machine_as_test(machine, settings=settings(DRAWN, derandomize=False, max_examples=400, stateful_step_count=40))
