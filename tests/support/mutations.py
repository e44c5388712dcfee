"""Valid input with a few edits, for what must not take it any more.

@FUZZ
@given(mutated(VALID))
def test_...(spoiled: bytes) -> None: ...
"""

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st

FUZZ: Final = settings(max_examples=300, derandomize=True, deadline=None, database=None)
"""The same examples in every run, within a second or two."""

MAX_EDITS: Final = 3


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """One to three bits flipped, bytes replaced, slices cut out, repeated, moved to the end, or strange bytes put in."""
    spoiled = valid
    for _ in range(draw(st.integers(1, MAX_EDITS))):
        spoiled = _edited(draw, spoiled)
    return spoiled


@st.composite
def mutated_text(draw: st.DrawFn, valid: str) -> str:
    """The same for text; what is put in may be any character, half of a surrogate pair too."""
    octets = draw(mutated(valid.encode("ascii")))
    text = octets.decode("latin-1")
    position = draw(st.integers(0, len(text)))
    return (
        text[:position] + draw(st.sampled_from(["", "", "", "=", "\n", "%", "&token=", "é", "\u202e", "\ud800"])) + text[position:]
    )


def _edited(draw: st.DrawFn, valid: bytes) -> bytes:
    begin = draw(st.integers(0, max(0, len(valid) - 1)))
    end = draw(st.integers(begin, min(len(valid), begin + 40)))
    before, within, after = valid[:begin], valid[begin:end], valid[end:]
    match draw(st.sampled_from(["flip", "replace", "cut", "repeat", "move", "insert", "truncate"])):
        case "flip" if within:
            return before + bytes([within[0] ^ 1 << draw(st.integers(0, 7))]) + within[1:] + after
        case "replace":
            return before + draw(st.binary(min_size=len(within), max_size=len(within))) + after
        case "cut":
            return before + after
        case "repeat":
            return before + within * 2 + after
        case "move":
            return before + after + within
        case "insert":
            return before + draw(st.binary(max_size=4)) + within + after
        case _:
            return before
