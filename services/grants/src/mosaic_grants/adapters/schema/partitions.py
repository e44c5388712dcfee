"""Monthly partitions of the audit log, made ahead of time."""

from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import Connection

from mosaic_grants.adapters.schema.names import SCHEMA

MONTHS_AHEAD: Final = 12

_LOG: Final = f"{SCHEMA}.federation_audit_log"
_DEFAULT: Final = f"{_LOG}_default"
# As far as a partition's name has four digits for the year.
_STRAYED: Final = f"""
    SELECT DISTINCT date_trunc('month', to_timestamp(time_us / 1000000) AT TIME ZONE 'UTC')::date FROM {_DEFAULT}
    WHERE time_us >= 0 AND time_us < 253402300800000000"""  # noqa: S608 — a constant


def create_audit_partitions(connection: Connection) -> list[str]:
    """Create what is absent of last month's partition, this one's and the next 12. Return the names of those created.

    Last month's, because a row may be dated a day back. Rows that the default partition took meanwhile, because nobody upgraded in
    time, move to the month they belong to, whichever it is: what lies in none is never dropped, nor is what follows it.
    """
    today: date = connection.exec_driver_sql("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date").scalar_one()
    strayed = connection.exec_driver_sql(_STRAYED).scalars().all()
    created = []
    for month in sorted({*strayed, *(_add_months(today, ahead) for ahead in range(-1, MONTHS_AHEAD + 1))}):
        partition = f"{_LOG}_{month:%Y_%m}"
        if connection.exec_driver_sql("SELECT to_regclass(%s)", (partition,)).scalar_one() is None:
            _create(connection, partition, _microseconds(month), _microseconds(_add_months(month, 1)))
            created.append(partition)
    return created


def _create(connection: Connection, partition: str, start_us: int, end_us: int) -> None:
    connection.exec_driver_sql(f"CREATE TABLE {partition} (LIKE {_LOG} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    connection.exec_driver_sql(
        f"WITH moved AS (DELETE FROM {_DEFAULT} WHERE time_us >= {start_us} AND time_us < {end_us} RETURNING *)"  # noqa: S608 — integers
        f" INSERT INTO {partition} SELECT * FROM moved"
    )
    connection.exec_driver_sql(f"ALTER TABLE {_LOG} ATTACH PARTITION {partition} FOR VALUES FROM ({start_us}) TO ({end_us})")


def _add_months(day: date, months: int) -> date:
    """The first day of the month that is so many months later."""
    years, month = divmod(day.month - 1 + months, 12)
    return date(day.year + years, month + 1, 1)


def _microseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000
