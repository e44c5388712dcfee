"""The content of `mosaic dev`: two sites with one person on both, and at work a row in every visibility class."""

from datetime import UTC, datetime

import pytest
from mosaic_cli.dev.seed import SITES, Summary, seed
from mosaic_common.resources import REGISTRY

from tests.support.postgres import Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAYA = "maya@example.com"


def count(database: Database, condition: str, summary: Summary) -> int:
    """Tasks that meet a condition on `t`, seen from Maya."""
    statement = f"""
        WITH maya AS (SELECT %s::uuid AS id),
        tasks AS (
            SELECT t.*, EXISTS (
                SELECT FROM public.team_members m WHERE m.user_id = maya.id AND m.team_id = t.team_id
            ) AS in_her_team, t.owner_id = maya.id AS hers
            FROM public.tasks t, maya
        )
        SELECT count(*) FROM tasks t WHERE {condition}
    """
    with database.connect() as owner:
        row = owner.execute(statement, (summary.users[MAYA],)).fetchone()
    assert row is not None
    amount: int = row[0]
    return amount


@pytest.fixture(scope="module")
def work(module_database: Database) -> Summary:
    return seed(module_database.url("mosaic_owner"), "work", now=NOW)


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("t.hers AND t.team_id IS NULL", id="her own"),
        pytest.param("t.hers AND t.in_her_team", id="her own in a team of hers"),
        pytest.param("NOT t.hers AND t.in_her_team", id="a colleague's in a team of hers"),
        pytest.param("t.hers AND NOT t.in_her_team AND t.team_id IS NOT NULL", id="her own in a team that she has left"),
        pytest.param("NOT t.hers AND NOT t.in_her_team AND t.team_id IS NOT NULL", id="a colleague's in a team that is not hers"),
        pytest.param("NOT t.hers AND t.team_id IS NULL", id="a colleague's own"),
    ],
)
def test_every_visibility_class_has_rows(module_database: Database, work: Summary, condition: str) -> None:
    """A story told with this content would show a leak of any class, and a loss of any class."""
    assert count(module_database, condition, work) >= 5


def test_maya_sees_what_is_hers_and_her_teams(module_database: Database, work: Summary) -> None:
    """The read functions agree with the content: all she may see, page by page, and no more."""
    visible = count(module_database, "t.hers OR t.in_her_team", work)
    with module_database.connect("mosaic_edge_outbound") as edge:
        listing = "SELECT title FROM federation.local_list_tasks(%s, 500, NULL, NULL)"
        assert len(edge.execute(listing, (work.users[MAYA],)).fetchall()) == visible
    assert 50 < visible < work.rows["tasks"]


def test_sowing_again_adds_nothing(module_database: Database, work: Summary) -> None:
    """Ids follow from the content: a second run, even on another day, leaves every row as it is."""
    with module_database.connect() as owner:
        before = [owner.execute(f"SELECT * FROM {each.table} ORDER BY id").fetchall() for each in REGISTRY.values()]
        assert seed(module_database.url("mosaic_owner"), "work", now=NOW.replace(year=2027)) == work
        assert [owner.execute(f"SELECT * FROM {each.table} ORDER BY id").fetchall() for each in REGISTRY.values()] == before
    assert [len(rows) for rows in before] == list(work.rows.values())


def test_people_exist_on_both_sites_as_different_users(database: Database, work: Summary) -> None:
    """The same email at home and at work is two accounts: nothing may be read by matching names across gateways."""
    home = seed(database.url("mosaic_owner"), "home", now=NOW)
    assert home.users[MAYA] != work.users[MAYA]
    assert not set(home.users.values()) & set(work.users.values())
    assert all(amount > 150 for name, amount in home.rows.items() if name in {"tasks", "notes", "memory"})
    assert set(SITES) == {home.site, work.site}
