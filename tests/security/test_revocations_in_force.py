"""A revocation that has committed is in force for every call that begins afterwards: on every replica, for every verb, at once.

Clients hammer two replicas of the inbound edge, all of them processes, over connections that stay open; meanwhile what they were
given is taken away in every way there is (tests/support/revoking.py), for a part of the time without Valkey. The small form runs in
every test run; `make stress` does it a thousand times and writes what it measured.
"""

import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from mosaic_cli.dev.embedded import EmbeddedValkey
from mosaic_common.identity import EDGE_INBOUND, ENROLLMENT, GRANTS, OPERATOR

from tests.support.gateway import VALKEY_PASSWORDS, Gateway
from tests.support.hammers import Call, Hammers, Read
from tests.support.health import serving
from tests.support.postgres import PostgresServer
from tests.support.replicas import EmbeddedAuthority, Replica, doors, replicated
from tests.support.revoking import LOSSES, Holder, Way, life_of

pytestmark = pytest.mark.alone

MEASURED: Final = Path(__file__).parents[2] / ".bench" / "revocations.json"
MS: Final = 1_000_000
# What refused is believed for a second; whatever else takes time on a busy machine.
BELIEVED_NS: Final = 2_000 * MS
# Who was silent is asked again once a second.
SILENT_NS: Final = 1_500 * MS
LIMITED: Final = "RESOURCE_EXHAUSTED RATE_LIMITED"
# What an overloaded machine makes of a call, whoever calls: counted, and never many.
LATE: Final = "DEADLINE_EXCEEDED MESSAGE_LATE"
MOST_LATE_PART: Final = 1_000
UNHEARD: Final = frozenset([LIMITED, LATE])
NOT_FOUND: Final = "NOT_FOUND RESOURCE_NOT_FOUND"
# What holds no row any more for who has left the team, and is no refusal.
OF_THE_TEAM_ALONE: Final = (Read.NEXT_PAGE, Read.CAPABILITIES)


@dataclass(frozen=True, slots=True)
class Size:
    """How many clients lose everything while Valkey answers, while it is away and once it is back, and how many at a time."""

    lives: tuple[int, int, int]
    at_once: int


SMALL: Final = Size(lives=(5, 3, 0), at_once=5)
FULL: Final = Size(lives=(130, 80, 40), at_once=8)


@dataclass(frozen=True, slots=True)
class Revocation:
    """One, and the moments around it.

    Attributes:
        ordered_ns: before anything was asked.
        committed_ns: its commit is known.
        restored_ns: when the way back was begun; None where there is none.
        calls: all of this client until what came next, as they ended.
    """

    way: Way
    holder: Holder
    ordered_ns: int
    committed_ns: int
    restored_ns: int | None
    calls: Sequence[Call]

    @property
    def missed(self) -> list[Call]:
        """Calls that began after the commit, and carry what was taken."""
        return [call for call in self.afterwards if self._taken(call)]

    @property
    def misnamed(self) -> list[Call]:
        """Calls that began after the commit, and were refused for another reason or did not get what was left."""
        return [call for call in self.afterwards if not (self._taken(call) or call.refused in UNHEARD or self._is_right(call))]

    @property
    def last_served(self) -> Call:
        return max((call for call in self.calls if self._taken(call)), key=lambda call: call.began_ns)

    @property
    def first_refused(self) -> Call:
        refused = self.way.refused or {NOT_FOUND}
        return next(call for call in self.calls if call.refused in refused and call.ended_ns > self.ordered_ns)

    @property
    def afterwards(self) -> list[Call]:
        # A call that was under way when the way back began may have found it.
        ends = self.restored_ns or time.monotonic_ns()
        return [call for call in self.calls if self.committed_ns < call.began_ns and call.ended_ns < ends]

    def _taken(self, call: Call) -> bool:
        if self.way.refused:
            return not call.refused
        return not self.holder.of_team.isdisjoint(call.rows)

    def _is_right(self, call: Call) -> bool:
        if self.way.refused or call.read is Read.GET_OF_TEAM:
            return call.refused in (self.way.refused or {NOT_FOUND})
        return not call.refused and (call.read in OF_THE_TEAM_ALONE or not self.holder.own.isdisjoint(call.rows))


