"""Cheap deadlines keep what asyncio.timeout_at keeps; each promise is tried on both."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from mosaic_common.deadlines import LOOK_SECONDS, Deadlines

SOON = 0.03
LONG = 30.0


@asynccontextmanager
async def cheap(when: float) -> Any:
    with Deadlines().at(when) as deadline:
        yield deadline.move


@asynccontextmanager
async def standard(when: float) -> Any:
    async with asyncio.timeout_at(when) as deadline:
        yield deadline.reschedule


At = Callable[[float], Any]
both = pytest.mark.parametrize("at", [cheap, standard])


def now() -> float:
    return asyncio.get_running_loop().time()


@both
async def test_a_block_ends_when_its_time_has_come(at: At) -> None:
    """With TimeoutError, no earlier, and by a look later at most."""
    began = now()
    with pytest.raises(TimeoutError):
        async with at(began + SOON):
            await asyncio.sleep(LONG)
    assert SOON <= now() - began < SOON + LOOK_SECONDS + 0.5


@both
async def test_what_is_late_already_ends_at_its_first_wait(at: At) -> None:
    """Whatever it does before it waits is done."""
    done = []

    async def work() -> None:
        async with at(now() - 1):
            done.append("before")
            await asyncio.sleep(LONG)
            done.append("after")

    with pytest.raises(TimeoutError):
        await work()
    assert done == ["before"]


@both
async def test_a_deadline_moves(at: At) -> None:
    """Later lets the block go on, earlier ends it."""

    async def work(first: float, then: float, seconds: float) -> None:
        async with at(now() + first) as move:
            move(now() + then)
            await asyncio.sleep(seconds)

    await work(SOON, LONG, SOON + 3 * LOOK_SECONDS)
    for first in (LONG, -1.0):
        with pytest.raises(TimeoutError):
            await work(first, SOON, LONG)


@both
async def test_whoever_ends_in_time_is_left_alone(at: At) -> None:
    """Nothing of the deadline comes after the block."""
    async with at(now() + SOON):
        pass
    await asyncio.sleep(SOON + 3 * LOOK_SECONDS)


@both
@pytest.mark.parametrize("when", [SOON, LONG], ids=["at once with the deadline", "long before the deadline"])
async def test_a_cancellation_stays_one(at: At, when: float) -> None:
    """Who is cancelled by somebody else is cancelled, also when his time is over."""

    async def work() -> None:
        async with at(now() + when):
            try:
                await asyncio.sleep(LONG)
            finally:
                task.cancel()
                await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(work())
    await asyncio.sleep(SOON + 3 * LOOK_SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@both
async def test_the_inner_one_ends_its_own_block_only(at: At) -> None:
    """The outer block goes on, with its own time."""
    async with at(now() + LONG):
        with pytest.raises(TimeoutError):
            async with at(now() + SOON):
                await asyncio.sleep(LONG)
        await asyncio.sleep(0)


@both
async def test_an_error_passes(at: At) -> None:
    """What the block raises is what its caller hears."""
    with pytest.raises(LookupError):
        async with at(now() + LONG):
            raise LookupError


async def test_many_share_one_timer_that_ends_with_the_last() -> None:
    """A process that serves nobody is not woken up."""
    deadlines, ended = Deadlines(), []

    async def work(number: int) -> None:
        try:
            with deadlines.at(now() + (SOON if number % 2 else LONG)):
                await asyncio.sleep(2 * SOON + 3 * LOOK_SECONDS)
        except TimeoutError:
            ended.append(number)

    await asyncio.gather(*(work(number) for number in range(10)))
    assert sorted(ended) == [1, 3, 5, 7, 9]
    await asyncio.sleep(2 * LOOK_SECONDS)
    assert deadlines._look is None


async def test_who_keeps_a_cancellation_for_himself_gets_no_more_time() -> None:
    """A deadline that has passed cannot be moved: what comes after it would run without any."""

    async def work() -> None:
        with Deadlines().at(now() + SOON) as deadline:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(LONG)
            deadline.move(now() + LONG)
            pytest.fail("it went on")

    with pytest.raises(TimeoutError):
        await work()
