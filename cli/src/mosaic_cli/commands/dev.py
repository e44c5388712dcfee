"""`mosaic dev`: two gateways on this machine, every service its own process."""

import importlib.util
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.contexts import CONTEXTS_VARIABLE
from mosaic_cli.dev.ancestry import end_with_ancestors
from mosaic_cli.dev.authority import AuthorityKind
from mosaic_cli.dev.control import NotRunning, RequestRefused, ask
from mosaic_cli.dev.embedded import EmbeddedServerMissing
from mosaic_cli.dev.folder_lock import FolderInUse, end_holder
from mosaic_cli.dev.interrupts import exit_once_on_signals
from mosaic_cli.dev.launcher import StartFailed, launch
from mosaic_cli.dev.processes import ProcessFailed
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.options import OutputOption
from mosaic_cli.output import Terminal
from mosaic_cli.tables import rows

if TYPE_CHECKING:
    from mosaic_cli.dev.story import Told

DEFAULT_FOLDER: Final = Path(".mosaic")
DRIVER: Final = "psycopg"
REASONS: Final[Mapping[type[Exception], LocalReason]] = {
    NotRunning: LocalReason.NOT_RUNNING,
    FolderInUse: LocalReason.ALREADY_RUNNING,
    EmbeddedServerMissing: LocalReason.NOT_INSTALLED,
    StartFailed: LocalReason.START_FAILED,
    ProcessFailed: LocalReason.START_FAILED,
    RequestRefused: LocalReason.START_FAILED,
}

app = typer.Typer(name="dev", help="Two gateways, home and work, on this machine.", no_args_is_help=True, add_completion=False)

FolderOption = Annotated[Path, typer.Option("--dir", file_okay=False, help="Holds everything: data, keys, logs.")]
AuthorityOption = Annotated[AuthorityKind, typer.Option("--ca", help="Which authority signs for peers.")]
GatewayArgument = Annotated[str, typer.Argument(help="home or work")]
ServiceArgument = Annotated[str, typer.Argument(help="as `mosaic dev status` names it")]


@app.command()
def up(output: OutputOption, folder: FolderOption = DEFAULT_FOLDER, ca: AuthorityOption = AuthorityKind.EMBEDDED) -> None:
    """Start both gateways and leave them running."""
    _verify_extra()
    exit_once_on_signals()
    with told_failures(output):
        launch(folder, ca, on_step=lambda done: output.done(f"{done.name} {done.seconds:.1f} s"))
        status_document = ask(folder, {"do": "status"})
    _show_status(status_document, output)
    output.heading(
        f"Next: export {CONTEXTS_VARIABLE}={shlex.quote(status_document['contexts'])} && mosaic -c work federation peer create home"
    )


@app.command()
def demo(output: OutputOption, folder: FolderOption = DEFAULT_FOLDER, ca: AuthorityOption = AuthorityKind.EMBEDDED) -> None:
    """Tell the whole story in a fresh folder, from PKI to federated answer, and leave nothing running."""
    _verify_extra()
    from mosaic_cli.dev.story import Story, StoryFailed, document_of  # noqa: PLC0415  of what the extra brings

    end_with_ancestors()
    exit_once_on_signals()
    with told_failures(output):
        try:
            told = Story(folder.absolute() / "demo", ca, Narrator(output)).tell()
        except StoryFailed as failed:
            raise CommandFailed(LocalReason.STEP_FAILED, str(failed), remedy=f"The logs are under {folder / 'demo'}.") from None
    document = document_of(ca, told)
    output.show(
        document, lambda: Text(f"\n{len(told)} steps held in {document['seconds']} s. Nothing is left running.", style="bold")
    )


@app.command()
def down(output: OutputOption, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """End both gateways; their data stays."""
    ended = end_holder(folder)
    output.show_text({"ended": ended}, "Both gateways have ended." if ended else f"Nothing runs in {folder}.")


@app.command()
def status(output: OutputOption, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Show every service; as JSON also every file and URL that a client of one's own needs."""
    with told_failures(output):
        _show_status(ask(folder, {"do": "status"}), output)


@app.command()
def stop(gateway: GatewayArgument, service: ServiceArgument, output: OutputOption, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Play an outage of one service."""
    _change("stop", gateway, service, folder, output)


@app.command()
def start(gateway: GatewayArgument, service: ServiceArgument, output: OutputOption, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """End the outage: returns once the service is ready."""
    _change("start", gateway, service, folder, output)


@dataclass(slots=True)
class Narrator:
    """Tells the story on stderr while it happens."""

    output: Terminal
    number: int = 0

    def begin(self, name: str) -> None:
        self.number += 1
        self.output.heading(f"{self.number:>2}  {name}")

    def detail(self, text: str) -> None:
        self.output.note(f"      {text}")

    def command(self, line: str) -> None:
        self.output.note(f"    $ {line}")

    def end(self, told: "Told") -> None:
        self.output.done(f"{told.result}  ({told.seconds:.1f} s)")


@contextmanager
def told_failures(output: Terminal) -> Iterator[None]:
    """Show the end of the log that says why, then fail with the sentence."""
    try:
        yield
    except tuple(REASONS) as error:
        sentence, *log_tail = str(error).splitlines()
        for line in log_tail:
            output.note(line)
        raise CommandFailed(REASONS[type(error)], sentence) from None


def _verify_extra() -> None:
    if importlib.util.find_spec(DRIVER) is None:
        raise CommandFailed(LocalReason.NOT_INSTALLED, f"{DRIVER} is not installed: install mosaic-cli[dev].")


def _change(verb: str, gateway: str, service: str, folder: Path, output: Terminal) -> None:
    with told_failures(output):
        gateways = ask(folder, {"do": "status"})["gateways"]
        if gateway not in gateways:
            raise typer.BadParameter(f"there is no {gateway!r}: {', '.join(gateways)}.", param_hint="GATEWAY")
        services = gateways[gateway]["services"]
        if service not in services:
            raise typer.BadParameter(f"{gateway} has no {service!r}: {', '.join(services)}.", param_hint="SERVICE")
        ask(folder, {"do": verb, "gateway": gateway, "service": service})
        document = ask(folder, {"do": "status"})["gateways"][gateway]["services"][service]
    output.show_text(document, f"{gateway}/{service} is {document['state']}.")


def _show_status(document: Mapping[str, Any], output: Terminal) -> None:
    output.show(document, lambda: _status_table(document))


def _status_table(document: Mapping[str, Any]) -> RenderableType:
    lines = [
        (name, service, _state(about["state"]), str(about["pid"] or "–"), _listeners(about))
        for name, gateway in document["gateways"].items()
        for service, about in gateway["services"].items()
    ]
    return rows(("GATEWAY", "SERVICE", "STATE", "PID", "LISTENERS"), lines, empty="Nothing runs.", whole={"LISTENERS"})


def _state(name: str) -> Text:
    return Text(f"● {name}", style="green") if name == "running" else Text(f"✗ {name}", style="red")


def _listeners(about: Mapping[str, Any]) -> str:
    return "  ".join(f"{kind} {at['address']}" for kind, at in about["listeners"].items())
