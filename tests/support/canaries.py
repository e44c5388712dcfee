"""Secrets that are recognised wherever they surface.

    search = Search([Canary("a password", password, homes=("work/gateway.json",))])
    search.find(Path("grants.log").read_bytes())

A canary is found by any 15 bytes of it that follow each other, in any spelling that a program gives to bytes: half of it, a line
broken in the middle, or a page of a database that begins within it, hides nothing.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import quote_from_bytes

RUN: Final = 15
"""However such a run lies in a file, it holds one whole word of 8 bytes at a position that is a multiple of 8."""
_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class Canary:
    """One secret.

    Attributes:
        secret: what nobody else may see; nothing in it that is public, as a key's encoding or a URL's host would be.
        homes: patterns of the names of places where it lies by design.
    """

    name: str
    secret: bytes = field(repr=False)
    homes: tuple[str, ...] = ()

    def lives_in(self, place: str) -> bool:
        return any(fnmatchcase(place, home) for home in self.homes)


@dataclass(frozen=True, slots=True)
class Found:
    """A canary, and how it was spelled there."""

    canary: Canary
    spelling: str


def spellings(secret: bytes) -> Mapping[str, bytes]:
    """How bytes are written down; each long enough to be found."""
    written = {
        "raw": secret,
        "hexadecimal": secret.hex().encode(),
        "HEXADECIMAL": secret.hex().upper().encode(),
        "hexadecimal with colons": secret.hex(":").encode(),
        "decimal": str(int.from_bytes(secret, "big")).encode(),
        "Python's repr": repr(secret)[2:-1].encode(),
        "percent-encoded": quote_from_bytes(secret).encode(),
        "UTF-16": secret.decode("latin-1").encode("utf-16-le"),
    }
    for before in range(3):
        # In the base64 of something larger it begins at any of three places; what it shares with its neighbours is left out.
        whole = base64.b64encode(bytes(before) + secret)
        inner = whole[(before * 8 + 5) // 6 : (before + len(secret)) * 8 // 6]
        written[f"base64, {before} bytes in"] = inner
        written[f"base64url, {before} bytes in"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return {name: spelling for name, spelling in written.items() if len(spelling) >= RUN}


class Search:
    """Looks for all canaries at once; its time does not depend on how many there are."""

    def __init__(self, canaries: Iterable[Canary]) -> None:
        self.canaries: Final = tuple(canaries)
        self._words: defaultdict[int, list[tuple[Found, bytes, int]]] = defaultdict(list)
        self.spellings = 0
        for canary in self.canaries:
            if len(canary.secret) < RUN:
                raise ValueError(f"{canary.name} is too short to be told from other bytes")
            for spelling, written in spellings(canary.secret).items():
                self.spellings += 1
                for offset, word in _words_of(written):
                    self._words[word].append((Found(canary, spelling), written, offset))
        self._any: Final = frozenset(self._words)

    def find(self, content: bytes) -> set[Found]:
        words = memoryview(content + bytes(-len(content) % _WORD)).cast("Q")
        if self._any.isdisjoint(words):
            return set()
        return {
            found
            for position, word in enumerate(words)
            if word in self._any
            for found, written, offset in self._words[word]
            if _common_run(content, position * _WORD, written, offset) >= RUN
        }


def _words_of(written: bytes) -> Iterator[tuple[int, int]]:
    for start in range(_WORD):
        whole = len(written[start:]) // _WORD * _WORD
        for number, word in enumerate(memoryview(written[start : start + whole]).cast("Q")):
            yield start + number * _WORD, word


def _common_run(content: bytes, at: int, written: bytes, offset: int) -> int:
    """How many bytes around these positions are the same."""
    before = after = 0
    while before < min(at, offset) and content[at - before - 1] == written[offset - before - 1]:
        before += 1
    while after < min(len(content) - at, len(written) - offset) and content[at + after] == written[offset + after]:
        after += 1
    return before + after
