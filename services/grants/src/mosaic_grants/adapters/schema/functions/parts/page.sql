    RETURN QUERY
    WITH
{teams}    seen AS (
{seen}
    ),
    page AS (
        -- The newest of each branch hold the newest of all.
        SELECT {distinct}s.updated_at, s.id FROM seen s ORDER BY s.updated_at DESC, s.id LIMIT wanted
    ),
    -- As they are stored: a text that is stored elsewhere is fetched only for a row that is returned, and octet_length knows it unfetched.
    -- OFFSET 0: by primary key, row by row. Left to itself the planner, which knows no LIMIT, may read the whole table to join it.
    rows AS MATERIALIZED (
        SELECT r.*
        FROM page p
        CROSS JOIN LATERAL (SELECT {stored}, {text_bytes} AS text_bytes FROM {table} t WHERE t.id = p.id OFFSET 0) r
    )
    -- In the order of the page, which a nested loop, a materialized query and a scan of it all keep; to say it would sort them again.
    SELECT {values}, nullif(whole.found, whole.fitting)::integer{beside}
    FROM (
        -- What no page can hold is neither fetched nor sent: 500 large rows would be the memory of whoever asks, and of this server.
        -- Seldom are there too many bytes, so only then are they added up row by row. Of the first row that has any, they are all so far.
        SELECT count(*) AS found, CASE WHEN sum(r.text_bytes) <= {page_bytes} THEN count(*) ELSE (
            SELECT count(*)
            FROM (SELECT r.text_bytes, sum(r.text_bytes) OVER (ROWS UNBOUNDED PRECEDING) AS text_bytes_so_far FROM rows r) s
            WHERE s.text_bytes_so_far <= {page_bytes} OR s.text_bytes_so_far = s.text_bytes
        ) END AS fitting
        FROM rows r
    ) whole
    CROSS JOIN LATERAL (SELECT * FROM rows LIMIT whole.fitting) t;
