"""What a command asks a person, and takes from a pipe or an option where there is none."""

import sys
from typing import Annotated

import typer
from mosaic_common.errors import InvalidInput
from mosaic_common.tokens import MAX_URL_CHARACTERS, EnrollmentUrl

from mosaic_cli.dialing import Address
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.output import Terminal, readable

UrlArgument = Annotated[
    str | None,
    typer.Argument(metavar="URL", help="The enrollment URL; - reads stdin. Leave it out to be asked for it.", show_default=False),
]
AcceptEndpointHostOption = Annotated[
    bool, typer.Option("--accept-endpoint-host", help="The federation endpoint may be on another host than the enrollment URL.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Without a terminal nothing is asked anyway.")]


def confirm(question: str, *, yes: bool) -> None:
    """Ask a person about what cannot be undone. A script that runs the command has answered by that.

    Raises:
        typer.Abort: the person does not want it.
    """
    if not yes and sys.stdin.isatty():
        typer.confirm(readable(question), abort=True, err=True)


def read_enrollment_url(argument: str | None, terminal: Terminal) -> EnrollmentUrl:
    """Take the URL from the prompt (without echo), from stdin, or from the argument.

    Raises:
        typer.BadParameter: it cannot be used; never echoes it.
    """
    if argument is not None and argument != "-":
        terminal.warn(
            "The URL holds a secret, which the process list has shown and the shell's history may keep. "
            "Without the argument the command asks for it, or reads it from a pipe."
        )
        text = argument
    elif argument is None and sys.stdin.isatty():
        text = typer.prompt("Enrollment URL (not shown)", hide_input=True, err=True)
    else:
        text = sys.stdin.readline(MAX_URL_CHARACTERS + 2)
    try:
        return EnrollmentUrl.parse(text.strip())
    except InvalidInput as refused:
        raise typer.BadParameter(refused.message, param_hint="URL") from None


def confirm_endpoint_host(endpoint: Address, url: EnrollmentUrl, *, accepted: bool, terminal: Terminal) -> bool:
    """Return whether the endpoint lies on another host than the URL, which somebody has then confirmed.

    Raises:
        CommandFailed: ENDPOINT_HOST_DIFFERS, and nobody confirmed it.
    """
    if endpoint.host.lower() == url.host.lower():
        return False
    terminal.warn(f"The enrollment URL is on {url.host}, but queries would go to {endpoint}.")
    if not accepted and not (sys.stdin.isatty() and typer.confirm(f"Connect to {readable(endpoint.host)}?", err=True)):
        raise CommandFailed(
            LocalReason.ENDPOINT_HOST_DIFFERS,
            f"The federation endpoint {endpoint} is not on the host of the enrollment URL, {url.host}.",
            remedy="Ask the other operator; if it is right, run the command again with --accept-endpoint-host.",
        )
    return True
