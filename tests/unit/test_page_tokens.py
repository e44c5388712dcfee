"""Page tokens open for the query that they were made for, and for nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mosaic_common.decision import Verb
from mosaic_common.errors import Layer, PageTokenRefused, Reason
from mosaic_common.page_tokens import LIFETIME, TOKEN_LENGTH, PageBinding, PagePosition, PageTokens, QueryHasher

NOW: Final = datetime(2031, 5, 4, 12, 0, tzinfo=UTC)
KEY: Final = bytes(range(32))
POSITION: Final = PagePosition(1_900_000_000_123_456, UUID("44444444-4444-4444-8444-444444444444").bytes, served=150)
BINDING: Final = PageBinding(
    grant_id=UUID("11111111-1111-4111-8111-111111111111"),
    fingerprint=b"\x01" * 32,
    verb=Verb.LIST,
    query_hash=b"\x02" * 32,
    order="newest_first",
)


class At:
    """A clock that stands still."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment


def tokens(at: datetime = NOW, key: bytes = KEY) -> PageTokens:
    return PageTokens(key, At(at))


def refusal(token: str, binding: PageBinding = BINDING, at: datetime = NOW) -> Reason:
    with pytest.raises(PageTokenRefused) as refused:
        tokens(at).open(token, binding)
    assert refused.value.layer is Layer.REQUEST
    return refused.value.reason


@given(
    st.builds(PagePosition, st.integers(-(2**63), 2**63 - 1), st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1)),
)
def test_continues_where_the_page_ended(position: PagePosition) -> None:
    """Another replica with the same key opens the token to exactly the position that was sealed, before and after 1970."""
    token = tokens().seal(position, BINDING)
    assert tokens().open(token, BINDING) == position


@given(st.integers(0, 2**32 - 1))
def test_has_one_length(served: int) -> None:
    """Neither the position nor the number of rows shows in the token's length, and it needs no escaping in a URL."""
    token = tokens().seal(replace(POSITION, served=served), BINDING)
    assert len(token) == TOKEN_LENGTH
    assert token.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("length", [0, 15, 17, 36])
def test_seals_no_position_that_is_none(length: int) -> None:
    """A row id of another length would be cut or filled up, and the next page begin elsewhere."""
    with pytest.raises(ValueError, match="16 bytes"):
        tokens().seal(replace(POSITION, row_id=bytes(length)), BINDING)


def test_never_repeats() -> None:
    """Two tokens for one position share nothing that would say so."""
    first, second = tokens().seal(POSITION, BINDING), tokens().seal(POSITION, BINDING)
    assert first != second
    assert first[-80:] != second[-80:]


@pytest.mark.parametrize(
    "binding",
    [
        pytest.param(replace(BINDING, grant_id=UUID(int=7)), id="another grant"),
        pytest.param(replace(BINDING, fingerprint=b"\x03" * 32), id="another certificate of the same grant"),
        pytest.param(replace(BINDING, verb=Verb.SEARCH), id="another verb"),
        pytest.param(replace(BINDING, query_hash=b"\x03" * 32), id="another query"),
        pytest.param(replace(BINDING, order="oldest_first"), id="another order"),
        pytest.param(
            replace(BINDING, fingerprint=BINDING.fingerprint[:-1], verb=Verb.LIST, query_hash=b"\x01" + BINDING.query_hash),
            id="the same bytes, cut elsewhere",
        ),
    ],
)
def test_opens_for_nothing_else(binding: PageBinding) -> None:
    """A token taken to another grant, certificate, verb, query or order is refused, and not told apart from a made-up one."""
    assert refusal(tokens().seal(POSITION, BINDING), binding) is Reason.PAGE_TOKEN_INVALID


@given(st.integers(0, TOKEN_LENGTH - 1), st.sampled_from("AZaz09-_"))
def test_refuses_an_altered_token(place: int, character: str) -> None:
    """Any one character replaced makes it a token that was never made."""
    token = tokens().seal(POSITION, BINDING)
    altered = token[:place] + character + token[place + 1 :]
    if altered != token:
        assert refusal(altered) is Reason.PAGE_TOKEN_INVALID


@given(st.text() | st.text(alphabet="AZaz09-_=+/\n é", min_size=TOKEN_LENGTH, max_size=TOKEN_LENGTH))
def test_refuses_whatever_else_is_sent(text: str) -> None:
    """Any text at all is refused as invalid; no decoder's own error shows."""
    assert refusal(text) is Reason.PAGE_TOKEN_INVALID


def test_refuses_a_token_under_another_key() -> None:
    """After the key was replaced, or from another gateway: start again."""
    assert refusal(tokens(key=bytes(32)).seal(POSITION, BINDING)) is Reason.PAGE_TOKEN_INVALID


def test_expires_after_ten_minutes() -> None:
    """The last microsecond of ten minutes still counts, the next does not."""
    token = tokens().seal(POSITION, BINDING)
    assert tokens(NOW + LIFETIME - timedelta(microseconds=1)).open(token, BINDING) == POSITION
    assert refusal(token, at=NOW + LIFETIME) is Reason.PAGE_TOKEN_EXPIRED


def test_says_expired_only_to_whom_the_token_belongs() -> None:
    """A foreign token is invalid however old it is: its age is none of the thief's business."""
    token = tokens().seal(POSITION, BINDING)
    assert refusal(token, replace(BINDING, grant_id=UUID(int=7)), NOW + 2 * LIFETIME) is Reason.PAGE_TOKEN_INVALID


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_takes_no_key_of_another_length(key: bytes) -> None:
    """A key file that was cut short stops the start, not the secrecy."""
    with pytest.raises(ValueError, match="32 bytes"):
        PageTokens(key, At(NOW))
    with pytest.raises(ValueError, match="32 bytes"):
        QueryHasher(key)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((Verb.LIST, ["tasks"]), (Verb.GET, ["tasks"]), id="verb"),
        pytest.param((Verb.LIST, ["tasks"]), (Verb.LIST, ["notes"]), id="resource"),
        pytest.param((Verb.SEARCH, ["tasks", "notes"]), (Verb.SEARCH, ["notes", "tasks"]), id="order of resources"),
        pytest.param((Verb.SEARCH, ["tasks"], "ab"), (Verb.SEARCH, ["tasks"], "a"), id="text"),
        pytest.param((Verb.SEARCH, ["tasks"], "a", b""), (Verb.SEARCH, ["tasks"], "", b"a"), id="the same bytes, cut elsewhere"),
    ],
)
def test_hashes_different_queries_differently(one: tuple[Verb, list[str]], other: tuple[Verb, list[str]]) -> None:
    """A query hash names one query, and only who holds the key can test a guess at its text."""
    hasher = QueryHasher(KEY)
    assert len(hasher.hash(*one)) == 32
    assert hasher.hash(*one) == QueryHasher(KEY).hash(*one)
    assert hasher.hash(*one) != hasher.hash(*other)
    assert hasher.hash(*one) != QueryHasher(bytes(32)).hash(*one)
