"""The latest audit rows about one thing, as a person reads them."""

from collections.abc import Sequence
from datetime import datetime

from mosaic.grants.v1.types_pb2 import AuditEntry
from rich.console import RenderableType
from rich.text import Text

from mosaic_cli.tables import plain, quiet, rows, section, state, when
from mosaic_cli.times import moment

SHORT_TOKEN_CHARACTERS = 8
"""Enough to tell a grant's tokens apart in a table of 80 columns; the JSON document has all 64."""


def recent_section(entries: Sequence[AuditEntry], now: datetime) -> RenderableType:
    return section(
        "Recent",
        rows(
            ("TIME", "EVENT", "OUTCOME", "FROM", "TOKEN"),
            (
                (
                    when(moment(entry.time_us), now),
                    plain(entry.event),
                    _outcome(entry),
                    plain(" ".join(filter(None, (entry.actor, entry.source_address))) or "–"),
                    plain(entry.token_id.hex()[:SHORT_TOKEN_CHARACTERS]) if entry.token_id else quiet("–"),
                )
                for entry in entries
            ),
            empty="Nothing yet.",
            whole=("TIME", "EVENT", "TOKEN"),
        ),
    )


def _outcome(entry: AuditEntry) -> Text:
    parts = [state(entry.outcome)]
    if entry.denied_reason:
        parts.append(plain(entry.denied_reason))
    if entry.repeated > 1:
        parts.append(quiet(f"{entry.repeated:,} times"))
    return Text(" ").join(parts)
