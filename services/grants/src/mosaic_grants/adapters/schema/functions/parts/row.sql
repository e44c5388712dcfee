{row_by_id}
    SELECT {names},
{visibility}
    FROM (VALUES (true)) answer (is_one)
    LEFT JOIN LATERAL (
        SELECT {columns} FROM {table} t WHERE t.id = row_id AND EXISTS (SELECT FROM shown)
    ) w ON true;
