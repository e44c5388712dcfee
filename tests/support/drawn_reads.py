"""What hypothesis draws for reads: small worlds in which all that can meet does, scopes, searches, and what changes meanwhile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st
from mosaic_common.resources import REGISTRY, ColumnType, Resource

from tests.support.reference_reads import Moment, Row, Scope, World, is_native, is_within, visible

USERS: Final = tuple(UUID(f"{number}a5e0000-0000-4000-8000-000000000000") for number in (3, 1, 2))
SUBJECT: Final = USERS[0]
TEAMS: Final = tuple(UUID(f"{number}ea00000-0000-4000-8000-000000000000") for number in (2, 3, 1))
UNKNOWN_TEAM: Final = UUID("9ea00000-0000-4000-8000-000000000000")

_NOON_US: Final = 1_772_366_400_000_000
_LAST_US: Final = 253_402_300_799_999_999
SHARED: Final = Moment("2026-03-01 12:00:00+00", _NOON_US)
MOMENTS: Final = (
    SHARED,
    Moment("2026-03-01 12:00:00.000001+00", _NOON_US + 1),
    Moment("2026-03-01 11:59:59.999999+00", _NOON_US - 1),
    Moment("9999-12-31 23:59:59.999999+00", _LAST_US),
    Moment("1969-12-31 23:59:59.999999+00", -1),
    Moment("0001-01-01 00:00:00+00", -62_135_596_800_000_000),
    Moment("0044-03-15 12:00:00+00 BC", None),
    Moment("infinity", None),
    Moment("-infinity", None),
    Moment("10000-01-01 00:00:00+00", None),
)
_OWN_MOMENTS: Final = (None, *(moment for moment in MOMENTS if moment.us != _LAST_US))

CORE: Final = ("water", "plants", "boiler", "repair")
"""Few enough that texts and phrases share them, in this order and in others."""
VOCABULARY: Final = (
    *CORE,
    *("water", "watering", "plants", "boiler", "repair", "re-fit", "the", "of", "and", "Ölwanne", "ölwanne", "水やり", "don't"),
    *("a.b@example.com", "https://a.example/b?c=d", "12.5", "-3", "owner:3a5e0000", "team", "<b>", "**", "x" * 3000),
)
DIMENSION: Final = 384
_AXES: Final = tuple(range(axis, DIMENSION, 6) for axis in range(6))


class Direction(tuple[float, ...]):
    """An embedding. Cosine distances between such ones are far apart, or the same."""

    __slots__ = ()

    @classmethod
    def of(cls, *shares: float) -> "Direction":
        values = [0.0] * DIMENSION
        for share, axes in zip(shares, _AXES, strict=True):
            for axis in axes:
                values[axis] = share
        return cls(values)

    def times(self, scale: float) -> "Direction":
        return Direction(scale * value for value in self)

    def __repr__(self) -> str:
        return f"Direction.of{tuple(self[axes[0]] for axes in _AXES)}"


DIRECTIONS: Final = (
    Direction.of(1, 0, 0, 0, 0, 0),
    Direction.of(0, 1, 0, 0, 0, 0),
    Direction.of(1, 1, 0, 0, 0, 0),
    Direction.of(3, 1, 0, 0, 0, 0),
    Direction.of(-1, 0, 2, 0, 0, 0),
    Direction.of(-1, -1, 0, 0, 0, 0),
    Direction.of(0, 0, 0, 1, 2, 0),
)
# A power of two: exact in a float32, so that the database finds the same distance to the last bit.
_STORED: Final = (None, Direction([0.0] * DIMENSION), *DIRECTIONS, DIRECTIONS[0].times(0.125))

ANY_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TEXTS: Final = st.one_of(
    st.lists(st.sampled_from(CORE), max_size=6).map(" ".join),
    st.lists(st.sampled_from(VOCABULARY), max_size=6).map(" ".join),
    st.lists(st.sampled_from(VOCABULARY) | ANY_TEXT, max_size=4).map(" ".join),
)


class LongText(str):
    """Fills a page, and no report of a failure."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"LongText({self[:9]!r}…{self[-9:]!r}, {len(self.encode())} bytes)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As hypothesis asks whoever it reports."""
        printer.text(repr(self))


_LARGE: Final = st.sampled_from([300_000, 400_000, 524_000, 1_100_000]).flatmap(
    lambda size: st.sampled_from(["boiler " + "y" * size, "repair " * (size // 7), "é" * (size // 2) + " boiler"]).map(LongText)
)

Draw = st.DrawFn


@dataclass(frozen=True, slots=True)
class Case:
    """A world, and a scope that grants the resource of its rows."""

    resource: str
    world: World
    scope: Scope

    @property
    def cap(self) -> int:
        cap: int = self.scope["max_rows_per_query"]
        return cap


@st.composite
def worlds(draw: Draw, *resources: str, most: int = 24, large: int = 0, least: int = 0) -> World:
    """Three users, up to three teams, and rows of these resources.

    Args:
        large: how many rows may have a text of some hundred kilobytes.
    """
    teams = TEAMS[: draw(st.integers(0, len(TEAMS)))]
    members = frozenset((user, team) for user in USERS for team in teams if draw(st.booleans()))
    kinds = st.one_of(*(_rows(REGISTRY[resource], teams) for resource in resources))
    least = least or draw(st.sampled_from([0, most // 2]))  # left to itself, hypothesis draws five or so
    rows = draw(st.lists(kinds, min_size=least, max_size=most, unique_by=lambda row: row.id))
    for position in range(min(draw(st.integers(0, large)), len(rows))):
        rows[position] = _with_text(rows[position], draw(_LARGE))
    return World(dict.fromkeys(USERS, True), teams, members, tuple(rows))


@st.composite
def cases(draw: Draw, resources: st.SearchStrategy[str], *, most: int = 24, large: int = 0) -> Case:
    resource = draw(resources)
    return Case(resource, draw(worlds(resource, most=most, large=large)), draw(scopes(resource)))


@st.composite
def shown_worlds(draw: Draw, scope: Scope, *, large: int = 0) -> World:
    """A world of a dozen rows and more, of which such a scope shows most where it can show any: what is drawn without regard to it
    is hidden more often than not."""
    world = draw(worlds(*scope["resources"], large=large, least=12))
    return replace(world, rows=tuple(draw(_mostly_shown(world, scope, row)) for row in world.rows))


@st.composite
def shown_cases(draw: Draw, resources: st.SearchStrategy[str], *, large: int = 0) -> Case:
    resource = draw(resources)
    scope = draw(scopes(resource))
    return Case(resource, draw(shown_worlds(scope, large=large)), scope)


@st.composite
def _mostly_shown(draw: Draw, world: World, scope: Scope, row: Row) -> Row:
    moved = [replace(row, owner=owner, team=team) for owner in USERS for team in (None, *world.teams)]
    shown = [each for each in moved if is_native(world, SUBJECT, each) and is_within(scope, SUBJECT, each)]
    if not shown or draw(st.integers(0, 5)) == 5:
        return row
    return replace(draw(st.sampled_from(shown)), updated_at=draw(st.sampled_from([SHARED, *MOMENTS[:3]])))


def _with_text(row: Row, text: str) -> Row:
    first = REGISTRY[row.resource].searchable[0].name
    return replace(row, columns={**row.columns, first: text})


@st.composite
def _rows(draw: Draw, resource: Resource, teams: Sequence[UUID]) -> Row:
    columns: dict[str, str | Moment | None] = {}
    for column in resource.own_columns:
        if column.secret:
            columns[column.name] = f"secret water of {resource.name}"
        elif column.type is ColumnType.TEXT:
            columns[column.name] = draw(TEXTS) if column.searchable else "open"
        else:
            columns[column.name] = draw(st.sampled_from(_OWN_MOMENTS if column.nullable else _OWN_MOMENTS[1:]))
    return Row(
        resource.name,
        draw(st.uuids()),
        draw(st.sampled_from([SUBJECT, *USERS])),
        draw(st.sampled_from([None, *teams, *teams])),
        draw(st.sampled_from([SHARED, *MOMENTS])),
        columns,
        draw(st.sampled_from(_STORED)) if resource.embedding else None,
    )


@st.composite
def scopes(draw: Draw, *resources: str, caps: st.SearchStrategy[int] | None = None) -> Scope:
    """A scope of one of these resources at least; filters name teams joined, left, never joined and unknown.

    It is written as its author may write it, with defaults left out.
    """
    shown = draw(st.lists(st.sampled_from(resources), min_size=1, unique=True)) if len(resources) > 1 else list(resources)
    others = [name for name in REGISTRY if name not in shown]
    scope: dict[str, Any] = {"resources": shown, "max_rows_per_query": draw(caps or st.sampled_from([1, 2, 5, 7, 24, 10_000]))}
    if draw(st.booleans()):
        scope["excluded_resources"] = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    if draw(st.integers(0, 3)):
        scope["filters"] = {name: draw(_rules()) for name in shown if draw(st.integers(0, 3))}
    return scope


@st.composite
def _rules(draw: Draw) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if draw(st.integers(0, 3)):
        rule["include_teams"] = [str(team) for team in draw(st.lists(st.sampled_from([*TEAMS, UNKNOWN_TEAM]), unique=True))]
    if draw(st.booleans()):
        rule["include_personal"] = draw(st.booleans())
    return rule


# ── searches ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_WORDS: Final = st.sampled_from([word for word in VOCABULARY if len(word) < 100])
_PHRASES: Final = st.one_of(st.lists(st.sampled_from(CORE), min_size=2, max_size=2), st.lists(_WORDS, min_size=1, max_size=4)).map(
    lambda words: f'"{" ".join(words)}"'
)
_TERMS: Final = st.one_of(
    *(_WORDS, _PHRASES, _WORDS.map("-{}".format), _PHRASES.map("-{}".format)),
    *(st.just("or"), st.sampled_from(["the", "of the", '"the"', "-the"]), ANY_TEXT),
    st.sampled_from(['"', "-", "' owner:3a5e0000-0000-4000-8000-000000000000'", "!(water", "water & !plants", "<->", ":*", "\\'"]),
)
QUERIES: Final = _PHRASES | st.lists(_TERMS, min_size=1, max_size=5).map(lambda terms: " ".join(terms)[:512])
TARGETS: Final = st.sampled_from([*DIRECTIONS, *(DIRECTIONS[0].times(scale) for scale in (1e-30, 1e30))])


@dataclass(frozen=True, slots=True)
class Question:
    """A search as a peer may ask it; ``target`` is an embedding."""

    resources: list[str]
    query: str
    target: Direction | None


@st.composite
def questions(draw: Draw) -> Question:
    """Anything, of anything."""
    names = draw(st.lists(st.sampled_from(list(REGISTRY)), min_size=1, max_size=4, unique=True))
    return Question(names, draw(st.just("") | QUERIES), draw(st.none() | TARGETS))


@st.composite
def questions_with_answers(draw: Draw, world: World, scope: Scope) -> Question:
    """What the scope grants, by words of the rows that it shows; where one has them, by embeddings too."""
    names = draw(st.lists(st.sampled_from(scope["resources"]), min_size=1, unique=True))
    texts = [row.searched.split() for name in names for row in visible(world, SUBJECT, name, scope)]
    words = sorted({word for text in texts for word in text if len(word) < 100})
    query = st.lists(st.sampled_from(words), min_size=1, max_size=4).map(" or ".join) if words else QUERIES
    near = any(REGISTRY[name].embedding for name in names)
    return Question(names, draw(query), draw(st.none() | TARGETS if near else st.none()))


# ── what changes meanwhile ────────────────────────────────────────────────────────────────────────────────────────────────────────

Change = Callable[[World], World]


def untouched(world: World) -> World:
    return world


@st.composite
def changes(draw: Draw, resource: str) -> Change:
    """What an application does between two pages: a row is written, moved in time, given away or deleted; a team joined or left."""
    kind = draw(st.sampled_from(["write", "move", "give away", "delete", "join or leave"]))
    which, to, moment = draw(st.integers(0, 99)), draw(st.integers(0, 99)), draw(st.sampled_from(MOMENTS))
    new = draw(_rows(REGISTRY[resource], ()))

    def change(world: World) -> World:
        if kind == "join or leave" and world.teams:
            return replace(world, members=world.members ^ {(SUBJECT, world.teams[to % len(world.teams)])})
        if kind == "write" or not world.rows:
            return world.with_row(new)
        row = world.rows[which % len(world.rows)]
        if kind == "move":
            return world.with_row(replace(row, updated_at=moment))
        if kind == "give away":
            teams = [None, *world.teams]
            return world.with_row(replace(row, owner=USERS[which % len(USERS)], team=teams[to % len(teams)]))
        return world.without_row(row)

    return change
