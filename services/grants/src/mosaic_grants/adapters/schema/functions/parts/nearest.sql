    IF embedding IS NOT NULL THEN
        IF (array_ndims(embedding) = 1 AND cardinality(embedding) = {dimension}) IS NOT TRUE
            OR EXISTS (SELECT FROM unnest(embedding) e (value) WHERE (abs(e.value) < 'infinity') IS NOT TRUE)
            OR 0 = ALL (embedding) THEN
            RAISE EXCEPTION USING ERRCODE = 'MF020', MESSAGE = 'embedding out of bounds';
        END IF;
        -- Of length 1: the squares of what a real can hold overflow it, or vanish.
        direction := public.l2_normalize(embedding::public.vector);
        near := greatest(wanted, {least_nearest});
        -- A row that two branches show counts twice here, and once below.
        WITH
{included}
        SELECT count(*) <= {exact_rows} INTO few
        FROM (
            SELECT FROM (
{embedded}
            ) s
            LIMIT {exact_rows} + 1
        ) bounded;
        IF few THEN
            WITH
{included}
            SELECT array_agg(n.id), array_agg(n.updated_at), array_agg(n.distance)
            INTO nearest_ids, nearest_times, nearest_distances
            FROM (
                SELECT DISTINCT s.* FROM (
{measured}
                ) s
                -- A stored embedding without a direction has the distance NaN, which is above every number.
                WHERE s.distance <= 2
                ORDER BY s.distance, s.id LIMIT near
            ) n;
        ELSE
            -- The scan goes on until it has yielded enough rows that are shown, or has looked at so many.
            PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true),
                set_config('hnsw.ef_search', '{explored}', true),
                set_config('hnsw.max_scan_tuples', '{most_scanned}', true);
            WITH
{included}
            SELECT array_agg(n.id), array_agg(n.updated_at), array_agg(n.distance)
            INTO nearest_ids, nearest_times, nearest_distances
            FROM (
                SELECT c.* FROM (
                    SELECT t.updated_at, t.id, t.{column} OPERATOR(public.<=>) direction AS distance
                    FROM {table} t
                    WHERE t.{column} IS NOT NULL AND {dated} AND EXISTS (
{this_row}
                    )
                    ORDER BY t.{column} OPERATOR(public.<=>) direction LIMIT near
                ) c
                WHERE c.distance <= 2
                ORDER BY c.distance, c.id
            ) n;
        END IF;
    END IF;
