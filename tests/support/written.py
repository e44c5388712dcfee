"""contracts.md, Native RBAC, over rows that a test wrote itself: the oracle where there is a database and no gateway."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from mosaic_common.resources import REGISTRY

from tests.support.rows import Rows

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Written:
    id: UUID
    owner: UUID
    team: UUID | None
    updated_at: datetime


def newest_first(visible: Sequence[Written]) -> list[str]:
    return [str(row.id) for row in sorted(visible, key=lambda row: (-row.updated_at.timestamp(), row.id.bytes))]


def natively_visible(written: Sequence[Written], subject: UUID, teams: set[UUID]) -> list[Written]:
    """contracts.md, Native RBAC: a row they own, or of a team they are a member of now."""
    return [row for row in written if row.owner == subject or row.team in teams]


def within_filter(visible: Sequence[Written], subject: UUID, rule: dict[str, Any] | None) -> list[Written]:
    if rule is None:
        return list(visible)
    included = {UUID(team) for team in rule.get("include_teams", [])}
    personal = rule.get("include_personal", True)
    return [row for row in visible if (row.team is None and row.owner == subject and personal) or row.team in included]


@dataclass(frozen=True, slots=True)
class World:
    """A few users with teams and rows of one resource, each drawn by chance."""

    resource: str
    people: list[UUID]
    teams: list[UUID]
    written: list[Written]


def draw_world(rows: Rows, choose: random.Random) -> World:
    resource = choose.choice(list(REGISTRY))
    people = [rows.user() for _ in range(4)]
    teams = [rows.team(*choose.sample(people, choose.randint(0, 4))) for _ in range(5)]
    times = [NOW - timedelta(microseconds=choose.randint(0, 3)) for _ in range(3)] + [NOW + timedelta(days=9, microseconds=1)]
    written = []
    for _ in range(choose.randint(0, 60)):
        owner, team, time = choose.choice(people), choose.choice([None, *teams]), choose.choice(times)
        written.append(Written(rows.resource(resource, owner, team, time), owner, team, time))
    return World(resource, people, teams, written)


def draw_rule(world: World, choose: random.Random) -> dict[str, Any] | None:
    """A filter, or none."""
    rule: dict[str, Any] | None = choose.choice(
        [None, {}, {"include_teams": [str(team) for team in choose.sample(world.teams, choose.randint(0, 5))]}]
    )
    if rule is not None and choose.random() < 0.5:
        rule["include_personal"] = choose.random() < 0.5
    return rule


def draw_scope(world: World, rule: dict[str, Any] | None, choose: random.Random) -> dict[str, Any]:
    filters = {} if rule is None else {world.resource: rule}
    return {"resources": [world.resource], "max_rows_per_query": choose.choice([1, 2, 7, 20, 500]), "filters": filters}


def seen_by(rows: Rows, world: World, subject: UUID) -> list[Written]:
    """What the subject natively sees."""
    memberships = rows.owner.execute("SELECT team_id FROM public.team_members WHERE user_id = %s", (subject,)).fetchall()
    return natively_visible(world.written, subject, {team for (team,) in memberships})
