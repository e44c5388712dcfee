    FROM (
        SELECT r.*, p.updated_at, p.id AS key, p.rank, sum(r.text_bytes) OVER so_far AS text_bytes_so_far
        FROM page p
        -- OFFSET 0: by primary key, row by row. Left to itself the planner, which knows no LIMIT, may read the whole table to join it.
        -- octet_length of a text that is stored elsewhere knows its length without fetching it.
        CROSS JOIN LATERAL (SELECT {columns}, {text_bytes} AS text_bytes FROM {table} t WHERE t.id = p.id OFFSET 0) r
        WINDOW so_far AS (ORDER BY p.rank DESC, p.updated_at DESC, p.id ROWS UNBOUNDED PRECEDING)
    ) w
    -- What no page can hold is neither fetched nor sent: 500 large rows would be the memory of whoever asks, and of this server.
    -- Of the first row that has any, its texts are all so far.
    WHERE w.text_bytes_so_far <= {page_bytes} OR w.text_bytes_so_far = w.text_bytes
    ORDER BY w.rank DESC, w.updated_at DESC, w.key;
