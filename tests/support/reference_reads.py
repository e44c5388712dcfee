"""contracts.md, "Scope", "Native RBAC" and "Verbs", a second time and as plainly as it says them: the oracle of every read.

Nothing here asks a database. What words match, and how well, is PostgreSQL's to say and is given; who may see what is not.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from itertools import zip_longest
from operator import mul
from typing import Any, Final
from uuid import UUID

from mosaic_common.resources import REGISTRY

Scope = Mapping[str, Any]
"""The document of a grant, defaults written out or not."""

Key = tuple[int, bytes]
"""The place of a row in a list."""

PAGE_BYTES: Final = 1024 * 1024
TEXT_BYTES: Final = 1024 * 1024
SEARCHED_CHARACTERS: Final = 65_536
FUSION: Final = 60


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as an application may have written it.

    Attributes:
        written: as PostgreSQL reads it.
        us: int64 microseconds since 1970; None where year 1 to 9999 does not hold it.
    """

    written: str
    us: int | None

    @classmethod
    def of(cls, time: datetime) -> "Moment":
        whole, micros = divmod(time.timestamp(), 1)
        return cls(time.isoformat(), int(whole) * 1_000_000 + round(micros * 1_000_000))


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an application table; ``columns`` are its own, the secret ones too."""

    resource: str
    id: UUID
    owner: UUID
    team: UUID | None
    updated_at: Moment
    columns: Mapping[str, str | Moment | None]
    embedding: tuple[float, ...] | None = None

    @property
    def shown(self) -> dict[str, object]:
        """What a read may say of it, by the names of the read functions' columns."""
        shown: dict[str, object] = {"id": str(self.id), "updated_at_us": self.updated_at.us, "owner_id": str(self.owner)}
        shown["team_id"] = str(self.team) if self.team else None
        for column in REGISTRY[self.resource].returned:
            value = self.columns[column.name]
            if isinstance(value, str):
                shown[column.name] = cut(value)
            else:
                shown[f"{column.name}_us"] = _time(value, nullable=column.nullable)
        return shown

    @property
    def searched(self) -> str:
        texts = [str(self.columns[column.name]) for column in REGISTRY[self.resource].searchable]
        return " ".join(texts)[:SEARCHED_CHARACTERS]

    @property
    def text_bytes(self) -> int:
        returned = [self.columns[column.name] for column in REGISTRY[self.resource].returned]
        return sum(min(len(value.encode()), TEXT_BYTES) for value in returned if isinstance(value, str))


def cut(text: str) -> str:
    """A text above 1 MiB is cut to what has at most as many bytes whatever its letters are, and ends with …"""
    return text if len(text.encode()) <= TEXT_BYTES else f"{text[: TEXT_BYTES // 4 - 1]}…"


def _time(value: str | Moment | None, *, nullable: bool) -> int | None:
    us = value.us if isinstance(value, Moment) else None
    return 0 if us is None and not nullable else us


@dataclass(frozen=True, slots=True)
class World:
    """What the application's tables hold.

    Attributes:
        users: id → active.
        members: (user, team), as it is now.
    """

    users: Mapping[UUID, bool]
    teams: Sequence[UUID]
    members: frozenset[tuple[UUID, UUID]]
    rows: tuple[Row, ...]

    def with_row(self, row: Row) -> "World":
        return replace(self, rows=(*(other for other in self.rows if other.id != row.id), row))

    def without_row(self, row: Row) -> "World":
        return replace(self, rows=tuple(other for other in self.rows if other.id != row.id))


# ── who sees what ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_granted(scope: Scope, resource: str) -> bool:
    return resource in scope["resources"] and resource not in scope.get("excluded_resources", [])


def is_native(world: World, subject: UUID, row: Row) -> bool:
    """A user sees a row they own or a row of a team they are a member of now."""
    return row.owner == subject or (subject, row.team) in world.members


def is_within(scope: Scope, subject: UUID, row: Row) -> bool:
    """A row with a team is a team row, whoever owns it; personal is owned by the subject and without a team."""
    rule = scope.get("filters", {}).get(row.resource)
    if rule is None:
        return True
    if row.team is not None:
        return str(row.team) in rule.get("include_teams", [])
    return row.owner == subject and rule.get("include_personal", True)


