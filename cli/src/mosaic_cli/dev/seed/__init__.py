"""Two sites' content, as people would have left it: the same rows each time, so that a story can name what it expects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final
from uuid import UUID

import psycopg
from mosaic_common.resources import REGISTRY
from psycopg import sql

from mosaic_cli.dev.seed.compose import Composer, Row
from mosaic_cli.dev.seed.home import HOME
from mosaic_cli.dev.seed.site import Site
from mosaic_cli.dev.seed.work import WORK

SITES: Final[Mapping[str, Site]] = MappingProxyType({site.name: site for site in (HOME, WORK)})


@dataclass(frozen=True, slots=True)
class Summary:
    """What was written.

    Attributes:
        users: email → id.
        teams: name → id.
        members: team name → emails of those in it now.
        rows: resource → number of rows.
    """

    site: str
    users: Mapping[str, UUID]
    teams: Mapping[str, UUID]
    members: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]


def seed(owner_url: str, site: str, *, now: datetime) -> Summary:
    """Write a site's users, teams and rows. Rows that are there already stay as they are.

    Args:
        owner_url: of the role that owns the application's tables.
        site: one of SITES.
        now: the newest row is a minute old then.
    """
    chosen = SITES[site]
    composer = Composer(chosen, now)
    resources = {resource.table: composer.resource(resource.name) for resource in REGISTRY.values()}
    with psycopg.connect(owner_url) as connection:
        _insert(connection, "public.users", composer.users())
        _insert(connection, "public.teams", composer.teams())
        _insert(connection, "public.team_members", composer.memberships())
        for table, rows in resources.items():
            _insert(connection, table, rows)
    return Summary(
        site=site,
        users={person.email: composer.id_of("user", person.email) for person in chosen.people},
        teams={topic.team: composer.id_of("team", topic.team) for topic in chosen.topics if topic.team},
        members={topic.team: tuple(topic.members) for topic in chosen.topics if topic.team},
        rows={resource.name: len(resources[resource.table]) for resource in REGISTRY.values()},
    )


def _insert(connection: psycopg.Connection, table: str, rows: Sequence[Row]) -> None:
    columns = list(rows[0])
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
        sql.Identifier(*table.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(map(sql.Placeholder, columns)),
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, rows)