@dataclass(frozen=True, slots=True)
class Return:
    """Rights that were given back.

    Attributes:
        calls: that began afterwards, until every read had its rows again.
    """

    way: Way
    committed_ns: int
    calls: Sequence[Call]

    @property
    def late(self) -> list[Call]:
        believed_until_ns = self.committed_ns + BELIEVED_NS
        return [call for call in self.calls if call.refused not in {"", *UNHEARD} and call.began_ns > believed_until_ns]


@dataclass(frozen=True, slots=True)
class Observed:
    """Attributes:
    bystander: every call of somebody whom nothing befell, with what it is to carry.
    without_valkey: from when to when.
    every: call of every client.
    """

    revocations: list[Revocation]
    returns: list[Return]
    bystander: Sequence[Call]
    of_bystander: Holder
    without_valkey: tuple[int, int]
    every: Sequence[Call]


@dataclass(frozen=True, slots=True)
class _Bed:
    gateway: Gateway
    edges: Sequence[Replica]
    valkey: EmbeddedValkey
    hammers: Hammers


@asynccontextmanager
async def _bed(server: PostgresServer, folder: Path) -> AsyncIterator[_Bed]:
    with server.fresh() as database, EmbeddedValkey(folder / "valkey", passwords=VALKEY_PASSWORDS) as valkey:
        gateway = Gateway("work", folder, database, valkey)
        gateway.prepare()
        authority = EmbeddedAuthority(folder / "ca")
        services = (GRANTS, ENROLLMENT, EDGE_INBOUND)
        async with (
            replicated(gateway, replicas=2, authority=authority, identities=services) as running,
            Hammers.on(doors(running, EDGE_INBOUND), gateway) as hammers,
        ):
            yield _Bed(gateway, [each for each in running if each.identity == EDGE_INBOUND], valkey, hammers)


async def _observe(bed: _Bed, size: Size) -> Observed:
    """Let clients read and lose what they were given, in three parts of which the second has no Valkey."""
    bystander = await Holder.enrolled(bed.gateway, "bystander", filtered=False)
    bed.hammers.begin("bystander", bystander.client, await bystander.requests())
    revocations: list[Revocation] = []
    returns: list[Return] = []
    away: list[int] = []
    number = 0
    for part, lives in enumerate(size.lives):
        holders = [await Holder.enrolled(bed.gateway, f"c{number + each}", filtered=each % 2 == 1) for each in range(lives)]
        if part == 1:
            away.append(time.monotonic_ns())
            await asyncio.to_thread(bed.valkey.stop)
        turns, living = asyncio.Semaphore(size.at_once), []
        for each, holder in enumerate(holders):
            living.append(_live(bed.hammers, holder, life_of(number + each), turns, revocations, returns))
        await asyncio.gather(*living)
        if part == 1:
            await asyncio.to_thread(bed.valkey.start)
            for edge in bed.edges:
                await serving(edge.gateway.internal_channel(EDGE_INBOUND, caller=OPERATOR), "valkey")
            away.append(time.monotonic_ns() + SILENT_NS)
        number += lives
    bed.hammers.end("bystander")
    await bystander.gateway.close()
    began, ended = away
    every = [call for calls in bed.hammers.calls.values() for call in calls]
    return Observed(revocations, returns, bed.hammers.calls["bystander"], bystander, (began, ended), every)


async def _live(
    hammers: Hammers,
    holder: Holder,
    ways: Sequence[Way],
    turns: asyncio.Semaphore,
    revocations: list[Revocation],
    returns: list[Return],
) -> None:
    async with turns:
        name, calls = holder.peer, hammers.calls[holder.peer]
        hammers.begin(name, holder.client, await holder.requests())
        await hammers.heard(name, lambda call: not call.refused, since_ns=0)
        for way in ways:
            ordered_ns = time.monotonic_ns()
            await way.revoke(holder)
            committed_ns = time.monotonic_ns()
            await hammers.heard(name, lambda call: call.refused not in UNHEARD, since_ns=committed_ns + way.watched_ns)
            restored_ns = time.monotonic_ns() if way.restore else None
            revocations.append(Revocation(way, holder, ordered_ns, committed_ns, restored_ns, tuple(calls)))
            if way.restore is None:
                break
            await way.restore(holder)
            returned_ns = time.monotonic_ns()
            await hammers.heard(name, lambda call: not call.refused, since_ns=returned_ns)
            returns.append(Return(way, returned_ns, [call for call in calls if call.began_ns > returned_ns]))
        hammers.end(name)
        await holder.gateway.close()


