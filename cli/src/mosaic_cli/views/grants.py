"""Grants, as a person reads them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mosaic.grants.v1.types_pb2 import Grant
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.documents import state_of
from mosaic_cli.tables import Cell, details, exactly, identifier, plain, quiet, rows, section, stacked, state, when
from mosaic_cli.times import moment
from mosaic_cli.views.certificates import certificate_rows


def grant_list(grants: Sequence[Grant], now: datetime) -> RenderableType:
    return rows(
        ("STATUS", "PEER", "SUBJECT", "RESOURCES", "CREATED", "ENDS", "ID"),
        (
            (
                state(state_of(grant, "status")),
                grant.peer_name,
                grant.subject_email or quiet("(gone)"),
                ", ".join(_scope(grant).get("resources", ())),
                when(moment(grant.created_at_us), now),
                when(moment(grant.expires_at_us) if grant.HasField("expires_at_us") else None, now, absent="never"),
                identifier(grant.id),
            )
            for grant in grants
        ),
        empty="No grants.",
        whole=("STATUS", "CREATED", "ENDS", "ID"),
    )


def grant_sheet(grant: Grant, now: datetime) -> RenderableType:
    title = Text.assemble(("Grant ", "bold"), identifier(grant.id), "  ", state(state_of(grant, "status")))
    return stacked(
        details(title, _lines(grant, now)),
        section("Certificates", certificate_rows(grant.certificates, now)) if grant.certificates else None,
        section("Tokens", _tokens(grant, now)) if grant.tokens else None,
    )


def _lines(grant: Grant, now: datetime) -> Iterator[tuple[str, Cell]]:
    yield "peer", Text.assemble(plain(grant.peer_name), "  ", quiet(grant.peer_id))
    yield "subject", Text.assemble(plain(grant.subject_email or "(gone)"), "  ", quiet(grant.subject_user_id))
    yield from scope_lines(_scope(grant))
    yield "created", Text.assemble(exactly(moment(grant.created_at_us), now), " by ", plain(grant.created_by))
    if grant.approved_by:
        yield "approved by", grant.approved_by
    if grant.HasField("activated_at_us"):
        yield "active since", exactly(moment(grant.activated_at_us), now)
    yield "ends", exactly(moment(grant.expires_at_us) if grant.HasField("expires_at_us") else None, now, absent="never")
    if grant.HasField("revoked_at_us"):
        yield "revoked", exactly(moment(grant.revoked_at_us), now)
        yield "because", grant.revoked_reason or quiet("no reason was given")


def scope_lines(scope: Mapping[str, Any]) -> Iterator[tuple[str, Cell]]:
    """What a canonical scope document shows, a line for each resource."""
    filters = scope.get("filters", {})
    for position, resource in enumerate(scope.get("resources", ())):
        yield ("shows" if position == 0 else ""), Text.assemble(plain(f"{resource:<12}"), quiet(_narrowing(filters.get(resource))))
    if excluded := scope.get("excluded_resources"):
        yield "never shows", ", ".join(excluded)
    yield "rows per query", f"at most {scope.get('max_rows_per_query', '?')}"


def _narrowing(rule: Mapping[str, Any] | None) -> str:
    if rule is None:
        return "everything that the subject sees"
    teams = len(rule.get("include_teams", ()))
    parts = [
        *(["personal rows"] if rule.get("include_personal", True) else []),
        *([f"rows of {teams} team{'' if teams == 1 else 's'}"] if teams else []),
    ]
    return " and ".join(parts) or "nothing"


def _tokens(grant: Grant, now: datetime) -> RenderableType:
    return rows(
        ("TOKEN ID", "STATE", "CREATED", "EXPIRES", "BY"),
        (
            (
                identifier(token.token_id.hex()),
                state(state_of(token, "state")),
                when(moment(token.created_at_us), now),
                when(moment(token.expires_at_us), now),
                token.created_by,
            )
            for token in grant.tokens
        ),
        empty="No token yet.",
        whole=("TOKEN ID", "STATE", "CREATED", "EXPIRES"),
    )


def _scope(grant: Grant) -> dict[str, Any]:
    scope = json.loads(grant.scope_json or "{}")
    return scope if isinstance(scope, dict) else {}
