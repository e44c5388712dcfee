"""Who sees what, branch by branch: the one place that says it (contracts.md, Native RBAC).

A branch is one condition that one index serves. What is read of the rows it shows is the caller's: a page, one row, all of them.
"""

from dataclasses import dataclass
from textwrap import indent
from typing import Final

from mosaic_grants.adapters.schema.functions.templates import part

DATED: Final = "t.updated_at >= timestamptz '0001-01-01 00:00:00+00' AND t.updated_at < timestamptz '10000-01-01 00:00:00+00'"
"""A time that has an int64; a row without one is shown by no list, and so by nothing else."""

_UNION: Final = "\nUNION ALL\n"


@dataclass(frozen=True, slots=True)
class Look:
    """What is read of the rows that a branch shows.

    Attributes:
        template: a part; ``visible`` is filled in.
        values: what else its placeholders take.
        fence: keeps the rows of each team a scan of their own.
    """

    template: str
    values: tuple[tuple[str, str], ...] = ()
    fence: str = ""

    def at(self, visible: str) -> str:
        return part(self.template, visible=visible, **dict(self.values))


def first_page_of(table: str) -> Look:
    """The newest rows."""
    return Look("first_branch", (("table", table), ("dated", DATED)))


def next_page_of(table: str) -> Look:
    """The first rows behind a keyset."""
    return Look("next_branch", (("table", table),))


def rows_of(table: str, columns: str, *conditions: str) -> Look:
    """All rows of a table that meet every condition, by index.

    The planner knows no team's size: a few of average size may seem to be the whole table, which it would then read to join it.
    """
    condition = "".join(f"\n    AND {each}" for each in conditions)
    return Look("branch", (("columns", columns), ("source", f"\nFROM {table} t"), ("condition", condition)), fence="\nOFFSET 0")


def found_rows(query: str) -> Look:
    """All rows of a named query that bears a table's base columns; it may be read whole."""
    return Look("branch", (("columns", "t.updated_at, t.id"), ("source", f"\nFROM {query} t"), ("condition", "")))


def this_row() -> Look:
    """The row t of the query around it."""
    return Look("branch", (("columns", "t.id"), ("source", ""), ("condition", "")))


def native(look: Look) -> str:
    """What the subject natively sees: rows they own, rows of the teams they are in now. A row may come from both."""
    return _UNION.join(
        (
            look.at("t.owner_id = subject"),
            _each("public.team_members m", look.at("t.team_id = m.team_id") + look.fence, where="m.user_id = subject"),
        )
    )


def filtered(look: Look, of: str = "") -> str:
    """Native visibility ∩ the filter. Of a team that the subject has left only rows they own remain natively visible.

    Args:
        of: what the names of the scope's variables end with.
    """
    return _UNION.join(
        (
            look.at(f"personal{of} AND t.owner_id = subject AND t.team_id IS NULL"),
            _each(f"included{of} i", look.at("t.team_id = i.team_id") + look.fence, where="i.is_member"),
            _each(
                f"included{of} i", look.at("t.team_id = i.team_id AND t.owner_id = subject") + look.fence, where="NOT i.is_member"
            ),
        )
    )


def included(of: str = "", *, spaces: int) -> str:
    """The teams that the filter names, for the WITH of every query that has `filtered` or `shown`; a team named twice is one."""
    return indent(part("included", of=of), " " * spaces)


def shown(look: Look, of: str = "") -> str:
    """What a scope shows, with a filter for the resource or without."""
    unfiltered = f"SELECT n.*\nFROM (\n{indent(native(look), '    ')}\n) n\nWHERE everything{of}"
    return _UNION.join((unfiltered, filtered(look, of)))


def _each(source: str, branch: str, *, where: str) -> str:
    return part("each", source=source, branch=indent(branch, "    "), where=where)
