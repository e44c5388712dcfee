"""What a search looks in: the text of a row, and the index over it that also says whose the row is.

Text and visibility are one index: beside its words every row has a lexeme for its owner and one for its team, so that a user's
search among everybody else's rows is an intersection inside the index. They begin with a space, which no word of any text does.

The expressions are IMMUTABLE, each exactly as the index has it: the planner uses the index for nothing else.
"""

from typing import Final

from mosaic_common.resources import TEXT_SEARCH_CONFIGURATION, Resource

CONFIGURATION: Final = f"'pg_catalog.{TEXT_SEARCH_CONFIGURATION}'"
CHARACTERS: Final = 65_536
"""How much of a row is searched. A tsvector holds less than 1 MiB, and a long text must not make the application's INSERT fail."""

OWNER_LEXEME: Final = "' owner:'"
TEAM_LEXEME: Final = "' team:'"


def document(resource: Resource, row: str) -> str:
    """SQL for the searched text of a row that goes by this alias, or by none."""
    # left() of each column first: of a text that is stored elsewhere it fetches no more than it needs.
    texts = " || ' ' || ".join(f"coalesce(left({row}{column.name}, {CHARACTERS}), '')" for column in resource.searchable)
    return f"left({texts}, {CHARACTERS})"


def words(resource: Resource, row: str) -> str:
    """SQL for the tsvector of a row's text."""
    return f"to_tsvector({CONFIGURATION}, {document(resource, row)})"


def words_and_viewers(resource: Resource, row: str) -> str:
    """SQL for the tsvector that is indexed."""
    viewers = f"ARRAY[{OWNER_LEXEME} || {row}owner_id::text, {TEAM_LEXEME} || {row}team_id::text]"
    return f"({words(resource, row)} || array_to_tsvector(array_remove({viewers}, NULL)))"
