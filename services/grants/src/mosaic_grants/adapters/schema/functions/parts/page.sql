    RETURN QUERY
    WITH
{teams}    seen AS (
{seen}
    ),
    page AS (
        -- The newest of each branch hold the newest of all; a row that two branches gave is one row.
        SELECT DISTINCT s.updated_at, s.id FROM seen s ORDER BY s.updated_at DESC, s.id LIMIT wanted
    )
    SELECT {names}, (SELECT count(*) FROM page)::integer{beside}
{rows}
