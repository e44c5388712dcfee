"""What search and local_search share: full text, nearness to an embedding, or both as one order."""

from textwrap import indent
from typing import Final

from mosaic_common.resources import MAX_QUERY_CHARACTERS, Embedding, Resource

from mosaic_grants.adapters.schema import searched
from mosaic_grants.adapters.schema.functions import columns
from mosaic_grants.adapters.schema.functions.templates import part
from mosaic_grants.adapters.schema.functions.visibility import DATED, found_rows, included, rows_of, shown, this_row

MOST_RANKED: Final = 1_000
MOST_PARSED: Final = 5_000
"""In how many rows a phrase is looked for: the newest of those that have its words."""
RANKED_MIB: Final = 4
LEAST_NEAREST: Final = 200
"""How many nearest rows enter a fusion, however short the page."""
FUSION: Final = 60
"""k of reciprocal rank fusion, as its authors chose it."""

EXACT_ROWS: Final = 20_000
"""Up to so many embeddings that a scope shows, every distance is computed; above, the index is asked, which may miss some."""
EXPLORED: Final = 200
MOST_SCANNED: Final = 100_000

HEADLINE: Final = "StartSel=**, StopSel=**, MaxFragments=2, MaxWords=20, MinWords=5"


def search_parts(resource: Resource) -> dict[str, str]:
    """Each placeholder of search.sql and local_search.sql that a grant or a local user does not decide."""
    embedding = resource.embedding
    distance = f", nullif(t.{embedding.column} OPERATOR(public.<=>) direction, 'NaN') AS distance" if embedding else ""
    return {
        "table": resource.table,
        "result": columns.result(resource),
        "embedding_parameter": "embedding real[], " if embedding else "",
        "embedding_comment": "; embedding: a direction, of any length. One of them may be null" if embedding else "",
        "most_found": str(MOST_RANKED + 1),
        "most_ranked": str(MOST_RANKED),
        "most_parsed": str(MOST_PARSED),
        "ranked_mib": str(RANKED_MIB),
        "search_variables": part("search_variables") + ("\n" + part("nearest_variables") if embedding else ""),
        "search_bounds": part(
            "search_bounds",
            most_characters=str(MAX_QUERY_CHARACTERS),
            asked_by="query, embedding" if embedding else "query",
        ),
        "prepared": _words() + ("\n" + _nearest(resource, embedding) if embedding else ""),
        "ranked": _ranked(resource),
        "answer": _answer(resource),
        "rows": part(
            "rows",
            table=resource.table,
            columns=columns.values(resource) + distance,
            text_bytes=columns.text_bytes(resource.returned),
            page_bytes=str(columns.PAGE_BYTES),
        ),
    }


def _words() -> str:
    return part(
        "words",
        included=included(spaces=8),
        configuration=searched.CONFIGURATION,
        owner_lexeme=searched.OWNER_LEXEME,
        team_lexeme=searched.TEAM_LEXEME,
        phrase="' <(-|[0-9]+)> '",
    )


def _nearest(resource: Resource, embedding: Embedding) -> str:
    distance = f"t.{embedding.column} OPERATOR(public.<=>) direction AS distance"
    conditions = (f"t.{embedding.column} IS NOT NULL", DATED)
    return part(
        "nearest",
        table=resource.table,
        column=embedding.column,
        dimension=str(embedding.dimension),
        included=included(spaces=12),
        dated=DATED,
        embedded=indent(shown(rows_of(resource.table, "", *conditions)), " " * 16),
        measured=indent(shown(rows_of(resource.table, f"t.updated_at, t.id, {distance}", *conditions)), " " * 20),
        this_row=indent(shown(this_row()), " " * 24),
        least_nearest=str(LEAST_NEAREST),
        exact_rows=str(EXACT_ROWS),
        explored=str(EXPLORED),
        most_scanned=str(MOST_SCANNED),
    )


def _ranked(resource: Resource) -> str:
    nearest = "nearest" if resource.embedding else "no_embedding"
    return part(
        "ranked",
        table=resource.table,
        included=included(spaces=4),
        dated=DATED,
        indexed=searched.words_and_viewers(resource, "t."),
        words=searched.words(resource, "m."),
        searched=", ".join(f"t.{column.name}" for column in resource.searchable),
        searched_bytes=columns.text_bytes(resource.searchable),
        shown=indent(shown(found_rows("matches")), " " * 8),
        hits=part(f"hits_{nearest}", fusion=str(FUSION)) if resource.embedding else part(f"hits_{nearest}"),
        most_found=str(MOST_RANKED + 1),
        most_parsed=str(MOST_PARSED),
        most_ranked=str(MOST_RANKED),
        ranked_bytes=str(RANKED_MIB * 1024 * 1024),
    )


def _answer(resource: Resource) -> str:
    distance = "w.distance" if resource.embedding else "NULL::double precision"
    snippet = f"ts_headline({searched.CONFIGURATION}, {searched.document(resource, 'w.')}, asked, '{HEADLINE}')"
    found = "(SELECT count(*) FROM hits) + (SELECT count(*) FROM newest) - (SELECT count(*) FROM by_words)"
    return f"{columns.names(resource)}, w.rank,\n        {snippet}, {distance},\n        least({found}, {MOST_RANKED + 1})::integer"
