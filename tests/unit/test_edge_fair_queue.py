"""The queue in front of the audit log."""

from hypothesis import given
from hypothesis import strategies as st
from mosaic_federation_edge.domain.fair_queue import FairQueue


def test_serves_lines_in_turn() -> None:
    """A long line does not make a short one wait for its end; within a line the oldest goes first."""
    queue: FairQueue[str] = FairQueue(100)
    for number in range(5):
        queue.put("long", f"long-{number}")
    queue.put("short", "short-0")
    assert queue.take(4) == ["long-0", "short-0", "long-1", "long-2"]
    assert queue.take(100) == ["long-3", "long-4"]
    assert len(queue) == 0


def test_what_was_passed_over_comes_next() -> None:
    """A batch that ends in the middle of a round goes on there."""
    queue: FairQueue[str] = FairQueue(100)
    for key in "abc":
        queue.put(key, f"{key}-0")
        queue.put(key, f"{key}-1")
    assert queue.take(2) == ["a-0", "b-0"]
    assert queue.take(2) == ["c-0", "a-1"]


def test_a_flood_loses_its_own() -> None:
    """When the queue is full a quiet key still gets in: the newest of the longest line gives way."""
    queue: FairQueue[str] = FairQueue(3)
    for number in range(3):
        assert queue.put("flood", f"flood-{number}") is None
    assert queue.put("flood", "flood-3") == "flood-3"
    assert queue.put("quiet", "quiet-0") == "flood-2"
    assert sorted(queue) == ["flood-0", "flood-1", "quiet-0"]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=200), st.integers(1, 20))
def test_is_bounded_and_loses_nothing_unsaid(puts: list[tuple[str, int]], capacity: int) -> None:
    """Everything put in comes out or is named as given way; the bound holds; each key keeps at least its equal share."""
    queue: FairQueue[tuple[str, int, int]] = FairQueue(capacity)
    items = [(key, position, value) for position, (key, value) in enumerate(puts)]
    lost = [gone for item in items if (gone := queue.put(item[0], item)) is not None]
    assert len(queue) <= capacity
    kept = queue.take(1000)
    assert sorted(kept + lost) == sorted(items)
    for key in {item[0] for item in items}:
        asked = sum(item[0] == key for item in items)
        assert sum(item[0] == key for item in kept) >= min(asked, capacity // 4)
