"""privileges.sql and locks.sql, read as data: applied by `upgrade`, checked at start, tried against in the tests."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Final

from sqlalchemy import Connection

from mosaic_grants.adapters.schema.names import APPLICATION_SCHEMA

_GRANT: Final = re.compile(
    r"GRANT (?P<verbs>[A-Z, ]+?)(?: \((?P<columns>[a-z0-9_, ]+)\))?"
    r" ON (?P<kind>TABLE|FUNCTION|SCHEMA) (?P<object>\S.*?)"
    r" TO (?P<role>[a-z_]+);"
)
_ON_APPLICATION: Final = re.compile(rf" ON (TABLE {APPLICATION_SCHEMA}\.|SCHEMA {APPLICATION_SCHEMA}\b)")


@dataclass(frozen=True, slots=True)
class Grant:
    """One GRANT line.

    Attributes:
        verbs: SELECT, EXECUTE, … .
        columns: empty where the grant is for the whole object.
        kind: TABLE, FUNCTION or SCHEMA.
        target: qualified; a function with its argument types.
    """

    statement: str
    verbs: tuple[str, ...]
    columns: tuple[str, ...]
    kind: str
    target: str
    role: str


def read_statements() -> tuple[str, ...]:
    """Every statement of privileges.sql, one per line, in order."""
    return _statements("privileges.sql")


def read_grants() -> tuple[Grant, ...]:
    """Every GRANT of privileges.sql.

    Raises:
        ValueError: a line that has not the one form; nothing may be granted that the checks do not see.
    """
    return tuple(_parse(statement) for statement in read_statements() if statement.startswith("GRANT"))


def read_lock_grants() -> tuple[Grant, ...]:
    """Every GRANT of locks.sql. Raises as read_grants."""
    return tuple(_parse(statement) for statement in _statements("locks.sql"))


def read_roles() -> str:
    """roles.sql, whole."""
    return _read("roles.sql")


def apply_privileges(connection: Connection, *, to_application: bool) -> None:
    """Make the privileges exactly those of privileges.sql; on the application's tables only where they are ours."""
    for statement in read_statements():
        if to_application or not _ON_APPLICATION.search(statement):
            connection.exec_driver_sql(statement)


def find_missing_grants(connection: Connection) -> tuple[Grant, ...]:
    """The lines of privileges.sql that are not in force. The caller needs USAGE on the schemas, and no more."""
    return tuple(grant for grant in read_grants() if not _is_in_force(connection, grant))


def _is_in_force(connection: Connection, grant: Grant) -> bool:
    return all(connection.exec_driver_sql(f"SELECT {check}", values).scalar() for check, values in _checks(grant))


def _checks(grant: Grant) -> Iterator[tuple[str, tuple[str, ...]]]:
    """SQL conditions with their parameters; null where the object does not exist."""
    for verb in grant.verbs:
        if grant.kind == "SCHEMA":
            yield "has_schema_privilege(%s, to_regnamespace(%s)::oid, %s)", (grant.role, grant.target, verb)
        elif grant.kind == "FUNCTION":
            yield "has_function_privilege(%s, to_regprocedure(%s)::oid, %s)", (grant.role, grant.target, verb)
        elif not grant.columns:
            yield "has_table_privilege(%s, to_regclass(%s)::oid, %s)", (grant.role, grant.target, verb)
        else:
            for column in grant.columns:
                attribute = (
                    "(SELECT attnum FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s AND NOT attisdropped)"
                )
                yield (
                    f"has_column_privilege(%s, to_regclass(%s)::oid, {attribute}, %s)",
                    (grant.role, grant.target, grant.target, column, verb),
                )


def _parse(statement: str) -> Grant:
    match = _GRANT.fullmatch(statement)
    if match is None:
        raise ValueError(f"not one grant of the form that is checked: {statement}")
    columns = match["columns"]
    return Grant(
        statement=statement,
        verbs=tuple(match["verbs"].split(", ")),
        columns=tuple(columns.split(", ")) if columns else (),
        kind=match["kind"],
        target=match["object"],
        role=match["role"],
    )


def _statements(name: str) -> tuple[str, ...]:
    lines = (line.strip() for line in _read(name).splitlines())
    return tuple(line for line in lines if line and not line.startswith("--"))


def _read(name: str) -> str:
    return resources.files("mosaic_grants.adapters.migrations").joinpath(name).read_text(encoding="utf-8")
