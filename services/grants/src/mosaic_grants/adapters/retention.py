"""Letting go of old months of the audit log, as the owner.

A month is dropped when everything that vouches for what stays is there: of each chain a signed end of that month, at its very last
row, and a round that covered it. What is countersigned of the dropped rows goes too, but those ends and one head of each grant.

A verification believes that retention dropped what was countersigned until shortly after the last dropped month, and nothing later.
So a month whose rows were covered later than that, because services were down or a clock was behind, goes together with the next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from mosaic_common.audit_heads import LATE, month_after
from psycopg import sql

_PARTITIONS: Final = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'federation.federation_audit_log'::regclass AND c.relname ~ '^federation_audit_log_[0-9]{4}_[0-9]{2}$'
ORDER BY c.relname
"""
# Of each chain that has rows in the months: who vouches for the last of them. One look at an index per chain, not at every row.
_VOUCHED: Final = """
SELECT c.chain_number, last.seq,
    EXISTS (SELECT FROM federation.federation_audit_month_ends e
            WHERE e.chain_id = c.chain_id AND e.ends_us = %(ends)s AND e.seq = last.seq AND e.hash = last.hash) AS signed,
    (SELECT h.time_us FROM federation.federation_audit_heads h WHERE h.chain_id = c.chain_id AND h.seq >= last.seq
     ORDER BY h.seq LIMIT 1) AS covered_us,
    EXISTS (SELECT FROM federation.federation_audit_log l
            WHERE l.chain_id = c.chain_id AND l.seq < last.seq AND l.tableoid <> ALL (%(going)s::regclass[])) AS torn
FROM federation.federation_audit_chains c
CROSS JOIN LATERAL (SELECT l.seq, l.hash FROM {partition} l WHERE l.chain_id = c.chain_id ORDER BY l.seq DESC LIMIT 1) last
ORDER BY c.chain_number
"""
_FORGET_HEADS: Final = """
DELETE FROM federation.federation_audit_heads h USING (
    SELECT chain_id, max(seq) AS seq FROM federation.federation_audit_month_ends WHERE ends_us = %(ends)s GROUP BY chain_id
) e WHERE h.chain_id = e.chain_id AND h.seq < e.seq
"""
# The newest head over rows of dropped months is where a grant's history begins now; those over fewer rows are of no use any more.
_FORGET_GRANT_HEADS: Final = """
DELETE FROM federation.federation_audit_grant_heads a USING (
    SELECT grant_id, max(rows) AS rows FROM federation.federation_audit_grant_heads WHERE month <= %(month)s GROUP BY grant_id
) b WHERE a.grant_id = b.grant_id AND a.rows < b.rows
"""
# Whoever appends waits behind a DROP that waits: it gives up soon, and is run again.
_PATIENCE: Final = "SET LOCAL lock_timeout = '1s'"
_COVERED_LATE: Final = (
    "its last rows were countersigned more than 10 minutes after it had ended; it goes together with the next month that has rows"
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A month that stays, and why."""

    month: str
    cause: str


@dataclass(frozen=True, slots=True)
class _Month:
    partition: str
    start: datetime

    @property
    def name(self) -> str:
        return f"{self.start:%Y-%m}"

    @property
    def table(self) -> sql.Identifier:
        return sql.Identifier("federation", self.partition)

    @property
    def ends_us(self) -> int:
        return int(month_after(self.start).timestamp()) * 1_000_000


def retain(owner_url: str, months: int, *, progress: Callable[[str], None] = lambda _: None) -> tuple[Refused, ...]:
    """Drop the months that lie before the last whole ones. Return those that have to stay; after the first, all do.

    Args:
        owner_url: of mosaic_owner.
        months: how many whole months are kept, besides the one that is under way.
    """
    with psycopg.connect(owner_url, autocommit=True) as connection:
        going: list[_Month] = []
        refused: list[Refused] = []
        for month in _months_before(connection, _first_kept(connection, months)):
            going.append(month)
            # A later month must not go before an earlier one: what stays would not continue anything.
            cause = "an earlier month stays" if refused else _drop(connection, going)
            if cause == _COVERED_LATE:
                continue
            if cause is not None:
                refused += [Refused(each.name, _COVERED_LATE) for each in going[:-1]] + [Refused(month.name, cause)]
            else:
                for gone in going:
                    progress(f"{gone.name} is dropped")
            going.clear()
        refused += [Refused(each.name, _COVERED_LATE) for each in going]
    for stays in refused:
        progress(f"{stays.month} stays: {stays.cause}")
    return tuple(refused)


def _drop(connection: psycopg.Connection, months: Sequence[_Month]) -> str | None:
    """Drop months together, or return why they have to stay."""
    going = [month.table.as_string() for month in months]
    last_end_us = last_covered_us = 0
    with connection.transaction():
        connection.execute(_PATIENCE)
        try:
            for month in months:
                connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(month.table))
                vouched = sql.SQL(_VOUCHED).format(partition=month.table)
                for number, seq, signed, covered_us, torn in connection.execute(vouched, {"ends": month.ends_us, "going": going}):
                    if not signed or covered_us is None or torn:
                        return _cause(number, seq, signed=signed, covered=covered_us is not None)
                    # An empty month ends no chain: a verification would not see that it was dropped.
                    last_end_us, last_covered_us = month.ends_us, max(last_covered_us, covered_us)
            if last_covered_us >= last_end_us + LATE // timedelta(microseconds=1):
                return _COVERED_LATE
            for month in months:
                values = {"ends": month.ends_us, "month": month.start.date()}
                connection.execute(_FORGET_HEADS, values)
                connection.execute(_FORGET_GRANT_HEADS, values)
                connection.execute(sql.SQL("DROP TABLE {}").format(month.table))
        except psycopg.errors.LockNotAvailable:
            return "it is being read or written now: run this again"
    return None


def _cause(chain_number: int, seq: int, *, signed: bool, covered: bool) -> str:
    if not signed:
        return (
            f"nobody has signed that chain {chain_number} ended it at seq {seq}; grants does so within the hour "
            "after a month is over, while it runs"
        )
    if not covered:
        return f"chain {chain_number} is not countersigned through seq {seq}; grants does so each second, while it runs"
    return f"earlier rows of chain {chain_number} lie in a later month, or in none"


def _months_before(connection: psycopg.Connection, first_kept: datetime) -> Iterator[_Month]:
    """Oldest first."""
    for (partition,) in connection.execute(_PARTITIONS).fetchall():
        month = _Month(partition, datetime.strptime(partition[-7:], "%Y_%m").replace(tzinfo=UTC))
        if month.start < first_kept:
            yield month


def _first_kept(connection: psycopg.Connection, months: int) -> datetime:
    row: Any = connection.execute("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date").fetchone()
    years, month = divmod(row[0].year * 12 + row[0].month - 1 - months, 12)
    return datetime(years, month + 1, 1, tzinfo=UTC)
