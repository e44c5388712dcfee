"""Letting go of old months of the audit log, as the owner.

A month is dropped when everything that vouches for what stays is there: of each chain a signed end of that month, at its very last
row, and a round that covered it. What is countersigned of the dropped rows goes too, but those ends and one head of each grant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from mosaic_common.audit_heads import month_after
from psycopg import sql

_PARTITIONS: Final = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'federation.federation_audit_log'::regclass AND c.relname ~ '^federation_audit_log_[0-9]{4}_[0-9]{2}$'
ORDER BY c.relname
"""
# One look at an index per chain, not at every row.
_UNVOUCHED: Final = """
SELECT c.chain_number, last.seq,
    NOT EXISTS (SELECT FROM federation.federation_audit_month_ends e
                WHERE e.chain_id = c.chain_id AND e.ends_us = %(ends)s AND e.seq = last.seq AND e.hash = last.hash) AS unsigned,
    NOT EXISTS (SELECT FROM federation.federation_audit_heads h WHERE h.chain_id = c.chain_id AND h.seq >= last.seq) AS uncovered
FROM federation.federation_audit_chains c
CROSS JOIN LATERAL (SELECT l.seq, l.hash FROM {partition} l WHERE l.chain_id = c.chain_id ORDER BY l.seq DESC LIMIT 1) last
WHERE NOT EXISTS (SELECT FROM federation.federation_audit_month_ends e
                  WHERE e.chain_id = c.chain_id AND e.ends_us = %(ends)s AND e.seq = last.seq AND e.hash = last.hash)
   OR NOT EXISTS (SELECT FROM federation.federation_audit_heads h WHERE h.chain_id = c.chain_id AND h.seq >= last.seq)
   OR EXISTS (SELECT FROM federation.federation_audit_log l
              WHERE l.chain_id = c.chain_id AND l.seq < last.seq AND l.tableoid <> '{partition}'::regclass)
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


@dataclass(frozen=True, slots=True)
class Refused:
    """A month that stays, and why."""

    month: str
    cause: str


def retain(owner_url: str, months: int, *, progress: Callable[[str], None] = lambda _: None) -> tuple[Refused, ...]:
    """Drop the months that lie before the last whole ones. Return those that have to stay; after the first, all do.

    Args:
        owner_url: of mosaic_owner.
        months: how many whole months are kept, besides the one that is under way.
    """
    with psycopg.connect(owner_url, autocommit=True) as connection:
        first_kept = _first_kept(connection, months)
        refused: list[Refused] = []
        for partition in _partitions(connection):
            month = datetime.strptime(partition[-7:], "%Y_%m").replace(tzinfo=UTC)
            if month >= first_kept:
                break
            name = f"{month:%Y-%m}"
            # A later month must not go before an earlier one: what stays would not continue anything.
            cause = "an earlier month stays" if refused else _drop(connection, partition, month)
            if cause is not None:
                refused.append(Refused(name, cause))
            progress(f"{name} stays: {cause}" if cause else f"{name} is dropped")
    return tuple(refused)


def _drop(connection: psycopg.Connection, partition: str, month: datetime) -> str | None:
    """Drop a month, or return why it has to stay."""
    table = sql.Identifier("federation", partition)
    values = {"ends": int(month_after(month).timestamp()) * 1_000_000, "month": month.date()}
    with connection.transaction():
        connection.execute(_PATIENCE)
        try:
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
            unvouched = connection.execute(
                sql.SQL(_UNVOUCHED.replace("'{partition}'", "{literal}")).format(
                    partition=table, literal=sql.Literal(f"federation.{partition}")
                ),
                values,
            ).fetchone()
            if unvouched is not None:
                return _cause(*unvouched)
            connection.execute(_FORGET_HEADS, values)
            connection.execute(_FORGET_GRANT_HEADS, values)
            connection.execute(sql.SQL("DROP TABLE {}").format(table))
        except psycopg.errors.LockNotAvailable:
            return "it is being read or written now: run this again"
    return None


def _cause(chain_number: int, seq: int, unsigned: bool, uncovered: bool) -> str:
    if unsigned:
        return (
            f"nobody has signed that chain {chain_number} ended it at seq {seq}; grants does so within the hour "
            "after a month is over, while it runs"
        )
    if uncovered:
        return f"chain {chain_number} is not countersigned through seq {seq}; grants does so each second, while it runs"
    return f"earlier rows of chain {chain_number} lie in a later month, or in none"


def _partitions(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(_PARTITIONS).fetchall()]


def _first_kept(connection: psycopg.Connection, months: int) -> datetime:
    row: Any = connection.execute("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date").fetchone()
    years, month = divmod(row[0].year * 12 + row[0].month - 1 - months, 12)
    return datetime(years, month + 1, 1, tzinfo=UTC)
