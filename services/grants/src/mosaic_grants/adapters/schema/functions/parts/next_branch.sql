-- What shares the last page's time, then what is older: each a range of the index, however many rows share one time.
(SELECT t.updated_at, t.id FROM {table} t
 WHERE {visible} AND t.updated_at = before AND t.id > after_id
 ORDER BY t.id LIMIT wanted)
UNION ALL
(SELECT t.updated_at, t.id FROM {table} t
 WHERE {visible} AND t.updated_at < before AND t.updated_at >= timestamptz '0001-01-01 00:00:00+00'
 ORDER BY t.updated_at DESC, t.id LIMIT wanted)
