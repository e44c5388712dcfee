"""Asking every source at once."""

import asyncio

import pytest
from mosaic_common.errors import AccessDenied, MosaicError, RateLimited, Reason, Unavailable
from mosaic_federation_edge.domain.fan_out import SourceFailed, SourcePage, SourceStatus, ask_all, source_seconds

PAGE = SourcePage(["row"], 3, "", truncated=False)


async def answers(_seconds: float) -> SourcePage[str]:
    return PAGE


async def never_answers(_seconds: float) -> SourcePage[str]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_slow_source_costs_the_others_nothing() -> None:
    """The others' rows are there, the slow one is named with its time, and the whole took no longer than its share."""
    begun = asyncio.get_running_loop().time()
    asked = await ask_all({"slow": never_answers, "quick": answers}, remaining_seconds=0.1)
    assert asyncio.get_running_loop().time() - begun < 0.1
    assert [(each.source, each.status, each.page) for each in asked] == [
        ("slow", SourceStatus.TIMEOUT, None),
        ("quick", SourceStatus.OK, PAGE),
    ]
    assert asked[0].latency_us >= 80_000


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        pytest.param(SourceFailed(SourceStatus.DENIED, "No."), SourceStatus.DENIED, None, id="a peer's refusal"),
        pytest.param(
            SourceFailed(SourceStatus.DENIED, "No.", Reason.GRANT_NOT_ACTIVE),
            SourceStatus.DENIED,
            Reason.GRANT_NOT_ACTIVE,
            id="a peer's refusal with its reason",
        ),
        pytest.param(
            AccessDenied(Reason.SUBJECT_INACTIVE, "No."), SourceStatus.DENIED, Reason.SUBJECT_INACTIVE, id="a refusal of ours"
        ),
        pytest.param(
            Unavailable(Reason.DEPENDENCY_UNAVAILABLE, "Down."),
            SourceStatus.UNAVAILABLE,
            Reason.DEPENDENCY_UNAVAILABLE,
            id="our database is down",
        ),
        pytest.param(
            Unavailable(Reason.DEADLINE_EXCEEDED, "Late."), SourceStatus.TIMEOUT, Reason.DEADLINE_EXCEEDED, id="no time was left"
        ),
        pytest.param(RateLimited(Reason.RATE_LIMITED, "Slow."), SourceStatus.RATE_LIMITED, Reason.RATE_LIMITED, id="too often"),
    ],
)
async def test_names_how_a_source_failed(error: SourceFailed | MosaicError, status: SourceStatus, reason: Reason | None) -> None:
    """Each way to fail has its status and reason, and the other sources answer all the same."""

    async def fails(_seconds: float) -> SourcePage[str]:
        raise error

    failed, answered = await ask_all({"failing": fails, "other": answers}, remaining_seconds=5)
    assert (failed.status, failed.reason, failed.page, failed.message) == (status, reason, None, error.message)
    assert answered.status is SourceStatus.OK


@pytest.mark.parametrize(
    ("remaining", "share"),
    [
        pytest.param(60, 5, id="never longer than 5 s"),
        pytest.param(1, 0.8, id="a fifth is kept for the answer"),
        pytest.param(0, 0, id="nothing left"),
    ],
)
def test_splits_the_deadline(remaining: float, share: float) -> None:
    """What a source may take leaves time to say what the others gave."""
    assert source_seconds(remaining) == pytest.approx(share)
