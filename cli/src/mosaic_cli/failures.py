"""How a command fails: reason, sentence, remedy, and the exit code 1. Never a traceback."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import typer
from mosaic_common.errors import ConfigurationError, MosaicError, Violation
from typer.core import TyperGroup

from mosaic_cli.output import Format, json_text, readable

FORMAT_KEY: Final = "mosaic_cli.format"


class LocalReason(StrEnum):
    """Why a command refused by itself; what a gateway answers has mosaic_common.errors.Reason."""

    CONFIGURATION = "CONFIGURATION"
    FILE = "FILE"
    TOKEN_MISSING = "TOKEN_MISSING"  # noqa: S105  a reason
    UNREACHABLE = "UNREACHABLE"
    NOT_VERIFIED = "NOT_VERIFIED"
    NOT_OFFERED = "NOT_OFFERED"
    PIN_MISMATCH = "PIN_MISMATCH"
    CLOCK = "CLOCK"
    GATEWAY_MISMATCH = "GATEWAY_MISMATCH"
    ENDPOINT_MALFORMED = "ENDPOINT_MALFORMED"
    ENDPOINT_HOST_DIFFERS = "ENDPOINT_HOST_DIFFERS"
    ENDPOINT_NOT_VERIFIED = "ENDPOINT_NOT_VERIFIED"
    ALREADY_ENROLLED = "ALREADY_ENROLLED"
    NOT_INSTALLED = "NOT_INSTALLED"
    ALREADY_RUNNING = "ALREADY_RUNNING"
    NOT_RUNNING = "NOT_RUNNING"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    START_FAILED = "START_FAILED"
    STEP_FAILED = "STEP_FAILED"
    SEAL_BROKEN = "SEAL_BROKEN"
    UPGRADE_FAILED = "UPGRADE_FAILED"
    RETENTION_REFUSED = "RETENTION_REFUSED"
    AUDIT_BROKEN = "AUDIT_BROKEN"
    DEFECT = "DEFECT"


class CommandFailed(Exception):
    """The command itself refuses, or cannot go on."""

    def __init__(
        self, reason: LocalReason, message: str, *, remedy: str | None = None, violations: Sequence[Violation] = ()
    ) -> None:
        super().__init__(message)
        self.reason: Final = reason
        self.message: Final = message
        self.remedy: Final = remedy
        self.violations: Final = tuple(violations)


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told of an error.

    Attributes:
        metadata: the ErrorInfo's; of a refused call always with its request_id, under which the gateway's log has the rest.
    """

    reason: str
    message: str
    remedy: str | None = None
    violations: tuple[Violation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def to_document(self) -> dict[str, object]:
        violations = [{"field": each.field, "description": each.description} for each in self.violations]
        return {
            "error": {
                "reason": self.reason,
                "message": self.message,
                "remediation": self.remedy,
                "violations": violations,
                "metadata": dict(self.metadata),
            }
        }


class ReportingGroup(TyperGroup):
    """Tells every error in the format that the command was given; usage errors stay the parser's (exit code 2)."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (MosaicError, CommandFailed, ConfigurationError, OSError) as error:
            if isinstance(error, BrokenPipeError) or ctx.params.get("debug"):
                raise
            tell(failure_of(error), ctx.meta.get(FORMAT_KEY, Format.TABLE))
        except typer.BadParameter as usage:
            # How pydantic, by which the parser reads an enum, begins its sentence.
            usage.message = usage.message.removeprefix("Value error, ")
            raise
        except (typer.Exit, typer.Abort, typer.TyperException, EOFError):
            raise  # the parser's own: it ends, aborts or shows the usage
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            tell(_defect(error), ctx.meta.get(FORMAT_KEY, Format.TABLE))
        raise typer.Exit(1)


def failure_of(error: MosaicError | CommandFailed | ConfigurationError | OSError) -> Failure:
    match error:
        case MosaicError():
            return Failure(error.reason, error.message, error.remedy, error.violations, error.metadata)
        case CommandFailed():
            return Failure(error.reason, error.message, error.remedy, error.violations)
        case OSError():
            named = f"{error.filename}: " if error.filename else ""
            return Failure(LocalReason.FILE, f"{named}{error.strerror or type(error).__name__}.")
        case _:
            return Failure(LocalReason.CONFIGURATION, str(error))


def tell(failure: Failure, output: Format) -> None:
    """People read stderr; a program that asked for JSON gets one document on stdout in any case."""
    if output is Format.JSON:
        print(json_text(failure.to_document()))
    typer.secho(f"✗ {failure.reason}", err=True, fg=typer.colors.RED, bold=True, nl=False)
    typer.echo(f"  {readable(failure.message)}", err=True)
    width = max((len(readable(each.field)) for each in failure.violations), default=0)
    for each in failure.violations:
        typer.secho(f"    {readable(each.field):<{width}}", err=True, fg=typer.colors.YELLOW, nl=False)
        typer.echo(f"  {readable(each.description)}", err=True)
    if failure.remedy:
        typer.secho(f"  → {readable(failure.remedy)}", err=True, fg=typer.colors.CYAN)
    if request_id := failure.metadata.get("request_id"):
        typer.secho(f"    request id {readable(request_id)}", err=True, dim=True)


def _defect(error: Exception) -> Failure:
    # Its text is left out: nobody can say what it holds.
    where = traceback.extract_tb(error.__traceback__)[-1]
    return Failure(
        LocalReason.DEFECT,
        f"The command stopped at something unforeseen ({type(error).__name__} in {Path(where.filename).name}:{where.lineno}).",
        remedy="This is a defect of the CLI. `mosaic --debug …` shows all of it; please report that with `mosaic version`.",
    )
