"""`mosaic auth`: bearer tokens made with the key of the context."""

import enum
from datetime import timedelta
from typing import Annotated, Final
from uuid import UUID

import typer
from mosaic_common.auth import Role, operate_audience, query_audience

from mosaic_cli.connection import mint
from mosaic_cli.options import ContextOption, DurationOption, OutputOption
from mosaic_cli.times import absolute, iso, utc_now

app = typer.Typer(no_args_is_help=True, add_completion=False)

DEFAULT_TTL: Final = timedelta(minutes=15)


class RoleName(enum.StrEnum):
    ADMIN = "admin"
    READ = "read"
    QUERY = "query"


@app.callback()
def auth() -> None:
    # Makes it a group although it has one command so far.
    ...


@app.command("token")
def make_token(
    *,
    subject: Annotated[str, typer.Option("--subject", metavar="SUBJECT", help="A user's UUID, or an operator's name.")],
    role: Annotated[
        RoleName, typer.Option("--role", metavar="admin|read|query", help="query is for users, the others for operators.")
    ],
    ttl: Annotated[timedelta | None, DurationOption("--ttl", help="15m if not given; admin tokens live at most 1h.")] = None,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Make a bearer token: export MOSAIC_TOKEN=$(mosaic auth token …)."""
    granted, life = Role[role.name], ttl or DEFAULT_TTL
    if granted is Role.QUERY and not _is_user_id(subject):
        raise typer.BadParameter("with --role query it is a user's UUID, in lower case.", param_hint="--subject")
    expires_at = utc_now().replace(microsecond=0) + life
    token = mint(target, subject, granted, life)
    audience = (query_audience if granted is Role.QUERY else operate_audience)(target.gateway)
    document = {
        "token": token,
        "subject": subject,
        "role": role.value,
        "audience": audience,
        "expires_at": iso(expires_at),
    }
    output.show_text(document, token)
    output.note(f"{role.value} as {subject}, for {audience}, until {absolute(expires_at, utc_now())}")


def _is_user_id(subject: str) -> bool:
    try:
        return str(UUID(subject)) == subject
    except ValueError:
        return False
