    FROM page p
    -- OFFSET 0: by primary key, row by row. Left to itself the planner, which knows no LIMIT, may read the whole table to join it.
    CROSS JOIN LATERAL (SELECT {columns} FROM {table} t WHERE t.id = p.id OFFSET 0) r
    ORDER BY p.updated_at DESC, p.id;
