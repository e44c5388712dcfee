(
    SELECT r.*, chain AS chain_id, first_seq + r.place - 1 AS seq,
        CASE r.place WHEN 1 THEN previous ELSE (rows[r.place - 1]).hash END AS prev_hash,
        CASE writer
            WHEN 'edge-inbound' THEN r.event = 'read'
            WHEN 'edge-outbound' THEN r.event = 'query'
            ELSE r.event NOT IN ('read', 'query')
        END AS is_own,
        r.place = 1 OR (rows[r.place - 1]).time_us <= r.time_us AS is_in_order,
        r.time_us BETWEEN earliest AND latest AS is_of_now
    FROM unnest(rows) WITH ORDINALITY r({entry}, place)
)
