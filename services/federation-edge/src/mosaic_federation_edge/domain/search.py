"""What may be searched for, and how the hits of several lists become one.

Ranks of different resources, and of different gateways, cannot be compared; positions can. So the first of every list comes first,
then the second of every list: nobody wins by calling his own rows better.
"""

import math
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeVar

from mosaic_common.errors import InvalidInput, Layer, Reason, Violation
from mosaic_common.resources import MAX_QUERY_CHARACTERS, REGISTRY

MAX_EXCLUSIONS: Final = 30
"""PostgreSQL's parser keeps open operators on a stack of 32 (tsquery.c, STACKDEPTH): one OR, one AND within it, and each minus."""
_EXCLUSION: Final = re.compile(r"(?<!\w)-")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Search:
    """A search that can be asked of the database.

    Attributes:
        resources: without duplicates, in the order asked.
        text: empty when only the embedding counts.
        embedding: of unit length, for the resources that have one; None when only the text counts.
    """

    resources: tuple[str, ...]
    text: str
    embedding: tuple[float, ...] | None

    @property
    def embedding_bytes(self) -> bytes:
        """float32, little-endian; empty without one."""
        return struct.pack(f"<{len(self.embedding)}f", *self.embedding) if self.embedding else b""


def parse_search(resources: Sequence[str], unverified_text: str, unverified_embedding: Sequence[float]) -> Search:
    """Read a search.

    Args:
        resources: known ones, without duplicates.

    Raises:
        InvalidInput: REQUEST_INVALID, with every violation.
    """
    text = unverified_text.strip()
    violations = [*_text_violations(text), *_embedding_violations(resources, unverified_embedding)]
    if not text and not unverified_embedding:
        violations.append(Violation("query", "must not be empty where there is no embedding"))
    elif not text and (wordless := [name for name in resources if REGISTRY[name].embedding is None]):
        violations.append(Violation("query", f"must not be empty: {', '.join(wordless)} cannot be searched by an embedding"))
    if violations:
        raise InvalidInput(Reason.REQUEST_INVALID, "There is no such search.", layer=Layer.REQUEST, violations=violations)
    return Search(tuple(resources), text, _unit(unverified_embedding) if unverified_embedding else None)


def by_position(lists: Iterable[Sequence[T]]) -> Iterator[T]:
    """The first of each list, then the second of each, and so on."""
    for hits in zip_longest(*lists):
        for hit in hits:
            if hit is not None:
                yield hit


def _text_violations(text: str) -> Iterator[Violation]:
    if len(text) > MAX_QUERY_CHARACTERS:
        yield Violation("query", f"must have at most {MAX_QUERY_CHARACTERS} characters")
    if "\0" in text:
        yield Violation("query", "must not hold U+0000")
    # Only those that stand before one another fill the stack; to tell which do is the parser's business.
    if len(_EXCLUSION.findall(text)) > MAX_EXCLUSIONS:
        yield Violation("query", f"must exclude at most {MAX_EXCLUSIONS} words")


def _embedding_violations(resources: Sequence[str], embedding: Sequence[float]) -> Iterator[Violation]:
    if not embedding:
        return
    dimensions = {known.dimension for name in resources if (known := REGISTRY[name].embedding) is not None}
    if not dimensions:
        yield Violation("embedding", "must be absent: none of these resources can be searched by one")
    elif {len(embedding)} != dimensions:
        yield Violation("embedding", f"must have {' or '.join(map(str, sorted(dimensions)))} dimensions, not {len(embedding)}")
    if not all(map(math.isfinite, embedding)):
        yield Violation("embedding", "must hold finite numbers only")
    elif not any(embedding):
        yield Violation("embedding", "must not be all zero: it has no direction")


def _unit(embedding: Sequence[float]) -> tuple[float, ...]:
    """The same direction with length 1: squares of what a float32 can hold neither overflow nor vanish in the database."""
    length = math.hypot(*embedding)
    return tuple(each / length for each in embedding)
