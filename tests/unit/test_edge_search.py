"""What may be searched for, and the order of hits."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosaic_common.errors import InvalidInput, Layer, Reason
from mosaic_common.resources import MAX_QUERY_CHARACTERS, REGISTRY
from mosaic_federation_edge.domain.search import by_position, parse_search

DIMENSION = 384
SOMEWHERE = [1.0] + [0.0] * (DIMENSION - 1)


def test_the_dimension_is_the_registrys() -> None:
    """The vectors below are of the right length for memory."""
    assert REGISTRY["memory"].embedding is not None
    assert REGISTRY["memory"].embedding.dimension == DIMENSION


@pytest.mark.parametrize(
    ("resources", "text", "embedding", "violations"),
    [
        pytest.param(["tasks"], "", [], {"query": "must not be empty where there is no embedding"}, id="nothing to search for"),
        pytest.param(["tasks"], " \n\t ", [], {"query": "must not be empty where there is no embedding"}, id="only spaces"),
        pytest.param(["tasks"], "x" * (MAX_QUERY_CHARACTERS + 1), [], {"query": "must have at most 512 characters"}, id="too long"),
        pytest.param(["tasks"], "- " * 31 + "a", [], {"query": "must exclude at most 30 words"}, id="a stack of exclusions"),
        pytest.param(["tasks"], "a\0b", [], {"query": "must not hold U+0000"}, id="NUL"),
        pytest.param(
            ["tasks", "memory"],
            "",
            SOMEWHERE,
            {"query": "must not be empty: tasks cannot be searched by an embedding"},
            id="an embedding alone, for what has none",
        ),
        pytest.param(
            ["tasks"],
            "words",
            SOMEWHERE,
            {"embedding": "must be absent: none of these resources can be searched by one"},
            id="an embedding for nothing",
        ),
        pytest.param(["memory"], "", [1.0], {"embedding": "must have 384 dimensions, not 1"}, id="another dimension"),
        pytest.param(["memory"], "", [*SOMEWHERE, 0.0], {"embedding": "must have 384 dimensions, not 385"}, id="one too many"),
        pytest.param(["memory"], "", [math.nan] * DIMENSION, {"embedding": "must hold finite numbers only"}, id="not numbers"),
        pytest.param(["memory"], "", [*SOMEWHERE[:-1], -math.inf], {"embedding": "must hold finite numbers only"}, id="infinite"),
        pytest.param(
            ["memory"], "", [0.0] * DIMENSION, {"embedding": "must not be all zero: it has no direction"}, id="no direction"
        ),
        pytest.param(
            ["notes"],
            "\0" * (MAX_QUERY_CHARACTERS + 1),
            [math.inf],
            {
                "query": "must not hold U+0000",
                "embedding": "must hold finite numbers only",
            },
            id="everything at once",
        ),
    ],
)
def test_refuses_what_cannot_be_searched_for(
    resources: list[str], text: str, embedding: list[float], violations: dict[str, str]
) -> None:
    """Every violation at once, each with what would be right."""
    with pytest.raises(InvalidInput) as refused:
        parse_search(resources, text, embedding)
    assert (refused.value.reason, refused.value.layer) == (Reason.REQUEST_INVALID, Layer.REQUEST)
    assert {each.field: each.description for each in refused.value.violations} == violations


def test_an_embedding_keeps_its_direction_and_loses_its_length() -> None:
    """Neither the largest nor the smallest float32 leaves the database without a distance."""
    for scale in (3e38, 1.4e-45, 1.0):
        search = parse_search(["memory"], "", [scale, -scale, *[0.0] * (DIMENSION - 2)])
        assert search.embedding is not None
        assert search.embedding[:3] == pytest.approx((math.sqrt(0.5), -math.sqrt(0.5), 0.0))
        assert len(search.embedding_bytes) == 4 * DIMENSION
        assert struct.unpack_from("<2f", search.embedding_bytes) == pytest.approx((math.sqrt(0.5), -math.sqrt(0.5)))


def test_text_is_taken_without_the_spaces_around_it() -> None:
    """Two spellings of one query are one query, in the record too."""
    assert parse_search(["tasks"], "  call the  plumber ", []).text == "call the  plumber"


def test_by_position() -> None:
    """The first of every list, then the second of every list; a short list just ends."""
    assert list(by_position(["ad", "", "bcef", "g"])) == list("abgdcef")


@given(st.lists(st.lists(st.integers(1))))
def test_by_position_keeps_all_and_every_order(lists: list[list[int]]) -> None:
    """Nothing is lost, and each list stays in its own order."""
    tagged = [[(number, place, each) for place, each in enumerate(one)] for number, one in enumerate(lists)]
    merged = list(by_position(tagged))
    assert sorted(merged) == sorted(each for one in tagged for each in one)
    assert [place for _, place, _ in merged] == sorted(place for _, place, _ in merged)
    assert all([each for each in merged if each[0] == number] == one for number, one in enumerate(tagged))
