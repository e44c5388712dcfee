-- Appends consecutive rows to the caller's open chain, all or none, and moves the chain's head.
--
-- rows: a JSON array of objects with the columns of federation_audit_log, bytea as '\x' and hexadecimal. JSON, because one text costs the
-- caller less to send than an array per column. Rows that are all there already, equal in every column, are accepted again and written
-- once, so that a COMMIT whose answer was lost can be retried. Anything else that does not continue the head is MF030.
-- A row that is not this writer's to write, or that lies in the future, is MF032: a broken edge must not invent an operator's deed, nor
-- a row that stays the newest for years. So is one that is dated before its chain's last: a month's end cuts a chain at one place.
CREATE OR REPLACE FUNCTION federation.{function}(chain bytea, first_seq bigint, previous bytea, rows json)
RETURNS void
LANGUAGE plpgsql
VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    latest CONSTANT bigint := extract(epoch FROM clock_timestamp() + interval '5 minutes') * 1000000;
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
                lag(r.time_us, 1, head.time_us) OVER in_order AS earliest
            FROM json_populate_recordset(NULL::federation.federation_audit_log, rows) r
            WINDOW in_order AS (ORDER BY r.seq)
        ),
        batch AS (
            SELECT p.*,
                (p.chain_id = chain AND p.seq = first_seq + p.place - 1 AND p.prev_hash = p.link) IS TRUE AS continues,
                p.time_us <= latest AND (p.time_us < p.earliest) IS NOT TRUE AND CASE head.writer
                    WHEN 'edge-inbound' THEN p.event = 'read'
                    WHEN 'edge-outbound' THEN p.event = 'query'
                    ELSE p.event NOT IN ('read', 'query')
                END AS is_permitted
            FROM placed p
        ),
        inserted AS (
            INSERT INTO federation.federation_audit_log ({columns}) SELECT {columns} FROM batch WHERE continues
        )
        SELECT count(*) AS amount, bool_and(b.continues) AS consecutive, bool_and(b.is_permitted) AS permitted,
            (array_agg(b.hash ORDER BY b.seq DESC))[1] AS hash, max(b.time_us) AS time_us
        INTO written
        FROM batch b;
        IF NOT written.permitted THEN
            RAISE EXCEPTION USING ERRCODE = 'MF032', MESSAGE = 'the rows are not for this writer to write now';
        END IF;
        IF written.consecutive THEN
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
