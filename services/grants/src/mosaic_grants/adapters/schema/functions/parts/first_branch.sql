(SELECT t.updated_at, t.id FROM {table} t
 WHERE {visible} AND {dated}
 ORDER BY t.updated_at DESC, t.id LIMIT wanted)
