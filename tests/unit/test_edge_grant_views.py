"""The cache of grant views."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from mosaic_common.decision import GrantStatus, GrantView, PeerState
from mosaic_common.errors import Reason, Unavailable
from mosaic_common.scope import parse_scope
from mosaic_federation_edge.domain.grant_views import GrantViews

GRANT = uuid4()


def view(grant_id: UUID = GRANT) -> GrantView:
    return GrantView(
        grant_id=grant_id,
        status=GrantStatus.ACTIVE,
        subject_user_id=uuid4(),
        subject_active=True,
        peer_id=uuid4(),
        peer_name="home",
        peer_state=PeerState.ACTIVE,
        scope=parse_scope({"resources": ["tasks"], "max_rows_per_query": 10}),
        expires_at=datetime(2031, 1, 1, tzinfo=UTC),
        certificates={},
    )


class Resolver:
    """The grants service as a script: what it answers, how often it was asked, and a gate that holds its answer back."""

    def __init__(self) -> None:
        self.answer: GrantView | None = view()
        self.down = False
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def find_grant(self, grant_id: UUID) -> GrantView | None:
        self.asked += 1
        await self.gate.wait()
        if self.down:
            raise Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "grants cannot be reached.")
        return self.answer


class Bed:
    def __init__(self, **options: int) -> None:
        self.seconds = 50.0
        self.resolver = Resolver()
        self.views = GrantViews(self.resolver, lambda: self.seconds, **options)


@pytest.fixture
def bed() -> Bed:
    return Bed()


async def test_asks_again_after_five_seconds(bed: Bed) -> None:
    """A view serves for less than 5 s and never longer."""
    first = await bed.views.find(GRANT)
    bed.seconds += 4.9
    assert await bed.views.find(GRANT) is first
    bed.resolver.answer = view()
    bed.seconds += 0.1
    assert await bed.views.find(GRANT) is bed.resolver.answer
    assert bed.resolver.asked == 2


@pytest.mark.parametrize("none", [None, replace(view(), status=GrantStatus.PENDING)], ids=["absent", "pending"])
async def test_an_absence_is_remembered_for_one_second(bed: Bed, none: GrantView | None) -> None:
    """A grant that comes into being is seen a second later; until then nobody asks again. A pending one is no more than none."""
    bed.resolver.answer = none
    assert await bed.views.find(GRANT) is none
    bed.resolver.answer = view()
    bed.seconds += 0.9
    assert await bed.views.find(GRANT) is none
    bed.seconds += 0.1
    assert await bed.views.find(GRANT) is bed.resolver.answer


async def test_an_outage_is_no_absence(bed: Bed) -> None:
    """With grants down a view serves while it is young; then each call hears DEPENDENCY_UNAVAILABLE and asks again."""
    await bed.views.find(GRANT)
    bed.resolver.down = True
    bed.seconds += 4.9
    assert await bed.views.find(GRANT) is not None
    bed.seconds += 0.2
    for _ in range(2):
        with pytest.raises(Unavailable):
            await bed.views.find(GRANT)
    bed.resolver.down = False
    assert await bed.views.find(GRANT) is not None


async def test_callers_at_the_same_time_ask_once(bed: Bed) -> None:
    """A hundred calls of one grant cost one question."""
    bed.resolver.gate.clear()
    calls = [asyncio.create_task(bed.views.find(GRANT)) for _ in range(100)]
    await asyncio.sleep(0)
    bed.resolver.gate.set()
    assert set(map(id, await asyncio.gather(*calls))) == {id(bed.resolver.answer)}
    assert bed.resolver.asked == 1


async def test_a_caller_that_hangs_up_takes_nothing_from_the_others(bed: Bed) -> None:
    """The first of two callers is cancelled; the second still gets the answer."""
    bed.resolver.gate.clear()
    first, second = (asyncio.create_task(bed.views.find(GRANT)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    bed.resolver.gate.set()
    assert await second is bed.resolver.answer


async def test_remembers_a_bounded_number_of_grants() -> None:
    """The least recently used view goes first."""
    bed = Bed(max_grants=2)
    first, second, third = uuid4(), uuid4(), uuid4()
    for grant_id in (first, second, first, third, first):
        await bed.views.find(grant_id)
    assert bed.resolver.asked == 3
    await bed.views.find(second)
    assert bed.resolver.asked == 4
