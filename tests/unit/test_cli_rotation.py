"""Where a rotation of the sealing secret stands, told from who reads and seals under which key."""

import pytest
from mosaic.grants.v1.grants_pb2 import GetSealStatusResponse, Replica, SealingKey
from mosaic_cli.rotation import stage_of
from mosaic_cli.views.seals import seal_sheet
from mosaic_common.clock import SystemClock
from rich.console import Console

OLD, NEW, LOST = "0" * 16, "1" * 16, "2" * 16


def replica(name: str, current: str, *others: str) -> Replica:
    return Replica(id=name, current_key_id=current, readable_key_ids=sorted({current, *others}))


def status(*replicas: Replica, rows: dict[str, int] | None = None) -> GetSealStatusResponse:
    current = replicas[0].current_key_id
    rows = {OLD: 9} if rows is None else rows
    return GetSealStatusResponse(
        current_key_id=current,
        readable_key_ids=replicas[0].readable_key_ids,
        keys=[SealingKey(key_id=key, rows=count) for key, count in rows.items()],
        replicas=replicas,
        rows_to_reseal=sum(count for key, count in rows.items() if key != current),
    )


@pytest.mark.parametrize(
    ("found", "phase", "situation", "following"),
    [
        pytest.param(
            status(replica("a", OLD), replica("b", OLD)), None, "No rotation is under way", None, id="nothing is being rotated"
        ),
        pytest.param(
            status(replica("a", OLD, NEW), replica("b", OLD)),
            None,
            f"1 of 2 replicas can also read {NEW}",
            "give it to the others as _NEXT",
            id="the new secret is not everywhere yet",
        ),
        pytest.param(
            status(replica("a", OLD, NEW), replica("b", OLD, NEW)),
            None,
            f"2 of 2 replicas can also read {NEW}",
            "promote it, with today's as _PREVIOUS",
            id="the new secret is readable everywhere: or the old one still is, which no key id tells",
        ),
        pytest.param(
            status(replica("a", NEW, OLD), replica("b", OLD, NEW)),
            2,
            f"of 2 replicas 1 under {OLD} and 1 under {NEW} seal now",
            "Restart the others",
            id="promoted on some",
        ),
        pytest.param(
            status(replica("a", NEW, OLD), replica("b", NEW, OLD)),
            3,
            f"Every replica seals under {NEW}; 9 rows are still sealed under another key",
            "`mosaic seal rotate`",
            id="promoted everywhere, rows to reseal",
        ),
        pytest.param(
            status(replica("a", NEW, OLD), replica("b", NEW, OLD), rows={NEW: 9}),
            None,
            "Every row is sealed under the current key",
            "take it away: the rotation is complete",
            id="resealed, the old secret still configured",
        ),
    ],
)
def test_says_where_the_rotation_stands_and_what_comes_next(
    found: GetSealStatusResponse, phase: int | None, situation: str, following: str | None
) -> None:
    """One sentence for what is, one for what to do."""
    stage = stage_of(found)
    assert (stage.phase, stage.healthy) == (phase, True)
    assert situation in stage.situation
    assert stage.next is None if following is None else following in (stage.next or "")


@pytest.mark.parametrize(
    ("found", "situation"),
    [
        pytest.param(
            status(replica("a", NEW, OLD), replica("b", OLD)),
            f"1 of 2 replicas cannot read rows under {NEW}: b.",
            id="promoted before it was readable everywhere: b cannot open what a seals",
        ),
        pytest.param(
            status(replica("a", NEW, OLD), replica("b", NEW)),
            f"1 of 2 replicas cannot read rows under {OLD}: b.",
            id="the old secret was taken from b before the rows were resealed",
        ),
        pytest.param(
            status(replica("a", NEW), replica("b", NEW), rows={NEW: 3, LOST: 1}),
            f"1 row is sealed under {LOST}, which no replica can read",
            id="the old secret is gone everywhere",
        ),
    ],
)
def test_rows_that_somebody_cannot_open_come_before_every_other_advice(found: GetSealStatusResponse, situation: str) -> None:
    """The next phase is never recommended while a replica, or all of them, meet rows that do not open."""
    stage = stage_of(found)
    assert not stage.healthy
    assert situation in stage.situation
    assert "_PREVIOUS" in (stage.next or "")
    assert "seal rotate" not in (stage.next or "")


@pytest.mark.parametrize("width", [80, 120])
def test_the_sheet_shows_keys_and_replicas_whole(width: int) -> None:
    """Which key each replica seals under and which it can read, none cut off, in 80 columns too."""
    found = status(replica("grants-7f9c", NEW, OLD), replica("grants-b210", NEW, OLD), rows={NEW: 3, OLD: 1_200})
    console = Console(width=width, markup=False, emoji=False, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(seal_sheet(found, stage_of(found), SystemClock().now()))
    shown = captured.get()
    assert "Phase 3 of 3. Every replica seals under" in shown
    assert f"{OLD}  1,200 rows  to reseal" in shown
    assert all(line.count(NEW) >= 1 for line in shown.splitlines() if line.startswith("grants-"))
    assert max(map(len, shown.splitlines())) <= width
