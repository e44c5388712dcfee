"""What the commands share that ask as a user."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final
from uuid import UUID

import typer
from mosaic.federation.v1.query_pb2 import QueryResponse
from mosaic.grants.v1.grants_pb2 import FindUserRequest
from mosaic_common.auth import Role
from mosaic_common.errors import Unavailable

from mosaic_cli.connection import User, operator, user
from mosaic_cli.contexts import Context
from mosaic_cli.documents import state_of
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.output import Terminal

LOCAL: Final = "local"
ALL: Final = "all"

UserOption = Annotated[
    str, typer.Option("--user", "-u", metavar="USER", help="Ask as this user (UUID or email), with the key of the context.")
]


@contextmanager
def asking(target: Context, user_name: str) -> Iterator[User]:
    """Open the user listener as this user, or as whom MOSAIC_TOKEN says where none is named."""
    with user(target, _user_id(target, user_name) if user_name else None) as gateway:
        yield gateway


def missing(answer: QueryResponse) -> list[str]:
    """The sources that gave nothing, each with its status."""
    statuses = ((each.source, state_of(each, "status")) for each in answer.sources)
    return [f"{source} ({status})" for source, status in statuses if status != "ok"]


def warn_if_partial(answers: QueryResponse | Iterable[QueryResponse], output: Terminal, *, of: str = "rows") -> None:
    """Say which sources are missing, if any.

    Args:
        of: what the answer is made of.
    """
    each = [answers] if isinstance(answers, QueryResponse) else answers
    if lacking := [source for answer in each for source in missing(answer)]:
        output.warn(f"PARTIAL ANSWER: it lacks {of} of {', '.join(lacking)}.")


def _user_id(target: Context, name: str) -> str:
    """A token names its user by UUID; whose an email is, our gateway knows."""
    try:
        return str(UUID(name))
    except ValueError:
        pass
    with operator(target, Role.READ) as gateway:
        try:
            return gateway.ask(gateway.users.FindUser, FindUserRequest(user=name)).id
        except (Unavailable, CommandFailed) as failed:
            raise CommandFailed(
                failed.reason if isinstance(failed, CommandFailed) else LocalReason.UNREACHABLE,
                f"Nobody says whose email that is. {failed.message}",
                remedy=" ".join(filter(None, ("Name the user by id, which needs no grants service: --user UUID.", failed.remedy))),
            ) from None
