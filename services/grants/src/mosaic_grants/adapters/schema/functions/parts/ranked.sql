    WITH
{included},
    -- MATERIALIZED: nothing is asked of a row before the index has found it. The planner, which knows neither the words nor the subject
    -- under a generic plan, would else read all rows of the subject and parse their texts.
    matches AS MATERIALIZED (
        SELECT t.id, t.owner_id, t.team_id, t.updated_at FROM {table} t WHERE {indexed} @@ narrowed AND {dated}
    ),
    seen AS (
{shown}
    ),
    newest AS MATERIALIZED (
        SELECT c.updated_at, c.id
        FROM (
            SELECT DISTINCT s.updated_at, s.id FROM seen s
            ORDER BY s.updated_at DESC, s.id LIMIT CASE WHEN phrased THEN {most_parsed} ELSE {most_found} END
        ) c
        WHERE NOT phrased OR (SELECT {words} @@ asked FROM {table} m WHERE m.id = c.id)
        ORDER BY c.updated_at DESC, c.id LIMIT {most_found}
    ),
    by_words AS MATERIALIZED (
        SELECT w.updated_at, w.key AS id, w.rank, row_number() OVER (ORDER BY w.rank DESC, w.updated_at DESC, w.key) AS position
        FROM (
            SELECT m.updated_at, m.key, ts_rank_cd({words}, asked, 32)::double precision AS rank
            FROM (
                SELECT r.*, n.updated_at, n.id AS key, row_number() OVER so_far AS place, sum(r.text_bytes) OVER so_far AS text_bytes_so_far
                FROM newest n
                CROSS JOIN LATERAL (SELECT {searched}, {searched_bytes} AS text_bytes FROM {table} t WHERE t.id = n.id OFFSET 0) r
                WINDOW so_far AS (ORDER BY n.updated_at DESC, n.id ROWS UNBOUNDED PRECEDING)
            ) m
            WHERE m.place <= {most_ranked} AND (m.place = 1 OR m.text_bytes_so_far <= {ranked_bytes})
        ) w
    ),
{hits},
    page AS (
        SELECT h.* FROM hits h ORDER BY h.rank DESC, h.updated_at DESC, h.id LIMIT wanted
    )
