    by_distance AS (
        SELECT u.* FROM unnest(nearest_ids, nearest_times, nearest_distances) WITH ORDINALITY u (id, updated_at, distance, position)
    ),
    hits AS MATERIALIZED (
        SELECT coalesce(b.id, d.id) AS id, coalesce(b.updated_at, d.updated_at) AS updated_at,
            CASE
                WHEN nearest_ids IS NULL THEN b.rank
                WHEN asked IS NULL THEN 1 - d.distance
                -- Reciprocal rank fusion: a rank and a distance cannot be compared, their positions can.
                ELSE coalesce(1.0 / ({fusion} + b.position), 0) + coalesce(1.0 / ({fusion} + d.position), 0)
            END::double precision AS rank
        FROM by_words b FULL JOIN by_distance d ON d.id = b.id
    )
