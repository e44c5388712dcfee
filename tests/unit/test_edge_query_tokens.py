"""Page tokens of queries over several sources."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, PageTokenRefused, Reason
from mosaic_federation_edge.domain.fan_out import SourceStatus
from mosaic_federation_edge.domain.query_tokens import LIFETIME, Progress, QueryBinding, QueryTokens

from tests.support.clock import FakeClock

BINDING = QueryBinding(UUID(int=7), Verb.LIST, "tasks", "all")
PROGRESS = Progress({"local": "1:2", "federated:work": "x" * 119})


def refusal(tokens: QueryTokens, token: str, binding: QueryBinding = BINDING) -> Reason:
    with pytest.raises(PageTokenRefused) as refused:
        tokens.open(token, binding)
    assert refused.value.layer is Layer.REQUEST
    assert "without a page token" in (refused.value.remedy or "")
    return refused.value.reason


SOURCES = st.text(max_size=70)


@given(
    st.builds(
        Progress,
        st.dictionaries(SOURCES, st.text(max_size=200), max_size=5),
        st.dictionaries(SOURCES, st.tuples(st.sampled_from(SourceStatus), st.none() | st.sampled_from(Reason)), max_size=5),
    )
)
def test_opens_to_what_was_sealed(progress: Progress) -> None:
    """Every source goes on exactly where it ended, and what is missing stays known."""
    tokens = QueryTokens(FakeClock())
    assert tokens.open(tokens.seal(progress, BINDING), BINDING) == progress


@pytest.mark.parametrize(
    "binding",
    [
        pytest.param(replace(BINDING, user_id=uuid4()), id="another user"),
        pytest.param(replace(BINDING, verb=Verb.SEARCH), id="another verb"),
        pytest.param(replace(BINDING, resource="notes"), id="another resource"),
        pytest.param(replace(BINDING, source="local"), id="another source"),
    ],
)
def test_opens_for_its_own_query_only(binding: QueryBinding) -> None:
    """A token continues the query that it was made for, and no other."""
    tokens = QueryTokens(FakeClock())
    assert refusal(tokens, tokens.seal(PROGRESS, BINDING), binding) is Reason.PAGE_TOKEN_INVALID


def test_refuses_every_altered_character() -> None:
    """No character can be changed, dropped or added."""
    tokens = QueryTokens(FakeClock())
    token = tokens.seal(PROGRESS, BINDING)
    for place, character in enumerate(token):
        altered = token[:place] + ("A" if character != "A" else "B") + token[place + 1 :]
        assert refusal(tokens, altered) is Reason.PAGE_TOKEN_INVALID
    for wrong in (token[:-1], token + "A", token + "=", token + "\n", "", "é", " ", token.upper()):
        assert refusal(tokens, wrong) is Reason.PAGE_TOKEN_INVALID


def test_another_process_does_not_open_it() -> None:
    """The key is the process's own; elsewhere, and after a restart, the query begins again."""
    assert refusal(QueryTokens(FakeClock()), QueryTokens(FakeClock()).seal(PROGRESS, BINDING)) is Reason.PAGE_TOKEN_INVALID


def test_expires() -> None:
    """Good for ten minutes; then it says so."""
    clock = FakeClock()
    tokens = QueryTokens(clock)
    token = tokens.seal(PROGRESS, BINDING)
    clock.advance(LIFETIME - timedelta(microseconds=1))
    assert tokens.open(token, BINDING) == PROGRESS
    clock.advance(timedelta(microseconds=1))
    assert refusal(tokens, token) is Reason.PAGE_TOKEN_EXPIRED


def test_shows_nothing() -> None:
    """Neither a peer's token nor a position can be read in it."""
    assert "x" * 20 not in QueryTokens(FakeClock()).seal(PROGRESS, BINDING)
