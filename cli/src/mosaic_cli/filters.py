"""Options that narrow a list, each described once."""

from typing import Annotated, Any

import typer
from google.protobuf.message import Message

from mosaic_cli.documents import state_names, state_value

LimitOption = Annotated[int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many; otherwise all.")]
PeerFilter = Annotated[str, typer.Option("--peer", "-p", metavar="PEER", help="Only this peer's: its name or id.")]
UserFilter = Annotated[str, typer.Option("--user", "-u", metavar="USER", help="Only this user's: UUID or email.")]


def StateFilter(flag: str, message: type[Message], field: str) -> Any:  # noqa: N802  beside typer.Option it reads like one
    """An option that takes the name of one value of an enum; None where it is not given."""
    names = state_names(message, field)

    def parse(text: str) -> Any:
        try:
            return state_value(message, field, text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    *first, last = names
    return typer.Option(
        flag,
        parser=parse,
        metavar=flag.removeprefix("--").upper(),
        autocompletion=lambda: list(names),
        help=f"Only those that are {', '.join(first)} or {last}.",
        show_default=False,
    )