def _verify(observed: Observed, size: Size) -> None:
    missed = [(str(each.way), call) for each in observed.revocations for call in each.missed]
    assert missed == [], f"{len(missed)} calls that began after the commit"
    assert [(str(each.way), call) for each in observed.revocations for call in each.misnamed] == []
    assert [(str(each.way), call) for each in observed.returns for call in each.late] == []
    began, ended = observed.without_valkey
    own = observed.of_bystander
    for call in observed.bystander:
        counted_here = began < call.ended_ns and call.began_ns < ended
        assert call.refused in {"", LATE} or (call.refused == LIMITED and counted_here), call
        assert own.rows.issuperset(call.rows)
        assert call.refused or call.rows or call.read is Read.CAPABILITIES, call
    assert sum(call.refused == LATE for call in observed.every) <= len(observed.every) // MOST_LATE_PART
    assert len(observed.revocations) == LOSSES * sum(size.lives)


def _measured(observed: Observed) -> Mapping[str, Any]:
    by_way: defaultdict[str, list[Revocation]] = defaultdict(list)
    for each in observed.revocations:
        by_way[str(each.way)].append(each)
    return {
        "unit": "milliseconds",
        "revocations": len(observed.revocations),
        "missed": sum(len(each.missed) for each in observed.revocations),
        "calls_begun_after_a_commit": sum(len(each.afterwards) for each in observed.revocations),
        "calls": len(observed.every),
        "calls_too_late_on_this_machine": sum(call.refused == LATE for call in observed.every),
        "calls_of_the_bystander": len(observed.bystander),
        "ways": {name: _delays(every) for name, every in sorted(by_way.items())},
        "served_again_after": _spread([_first_served(each) for each in observed.returns if each.way.refused]),
    }


def _delays(revocations: Sequence[Revocation]) -> Mapping[str, Any]:
    def after(moment: Callable[[Revocation], int], since: Callable[[Revocation], int]) -> Mapping[str, float]:
        return _spread([moment(each) - since(each) for each in revocations])

    def ordered(each: Revocation) -> int:
        return each.ordered_ns

    def committed(each: Revocation) -> int:
        return each.committed_ns

    return {
        "times": len(revocations),
        "from order to known commit": after(committed, ordered),
        "from order to the begin of the last call with rows": after(lambda each: each.last_served.began_ns, ordered),
        "from known commit to the begin of the last call with rows": after(lambda each: each.last_served.began_ns, committed),
        "from known commit to the end of the last answer with rows": after(lambda each: each.last_served.ended_ns, committed),
        "from known commit to the first refusal": after(lambda each: each.first_refused.ended_ns, committed),
    }


def _first_served(returned: Return) -> int:
    return min(call.began_ns for call in returned.calls if not call.refused) - returned.committed_ns


def _spread(every_ns: Sequence[int]) -> Mapping[str, float]:
    every = sorted(each / MS for each in every_ns)
    at = {"min": every[0], "p50": statistics.median(every), "p99": every[(len(every) * 99) // 100], "max": every[-1]}
    return {name: round(value, 2) for name, value in at.items()}


async def test_no_call_that_begins_after_a_revocation_carries_a_row(postgres_server: PostgresServer, tmp_path: Path) -> None:
    """Grants, peers, certificates, users and memberships: refused at once, everywhere, and for the reason of the denial table; what
    is given back is served within the second for which a refusal is believed; and nobody else notices.
    """
    async with _bed(postgres_server, tmp_path) as bed:
        _verify(await _observe(bed, SMALL), SMALL)


@pytest.mark.stress
async def test_of_a_thousand_revocations_none_is_missed(
    postgres_server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The same a thousand times; how long each took is written down."""
    async with _bed(postgres_server, tmp_path) as bed:
        observed = await _observe(bed, FULL)
    _verify(observed, FULL)
    measured = json.dumps(_measured(observed), indent=1)
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(measured)
    request.node.add_report_section("call", "delays", measured)
