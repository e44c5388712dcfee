"""contracts.md, "Native RBAC", a second time and as plainly as it is written there: the oracle for what a read may give.

It reads whole tables as their owner and leaves out in Python what may not be seen.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mosaic.federation.v1.resources_pb2 import Resource
from mosaic_common.resources import REGISTRY

from tests.support.gateway import Gateway

Rule = Mapping[str, Any]
"""One entry of a scope's ``filters``."""

_MESSAGES: Final = {"tasks": "task", "notes": "note", "memory": "memory", "credentials": "credential", "api_keys": "api_key"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def visible_rows(
    gateway: Gateway, resource: str, subject: str, rule: Rule | None = None, *, source: str | None = None
) -> list[Resource]:
    """Return what a grant on this user's rows has to show, newest first, as the messages that it has to show them in.

    Args:
        rule: None when the scope has no filter for the resource; then everything that the user natively sees.
        source: what the rows bear as theirs; the gateway's name when None.
    """
    memberships = gateway.rows("SELECT team_id::text FROM public.team_members WHERE user_id = %s", subject)
    teams = {team for (team,) in memberships}
    seen = [row for row in _all_rows(gateway, resource, source or gateway.name) if _natively_visible(row, subject, teams)]
    return newest_first(row for row in seen if rule is None or _within(row, rule, subject))


def newest_first(rows: Any) -> list[Resource]:
    return sorted(rows, key=lambda row: (-row.updated_at_us, row.id))


def ids(rows: Sequence[Resource]) -> list[str]:
    return [row.id for row in rows]


def _natively_visible(row: Resource, subject: str, teams: set[str]) -> bool:
    """A row they own, or a row of a team they are a member of now."""
    return row.owner_id == subject or row.team_id in teams


def _within(row: Resource, rule: Rule, subject: str) -> bool:
    """A row with a team is a team row, whoever owns it; personal is owned by the subject and without a team."""
    if row.HasField("team_id"):
        return row.team_id in rule.get("include_teams", [])
    return row.owner_id == subject and bool(rule.get("include_personal", True))


def _all_rows(gateway: Gateway, name: str, source: str) -> list[Resource]:
    resource = REGISTRY[name]
    columns = ["id", "owner_id", "team_id", "updated_at", *(column.name for column in resource.returned)]
    found = gateway.rows(f"SELECT {', '.join(columns)} FROM {resource.table}")
    return [_message(name, source, dict(zip(columns, row, strict=True))) for row in found]


def _message(name: str, source: str, values: dict[str, Any]) -> Resource:
    message = Resource(
        id=str(values.pop("id")),
        source=source,
        updated_at_us=_microseconds(values.pop("updated_at")),
        owner_id=str(values.pop("owner_id")),
    )
    if (team := values.pop("team_id")) is not None:
        message.team_id = str(team)
    own = getattr(message, _MESSAGES[name])
    own.SetInParent()
    for column, value in values.items():
        if isinstance(value, datetime):
            setattr(own, f"{column}_us", _microseconds(value))
        elif value is not None:
            setattr(own, column, value)
    return message


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
