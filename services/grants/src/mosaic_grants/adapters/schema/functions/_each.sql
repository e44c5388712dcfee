SELECT b.updated_at, b.id
FROM {source}
CROSS JOIN LATERAL (
{branch}
) b
WHERE {where}
