"""`mosaic seal`: the secret under which a gateway keeps the private keys of its connections."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from mosaic.grants.v1.grants_pb2 import GetSealStatusRequest, GetSealStatusResponse, ResealRequest
from mosaic_common.auth import MAX_ADMIN_LIFE, Role
from mosaic_common.errors import MosaicError, Violation

from mosaic_cli.connection import Operator, operator
from mosaic_cli.documents import seal_document
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.options import ContextOption, OutputOption
from mosaic_cli.output import Terminal
from mosaic_cli.progress import progress
from mosaic_cli.rotation import stage_of
from mosaic_cli.times import utc_now
from mosaic_cli.views.seals import seal_sheet

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("status")
def show_status(*, target: ContextOption, output: OutputOption) -> None:
    """Which key every row is sealed under, which replica reads which key, and what comes next."""
    with operator(target, Role.READ) as gateway:
        status = _status(gateway)
    stage = stage_of(status)
    output.show(seal_document(status, stage), lambda: seal_sheet(status, stage, utc_now()))


@app.command("rotate")
def rotate(
    *,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=1000, metavar="N", help="Rows that are sealed anew in one transaction.")
    ] = 100,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """Seal every row anew under the current key; interrupted, the same command continues.

    Refused while a replica still seals under another key. Reads go on meanwhile.
    """
    with operator(target, Role.ADMIN, lasting=MAX_ADMIN_LIFE) as gateway:
        status = _status(gateway)
        rotated = Rotation(status.current_key_id, total=status.rows_to_reseal)
        with said_to_be_resumable(rotated, output), progress(rotated.total, "Rows sealed anew", output) as tell:
            for _ in rotated.batches(gateway, batch_size):
                tell(rotated.done)
    rotated.verify_complete()
    document = {"key_id": rotated.key_id, "resealed": rotated.done, "remaining": 0}
    output.show_text(document, f"Every row is sealed under {rotated.key_id}; sealed anew: {rotated.done:,}.")
    if len(status.readable_key_ids) > 1:
        output.note("Next: take the old secret (_PREVIOUS) away from every replica.")


class Rotation:
    """One run of `seal rotate`. Each batch is a transaction of the gateway: nothing is kept here that a rerun would need."""

    def __init__(self, key_id: str, *, total: int) -> None:
        self.key_id = key_id
        self.total = total
        self.done = 0
        self._remaining = total
        self._broken: dict[str, None] = {}

    def batches(self, gateway: Operator, size: int) -> Iterator[None]:
        """Reseal batch after batch, until nothing is left or nothing moves any more.

        Raises:
            MosaicError: SEALING_KEY_NOT_READABLE, or what else the gateway answered.
        """
        resealed = 1
        while self._remaining and resealed:
            answer = gateway.ask(gateway.seals.Reseal, ResealRequest(key_id=self.key_id, batch_size=size))
            resealed, self._remaining = answer.resealed, answer.remaining
            self.done += resealed
            self._broken.update(dict.fromkeys(answer.broken_row_ids))
            yield

    def verify_complete(self) -> None:
        """Raises: CommandFailed, naming every row that could not be opened."""
        if not self._remaining and not self._broken:
            return
        raise CommandFailed(
            LocalReason.SEAL_BROKEN,
            f"Sealed anew: {self.done:,}. Left as they are, because they open under no secret that the gateway has: "
            f"{max(self._remaining, len(self._broken)):,}.",
            remedy="Give every replica the secret that they are sealed under as _PREVIOUS, and run this again; where it is lost, "
            "the connection needs a new key (`mosaic federation peer add --reenroll`).",
            violations=[Violation(row, "opens under no secret that the gateway has") for row in self._broken],
        )


@contextmanager
def said_to_be_resumable(rotation: Rotation, output: Terminal) -> Iterator[None]:
    """Say with whatever ends the command early that nothing of it is lost."""
    try:
        yield
    except (MosaicError, CommandFailed, KeyboardInterrupt):
        if rotation.done:
            output.note(f"{rotation.done:,} rows are sealed anew and stay so; the same command continues with the rest.")
        raise


def _status(gateway: Operator) -> GetSealStatusResponse:
    return gateway.ask(gateway.seals.GetSealStatus, GetSealStatusRequest())
