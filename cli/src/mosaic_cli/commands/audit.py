"""`mosaic federation audit`: what was asked, what was answered, and the proof that the record says so unaltered."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Annotated, Final, TypeVar
from uuid import UUID

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from mosaic.audit.v1.audit_pb2 import AuditRow, GetAuditRowRequest, ListAuditRowsRequest
from mosaic_common.audit import HeadVerifier, Outcome
from mosaic_common.audit_export import Account, ExportBroken, peer_heads, verify_export, witnessed_heads
from mosaic_common.auth import MAX_ADMIN_LIFE, Role
from mosaic_common.errors import Violation

from mosaic_cli.audit_files import ExportFile, export_pages
from mosaic_cli.connection import Operator, operator
from mosaic_cli.contexts import Context
from mosaic_cli.failures import CommandFailed, LocalReason
from mosaic_cli.filters import PeerFilter, UserFilter
from mosaic_cli.options import ContextOption, OutputOption
from mosaic_cli.output import Format, Terminal, json_line
from mosaic_cli.paging import pages
from mosaic_cli.progress import progress
from mosaic_cli.tables import print_table
from mosaic_cli.times import iso, moment, parse_moment, utc_now
from mosaic_cli.views.audit_log import account_document, account_sheet, followed_line, row_document, row_list, row_sheets

app = typer.Typer(no_args_is_help=True, add_completion=False)

T = TypeVar("T")

POLL_SECONDS: Final = 1.0
# A row may be committed after one that is dated later: it waited in another process's queue.
OVERLAP_US: Final = 30_000_000
TOKEN_LIFE: Final = timedelta(minutes=5)
RENEWED_AFTER_SECONDS: Final = 240.0


def _parse_moment(text: str) -> datetime:
    try:
        return parse_moment(text, utc_now())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command("tail")
def tail(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until interrupted.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="The last so many.")] = 20,
    peer: PeerFilter = "",
    grant: Annotated[str, typer.Option("--grant", "-g", metavar="GRANT", help="Only this grant's: its id.")] = "",
    user: UserFilter = "",
    event: Annotated[str, typer.Option("--event", metavar="EVENT", help="Such as read; grant. means all that begin so.")] = "",
    outcome: Annotated[
        str, typer.Option("--outcome", metavar="OUTCOME", autocompletion=lambda: list(Outcome), help=f"{', '.join(Outcome)}.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", metavar="REASON", help="Refused with this, such as RATE_LIMITED.")] = "",
    actor: Annotated[str, typer.Option("--actor", metavar="NAME", help="Only what this one did.")] = "",
    since: Annotated[
        datetime | None, typer.Option("--since", parser=_parse_moment, metavar="TIME", help="From 2026-11-23T10:00Z on, or 2h ago.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--until", parser=_parse_moment, metavar="TIME", help="Before then, written likewise.")
    ] = None,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """The latest rows of the audit log, the newest last."""
    if follow and until is not None:
        raise typer.BadParameter("--until does not go with --follow, which has no end.")
    request = ListAuditRowsRequest(
        peer=peer,
        grant_id=grant,
        user=user,
        event=event,
        outcome=outcome,
        denied_reason=reason,
        actor=actor,
        since_us=None if since is None else _micros(since),
        until_us=None if until is None else _micros(until),
    )
    with operator(target, Role.READ) as gateway:
        found = list(pages(gateway, gateway.audit.ListAuditRows, request, lambda page: page.rows, limit=limit))
    rows = [row for page in found for row in page.items][::-1]
    if not follow:
        document = {"rows": [row_document(row) for row in rows], "truncated": found[-1].more}
        output.show(document, lambda: row_list(rows))
        return
    request.ClearField("page_token")
    for row in chain(rows, _following(target, request, rows)):
        _tell(row, output)


@app.command("show")
def show(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="As errors and rows name it.", show_default=False)],
    *,
    target: ContextOption,
    output: OutputOption,
) -> None:
    """All that is recorded of one request."""
    with operator(target, Role.READ) as gateway:
        rows = gateway.ask(gateway.audit.GetAuditRow, GetAuditRowRequest(request_id=_canonical(request_id))).rows
    output.show({"rows": [row_document(row) for row in rows]}, lambda: row_sheets(rows, utc_now()))


@app.command("export")
def export(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Written anew, mode 600, once everything is there.")],
    target: ContextOption,
    output: OutputOption,
) -> None:
    """The whole record into a file, with all that its verification needs; interrupted, it leaves nothing behind."""
    with operator(target, Role.READ, lasting=MAX_ADMIN_LIFE) as gateway, ExportFile(out) as file:
        found = export_pages(gateway)
        first = next(found)
        file.begin(target.gateway, first.begun_us)
        with progress(first.total, "Rows exported", output) as tell:
            for page in chain([first], found):
                for record in page.records:
                    file.add(record)
                tell(file.rows)
    output.show_text({"file": str(out), "rows": file.rows}, f"{file.rows:,} rows are in {out}.")
    output.note(f"Next: mosaic federation audit verify {out} --key audit.pub")


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `audit export` wrote.", show_default=False)],
    *,
    key: Annotated[
        list[Path],
        typer.Option(
            "--key", metavar="FILE", help="The public audit key, audit.pub of the folder operator; again for each before it."
        ),
    ],
    peer_heads_file: Annotated[
        Path | None,
        typer.Option("--peer-heads", metavar="FILE", help="The other gateway's export: what it was told of this record."),
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option("--witness", metavar="FILE", help="The log of grants, whose lines audit_head were kept elsewhere."),
    ] = None,
    output: OutputOption,
) -> None:
    """Prove that an export was not altered, or name the first place of each chain that was. Needs no gateway."""
    verifier = _verifier(key)
    try:
        account = _verify(file, verifier, peer_heads_file, witness)
    except ExportBroken as broken:
        raise CommandFailed(
            LocalReason.AUDIT_BROKEN,
            f"The record does not hold: {broken.problem}.{_elsewhere(broken)}",
            remedy="Keep this file, and the heads that contradict it, as they are; another `audit export` tells whether the "
            "database was altered or the file.",
            violations=[*_places(broken), *(Violation("also", _place(each)) for each in broken.further)],
        ) from None
    output.show(account_document(account), lambda: account_sheet(account, utc_now()))


def _verifier(files: Sequence[Path]) -> HeadVerifier:
    pems = [each.read_bytes() for each in files]
    for file, pem in zip(files, pems, strict=True):
        try:
            HeadVerifier(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise CommandFailed(
                LocalReason.FILE,
                f"{file} is no public audit key: that is an Ed25519 key, PEM.",
                remedy="It is audit.pub in the folder `operator` of the gateway's PKI.",
            ) from None
    return HeadVerifier(*pems)


def _verify(file: Path, verifier: HeadVerifier, peer_heads_file: Path | None, witness: Path | None) -> Account:
    with ExitStack() as opened:
        lines = opened.enter_context(file.open("rb"))
        told = _some(peer_heads(opened.enter_context(peer_heads_file.open("rb"))), peer_heads_file) if peer_heads_file else ()
        kept = _some(witnessed_heads(opened.enter_context(witness.open("rb"))), witness) if witness else ()
        return verify_export(lines, verifier, peers=told, witness=kept)


def _elsewhere(broken: ExportBroken) -> str:
    amount = len(broken.further)
    return f" Nor does it at {amount} other {'place' if amount == 1 else 'places'}." if amount else ""


def _place(broken: ExportBroken) -> str:
    return ", ".join([*(f"{place.field} {place.description}" for place in _places(broken)), broken.problem])


def _some(heads: Iterator[T], file: Path) -> Iterator[T]:
    """The heads, of which there is one at least: a file without any proves nothing, and is not the one that was meant."""
    is_empty = True
    try:
        for head in heads:
            is_empty = False
            yield head
    except ExportBroken as broken:
        # It is not the record that does not hold.
        raise CommandFailed(LocalReason.FILE, f"{file} cannot be compared with: {broken.problem}.") from None
    if is_empty:
        raise CommandFailed(LocalReason.FILE, f"{file} holds no head, so it can prove nothing of this record.")


def _places(broken: ExportBroken) -> Iterator[Violation]:
    for name, value in (("chain", broken.chain_number), ("seq", broken.seq), ("grant", broken.grant_id), ("line", broken.line)):
        if value is not None:
            yield Violation(name, str(value))
    if broken.time_us is not None:
        yield Violation("time", iso(moment(broken.time_us)))


def _following(target: Context, request: ListAuditRowsRequest, rows: Sequence[AuditRow]) -> Iterator[AuditRow]:
    """Rows as they come, for ever, each once."""
    latest = max((row.time_us for row in rows), default=_micros(utc_now()))
    told = {(row.chain_id, row.seq): row.time_us for row in rows}
    while True:
        # A new token before the old one ends.
        with operator(target, Role.READ, lasting=TOKEN_LIFE) as gateway:
            renewed_at = time.monotonic() + RENEWED_AFTER_SECONDS
            while time.monotonic() < renewed_at:
                time.sleep(POLL_SECONDS)
                request.since_us = latest - OVERLAP_US
                for row in _since(gateway, request):
                    if (row.chain_id, row.seq) not in told and row.time_us >= request.since_us:
                        told[row.chain_id, row.seq] = row.time_us
                        latest = max(latest, row.time_us)
                        yield row
                told = {place: at for place, at in told.items() if at >= latest - OVERLAP_US}


def _since(gateway: Operator, request: ListAuditRowsRequest) -> list[AuditRow]:
    asked = ListAuditRowsRequest()
    asked.CopyFrom(request)
    found = pages(gateway, gateway.audit.ListAuditRows, asked, lambda page: page.rows, limit=None)
    return [row for page in found for row in page.items][::-1]


def _tell(row: AuditRow, output: Terminal) -> None:
    if output.format is Format.JSON:
        print(json_line(row_document(row)), flush=True)
    else:
        print_table(followed_line(row))


def _canonical(request_id: str) -> str:
    try:
        return str(UUID(request_id))
    except ValueError:
        raise typer.BadParameter("a request id is a UUID.", param_hint="REQUEST_ID") from None


def _micros(when: datetime) -> int:
    return int(when.timestamp() * 1_000_000)
