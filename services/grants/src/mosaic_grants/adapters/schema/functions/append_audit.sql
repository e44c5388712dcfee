-- Appends consecutive rows to the caller's open chain, all or none, and moves the chain's head.
--
-- rows: a JSON array of objects with the columns of federation_audit_log, bytea as '\x' and hexadecimal. JSON, because one text costs the
-- caller less to send than an array per column. Rows that are all there already, equal in every column, are accepted again and written
-- once, so that a COMMIT whose answer was lost can be retried. Anything else that does not continue the head is MF030.
-- A row that is not this writer's to write, or not of now, is MF032: a broken edge must not invent an operator's deed, a row that stays
-- the newest for years, nor one of a month long over. So is one that is dated before its chain's last: a month's end cuts a
-- chain at one place. A day behind is as long as a queue may have waited for this database.
-- A hash that is not the row's is MF033: what is countersigned must verify, or a broken edge could make the whole record look altered.
CREATE OR REPLACE FUNCTION federation.{function}(chain bytea, first_seq bigint, previous bytea, rows json)
RETURNS void
LANGUAGE plpgsql
VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    latest CONSTANT bigint := extract(epoch FROM clock_timestamp() + interval '5 minutes') * 1000000;
    earliest CONSTANT bigint := extract(epoch FROM clock_timestamp() - interval '1 day') * 1000000;
    head record;
    written record;
BEGIN
    -- The lock makes a chain's writers take turns. session_user: whoever logged in; current_user is the definer.
    -- NO KEY: a row of federation_audit_heads, which refers to the chain, must not wait for a writer that keeps its transaction open.
    SELECT c.head_seq AS seq, c.head_hash AS hash, c.head_time_us AS time_us, c.writer INTO head
    FROM federation.federation_audit_chains c
    WHERE c.chain_id = chain AND c.closed_at_us IS NULL AND 'mosaic_' || replace(c.writer, '-', '_') = session_user
    FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'MF031', MESSAGE = 'the chain is not open to this writer';
    END IF;

    IF head.seq + 1 = first_seq AND head.hash = previous THEN
        WITH placed AS (
            SELECT r.*, row_number() OVER in_order AS place, lag(r.hash, 1, previous) OVER in_order AS link,
                lag(r.time_us, 1, head.time_us) OVER in_order AS not_before
            FROM json_populate_recordset(NULL::federation.federation_audit_log, rows) r
            WINDOW in_order AS (ORDER BY r.seq)
        ),
        batch AS (
            SELECT p.*,
                (p.chain_id = chain AND p.seq = first_seq + p.place - 1 AND p.prev_hash = p.link) IS TRUE AS continues,
                (p.time_us < p.not_before) IS NOT TRUE AND CASE head.writer
                    WHEN 'edge-inbound' THEN p.event = 'read'
                    WHEN 'edge-outbound' THEN p.event = 'query'
                    ELSE p.event NOT IN ('read', 'query')
                END AS is_permitted,
                p.time_us BETWEEN earliest AND latest AS is_of_now,
                (p.hash = {hash}) IS TRUE AS is_intact
            FROM placed p
        ),
        inserted AS (
            INSERT INTO federation.federation_audit_log ({columns}) SELECT {columns} FROM batch WHERE continues
        )
        SELECT count(*) AS amount, bool_and(b.continues) AS consecutive, bool_and(b.is_permitted) AS permitted,
            bool_and(b.is_of_now) AS of_now, bool_and(b.is_intact) AS intact,
            (array_agg(b.hash ORDER BY b.seq DESC))[1] AS hash, max(b.time_us) AS time_us
        INTO written
        FROM batch b;
        IF NOT written.permitted THEN
            RAISE EXCEPTION USING ERRCODE = 'MF032', MESSAGE = 'the rows are not this writer''s, or dated before the chain''s last';
        END IF;
        IF NOT written.of_now THEN
            RAISE EXCEPTION USING ERRCODE = 'MF032',
                MESSAGE = 'the rows are dated more than 5 minutes ahead of the database''s clock, or more than a day behind it';
        END IF;
        IF written.consecutive THEN
            IF NOT written.intact THEN
                RAISE EXCEPTION USING ERRCODE = 'MF033', MESSAGE = 'a hash is not that of its row';
            END IF;
            UPDATE federation.federation_audit_chains c
            SET head_seq = first_seq + written.amount - 1, head_hash = written.hash, head_time_us = written.time_us, moved = true
            WHERE c.chain_id = chain;
            RETURN;
        END IF;
    ELSIF first_seq <= head.seq AND json_array_length(rows) > 0 AND NOT EXISTS (
        SELECT {columns} FROM json_populate_recordset(NULL::federation.federation_audit_log, rows)
        EXCEPT
        SELECT {columns} FROM federation.federation_audit_log l WHERE l.chain_id = chain AND l.seq >= first_seq
    ) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'MF030', MESSAGE = 'the rows do not continue the chain';
END
$function$;