def native(world: World, subject: UUID, resource: str) -> list[Row]:
    """Newest first, then by id in byte order. A time that has no int64 hides its row."""
    shown = [row for row in world.rows if row.resource == resource and row.updated_at.us is not None]
    return sorted((row for row in shown if is_native(world, subject, row)), key=newest_first)


def visible(world: World, subject: UUID, resource: str, scope: Scope) -> list[Row]:
    """Scope ∩ native rights, newest first."""
    if not is_granted(scope, resource):
        return []
    return [row for row in native(world, subject, resource) if is_within(scope, subject, row)]


def newest_first(row: Row) -> Key:
    assert row.updated_at.us is not None
    return -row.updated_at.us, row.id.bytes


def located(world: World, subject: UUID, resource: str, scope: Scope, row_id: UUID) -> str:
    if row_id in {row.id for row in visible(world, subject, resource, scope)}:
        return "visible"
    return "out_of_scope" if row_id in {row.id for row in native(world, subject, resource)} else "not_visible"


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def behind(rows: Sequence[Row], last: Key | None) -> list[Row]:
    """What follows the last row that was served, wherever that row may be by now."""
    return [row for row in rows if last is None or newest_first(row) > last]


def fitting(rows: Sequence[Row]) -> list[Row]:
    """The first of them, whose texts make at most 1 MiB together; at least one of those there are."""
    size, fit = 0, list[Row]()
    for row in rows:
        size += row.text_bytes
        if fit and size > PAGE_BYTES:
            break
        fit.append(row)
    return fit


# ── searches ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Hit:
    row: Row
    rank: float | Fraction
    distance: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A search of one resource.

    Attributes:
        ranks: by row id, how well each row of the world matches the words; rows that do not match are absent. None when no word
            is left to search for.
        target: the embedding asked for.
    """

    ranks: Mapping[UUID, float] | None = None
    target: tuple[float, ...] | None = None

    def hits(self, rows: Sequence[Row]) -> list[Hit]:
        """Best first, then newest first, then by id."""
        worded, near = self._by_words(rows), self._by_distance(rows)
        if self.ranks is not None and self.target is not None:
            hits = [Hit(row, rank, self.distance(row)) for row, rank in _fused(worded, near)]
        else:
            hits = worded or near
        return sorted(hits, key=lambda hit: (-hit.rank, newest_first(hit.row)))

    def distance(self, row: Row) -> float | None:
        """Cosine distance; None without an embedding, or without a direction."""
        if self.target is None or row.embedding is None or not any(row.embedding):
            return None
        product: float = sum(map(mul, self.target, row.embedding))
        # Rounded: embeddings of one direction and another length are as near as each other.
        return round(1 - product / math.hypot(*self.target) / math.hypot(*row.embedding), 9)

    def _by_words(self, rows: Sequence[Row]) -> list[Hit]:
        ranks = self.ranks or {}
        matching = [Hit(row, ranks[row.id], None) for row in rows if row.id in ranks]
        return sorted(matching, key=lambda hit: (-hit.rank, newest_first(hit.row)))

    def _by_distance(self, rows: Sequence[Row]) -> list[Hit]:
        near = [Hit(row, 1 - distance, distance) for row in rows if (distance := self.distance(row)) is not None]
        return sorted(near, key=lambda hit: (hit.distance, hit.row.id.bytes))


def _fused(*orders: Sequence[Hit]) -> Iterator[tuple[Row, Fraction]]:
    """Reciprocal rank fusion: the sum of 1 / (k + position) over the orders that hold a row."""
    rows = {hit.row.id: hit.row for order in orders for hit in order}
    shares = [{hit.row.id: Fraction(1, FUSION + position) for position, hit in enumerate(order, 1)} for order in orders]
    for row in rows.values():
        yield row, sum((share.get(row.id, Fraction()) for share in shares), Fraction())


def by_position(lists: Sequence[Sequence[Hit]]) -> list[Hit]:
    """The best of each resource, in the order of the resources asked, then the second of each, and so on."""
    return [hit for each in zip_longest(*lists) for hit in each if hit is not None]
