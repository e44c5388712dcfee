SELECT b.*
FROM {source}
CROSS JOIN LATERAL (
{branch}
) b
WHERE {where}
