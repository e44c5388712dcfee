"""Grants, as a person reads them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mosaic.grants.v1 import types_pb2
from mosaic.grants.v1.types_pb2 import Grant
from mosaic_common.resources import SENSITIVE
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.documents import state_of
from mosaic_cli.tables import Cell, details, exactly, identifier, plain, quiet, rows, section, stacked, state, warnings, when
from mosaic_cli.times import absolute, moment, relative
from mosaic_cli.views.audit import SHORT_TOKEN_CHARACTERS, recent_section
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
        warnings(_open_ends(grant, now)),
        section("Certificates", certificate_rows(grant.certificates, now)) if grant.certificates else None,
        section("Tokens", _tokens(grant, now)) if grant.tokens else None,
        recent_section(grant.recent, now) if grant.recent else None,
    )


def sensitive_resources(grant: Grant) -> list[str]:
    """Those of its scope that needed somebody's approval, in scope order."""
    return [name for name in _scope(grant).get("resources", ()) if name in SENSITIVE]


def _open_ends(grant: Grant, now: datetime) -> Iterator[str]:
    """What was begun and not finished, each with what to do about it."""
    for token in grant.tokens:
        name, until = token.token_id.hex()[:SHORT_TOKEN_CHARACTERS], _lease(token)
        match token.state:
            case types_pb2.ENROLLMENT_TOKEN_STATE_CLAIMED:
                ends = f" until {absolute(until, now)}" if until else ""
                yield (
                    f"Attempt {token.attempt} to redeem the token {name} is under way{ends}; if it dies, the same command with the "
                    "same URL continues after that."
                )
            case types_pb2.ENROLLMENT_TOKEN_STATE_UNFINISHED:
                ended = f", {relative(until, now)}" if until else ""
                again = " --reenroll" if token.reenroll else ""
                yield (
                    f"Attempt {token.attempt} to redeem the token {name} was never finished{ended}: have the same command run "
                    f"again with the same URL until {absolute(moment(token.expires_at_us), now)}, or make a new URL with "
                    f"`mosaic federation grant token {grant.id}{again}`."
                )
    if owed := grant.revocations_owed:
        yield (
            f"The certificate authority has not confirmed {_revocations(owed)} of this grant yet; the gateway refuses those "
            "certificates already, and goes on trying. If this stays, look at the ca-broker."
        )


def _revocations(count: int) -> str:
    return "1 revocation" if count == 1 else f"{count} revocations"


def _lines(grant: Grant, now: datetime) -> Iterator[tuple[str, Cell]]:
    yield "peer", Text.assemble(plain(grant.peer_name), "  ", quiet(grant.peer_id))
    yield "subject", Text.assemble(plain(grant.subject_email or "(gone)"), "  ", quiet(grant.subject_user_id))
    yield from scope_lines(_scope(grant))
    yield "calls", _limit(grant)
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


def _limit(grant: Grant) -> Cell:
    if not grant.HasField("limit"):
        return quiet("the gateway's own limit")
    return f"at most {grant.limit.per_second:g} a second, {grant.limit.burst} at once"


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
        ("TOKEN ID", "STATE", "FOR", "ATTEMPT", "CREATED", "EXPIRES", "LEASE", "BY"),
        (
            (
                identifier(token.token_id.hex()),
                state(state_of(token, "state")),
                "a lost key" if token.reenroll else "the first key",
                str(token.attempt) if token.attempt else quiet("–"),
                when(moment(token.created_at_us), now),
                when(moment(token.expires_at_us), now),
                when(_lease(token), now),
                token.created_by,
            )
            for token in grant.tokens
        ),
        empty="No token yet.",
        whole=("TOKEN ID", "STATE", "ATTEMPT", "CREATED", "EXPIRES", "LEASE"),
    )


def _lease(token: types_pb2.EnrollmentToken) -> datetime | None:
    return moment(token.lease_until_us) if token.HasField("lease_until_us") else None


def _scope(grant: Grant) -> dict[str, Any]:
    scope = json.loads(grant.scope_json or "{}")
    return scope if isinstance(scope, dict) else {}
