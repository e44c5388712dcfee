"""The audit log and what its verification found, as a person reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from mosaic.audit.v1.audit_pb2 import AuditRow
from mosaic_common.audit_export import Account, Compared
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.audit_files import columns
from mosaic_cli.tables import Cell, details, identifier, plain, quiet, rows, stacked, state, warnings
from mosaic_cli.times import absolute, iso, moment, relative


def row_document(row: AuditRow) -> dict[str, Any]:
    document = columns(row)
    return {"time": iso(moment(document.pop("time_us"))), **document}


def account_document(account: Account) -> dict[str, Any]:
    document = asdict(account)
    return {
        "holds": True,
        **{name: document[name] for name in ("gateway", "chains", "rows", "heads", "grant_heads")},
        "begun": iso(moment(account.begun_us)),
        "last_head": iso(moment(account.last_head_us)) if account.last_head_us else None,
        "unsealed_rows": account.unsealed_rows,
        "unsealed": [
            {
                **{name: value for name, value in each.items() if name != "first_time_us"},
                "since": iso(moment(each["first_time_us"])),
            }
            for each in document["unsealed"]
        ],
        "begins_after_retention": [
            {"chain_number": each.chain_number, "after_seq": each.after_seq, "month_ended": iso(moment(each.ends_us))}
            for each in account.shortened
        ],
        **{name: document[name] for name in ("shortened_grants", "peers", "witness", "contradicting_peers")},
        "reservations": [*_reservations(account)],
    }


def row_list(found: Sequence[AuditRow]) -> RenderableType:
    return rows(
        ("TIME (UTC)", "EVENT", "OUTCOME", "WHAT", "FROM", "REQUEST"),
        ((_time(row), plain(row.event), _outcome(row), _what(row), _origin(row), identifier(row.request_id)) for row in found),
        empty="Nothing is recorded of that.",
        whole=("TIME (UTC)", "EVENT", "REQUEST"),
    )


def followed_line(row: AuditRow) -> RenderableType:
    parts = (_time(row), plain(row.event), _outcome(row), _what(row), _origin(row), identifier(row.request_id))
    return Text("  ").join(part for part in parts if part.plain != "–")


def row_sheets(found: Sequence[AuditRow], now: datetime) -> RenderableType:
    return stacked(*(details(Text.assemble((row.event, "bold"), "  ", _outcome(row)), _lines(row, now)) for row in found))


def account_sheet(account: Account, now: datetime) -> RenderableType:
    return stacked(
        details(Text("The record holds.", style="bold green"), _account_lines(account, now)), warnings(_reservations(account))
    )


def _lines(row: AuditRow, now: datetime) -> Iterator[tuple[str, Cell]]:
    yield "time", f"{iso(moment(row.time_us))} ({relative(moment(row.time_us), now)})"
    yield "request", identifier(row.request_id)
    yield "actor", row.actor or quiet("–")
    yield "from", row.source_address or quiet("–")
    for name in ("peer_id", "grant_id", "subject_user_id"):
        if row.HasField(name):
            yield name.removesuffix("_id").replace("_", " "), identifier(getattr(row, name))
    if row.HasField("token_id"):
        yield "token", identifier(row.token_id.hex())
    if row.HasField("verb") or row.resource:
        yield "asked for", _what(row)
    if row.denied_reason:
        yield "refused", f"{row.denied_reason}, at the layer {row.denied_layer}"
    yield "answer", f"{_count(row.result_count, 'row')}, {_count(row.bytes_out, 'byte')}, gRPC status {row.status_code}"
    yield "took", f"{row.latency_us / 1000:,.1f} ms"
    if row.repeated > 1:
        yield "stands for", f"{row.repeated:,} like refusals"
    if row.HasField("query_hash"):
        yield "query", identifier(row.query_hash.hex())
    yield "place", f"{row.chain_id.hex()} {row.seq}"
    yield "hash", identifier(row.hash.hex())


def _account_lines(account: Account, now: datetime) -> Iterator[tuple[str, Cell]]:
    yield "gateway", account.gateway
    yield "exported", absolute(moment(account.begun_us), now)
    yield "rows", f"{account.rows:,} in {_count(account.chains, 'chain')}"
    yield "countersigned", f"{_count(account.heads, 'head')}, {_count(account.grant_heads, 'head')} of grants"
    yield "sealed through", absolute(moment(account.last_head_us), now) if account.last_head_us else quiet("nothing yet")
    if account.peers != Compared():
        yield "peers' heads", _compared(account.peers)
    if account.witness != Compared():
        yield "witness", _compared(account.witness)


def _reservations(account: Account) -> Iterator[str]:
    if not account.rows:
        yield f"There is no row in {_count(account.chains, 'chain')}: whatever was recorded is not in this file."
    if account.is_outrun:
        told = iso(moment(account.newest_told_us))
        yield f"Heads up to {told} are newer than this export: it is old, or was made to look so. A new export has to hold them."
    if not (account.witness.held or account.witness.too_old or account.witness.too_new):
        yield (
            "No head was compared with --witness, the log of grants: only there would it show that rows of no grant were cut off "
            "a chain's end together with their heads, or all chains after one."
        )
    if account.unsealed:
        oldest = iso(moment(min(each.first_time_us for each in account.unsealed)))
        yield (
            f"{_count(account.unsealed_rows, 'row')} unsealed, the oldest of {oldest}: consistent, but countersigned by nobody. "
            "Rows of the last seconds are so; older ones mean that grants did not run, or that somebody added them."
        )
    if account.shortened:
        ended = moment(max(each.ends_us for each in account.shortened))
        what = f"{_count(len(account.shortened), 'chain')} and {_count(account.shortened_grants, 'grant')}"
        yield (
            f"{what} begin after retention: rows from before {ended:%Y-%m-%d} were dropped, at countersigned places. "
            "Compare that with your retention."
        )
    if foreign := account.peers.foreign + account.witness.foreign:
        yield f"Not signed by this key, and saying nothing: {_count(foreign, 'head')}, another gateway's or nobody's."
    for peer in account.contradicting_peers:
        yield f"The other gateway of the connection {peer} has contradicted what it said before of its own record."


def _compared(compared: Compared) -> str:
    parts = (
        (compared.held, "agree"),
        (compared.too_old, "older than what is kept"),
        (compared.too_new, "newer than this export"),
        (compared.foreign, "of another key"),
    )
    return ", ".join(f"{count:,} {what}" for count, what in parts if count)


def _time(row: AuditRow) -> Text:
    return Text(f"{moment(row.time_us):%Y-%m-%d %H:%M:%S}")


def _outcome(row: AuditRow) -> Text:
    parts = [state(row.outcome)]
    if row.denied_reason:
        parts.append(plain(row.denied_reason))
    if row.repeated > 1:
        parts.append(quiet(f"{row.repeated:,} times"))
    return Text(" ").join(parts)


def _what(row: AuditRow) -> Text:
    asked = " ".join(filter(None, (row.verb, row.resource)))
    answered = _count(row.result_count, "row") if row.result_count else ""
    return plain(", ".join(filter(None, (asked, answered)))) if asked or answered else quiet("–")


def _origin(row: AuditRow) -> Text:
    told = " ".join(filter(None, (row.actor, row.source_address)))
    return plain(told) if told else quiet("–")


def _count(amount: int, what: str) -> str:
    return f"{amount:,} {what}{'' if amount == 1 else 's'}"
