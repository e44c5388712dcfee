-- Appends consecutive rows to the caller's open chain, all or none, and moves the chain's head.
--
-- What a row's place in the chain says (chain, number, hash of the row before) is not asked: it follows from the head and the order,
-- and the row's hash covers it. Rows that are there already, equal in every column, are accepted again and written once, so that a
-- COMMIT whose answer was lost can be retried. Anything else that does not continue the head is MF030.
-- A row that is not this writer's to write, or not of now, is MF032: a broken edge must not invent an operator's deed, a row that stays
-- the newest for years, nor one of a month long over. So is one that is dated before its chain's last: a month's end cuts a
-- chain at one place. A day behind is as long as a queue may have waited for this database.
-- A hash that is not the row's is MF033: what is countersigned must verify, or a broken edge could make the whole record look altered.
CREATE OR REPLACE FUNCTION federation.{function}(chain bytea, first_seq bigint, previous bytea, rows federation.audit_entry[])
RETURNS void
LANGUAGE plpgsql
VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    latest CONSTANT bigint := extract(epoch FROM clock_timestamp() + interval '5 minutes') * 1000000;
    earliest CONSTANT bigint := extract(epoch FROM clock_timestamp() - interval '1 day') * 1000000;
    amount CONSTANT integer := cardinality(rows);
    writer text;
    written integer;
    head record;
    found record;
BEGIN
    -- The head moves first, as far as the rows say: that is the lock by which a chain's writers take turns.
    -- session_user: whoever logged in; current_user is the definer.
    UPDATE federation.federation_audit_chains c
    SET head_seq = first_seq + amount - 1, head_hash = (rows[amount]).hash, head_time_us = (rows[amount]).time_us, moved = true
    WHERE c.chain_id = chain AND c.closed_at_us IS NULL AND 'mosaic_' || replace(c.writer, '-', '_') = session_user
        AND c.head_seq + 1 = first_seq AND c.head_hash = previous AND amount > 0 AND (c.head_time_us > (rows[1]).time_us) IS NOT TRUE
    RETURNING c.writer INTO writer;
    IF writer IS NOT NULL THEN
        INSERT INTO federation.federation_audit_log ({columns})
        SELECT {columns} FROM {placed} p
        WHERE p.is_own AND p.is_in_order AND p.is_of_now AND p.hash = {hash};
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written = amount THEN
            RETURN;
        END IF;

        SELECT bool_and(p.is_own IS TRUE) AS own, bool_and(p.is_in_order IS TRUE) AS in_order, bool_and(p.is_of_now IS TRUE) AS of_now
        INTO found
        FROM {placed} p;
        IF NOT found.own THEN
            RAISE EXCEPTION USING ERRCODE = 'MF032', MESSAGE = 'the rows are not this writer''s';
        ELSIF NOT found.in_order THEN
            RAISE EXCEPTION USING ERRCODE = 'MF032', MESSAGE = 'a row is dated before the one before it';
        ELSIF NOT found.of_now THEN
            RAISE EXCEPTION USING ERRCODE = 'MF032',
                MESSAGE = 'the rows are dated more than 5 minutes ahead of the database''s clock, or more than a day behind it';
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'MF033', MESSAGE = 'a hash is not that of its row';
    END IF;

    -- Locked, so that a retry's own commit waits as long as the first one has to, for a standby too. NO KEY: a row of
    -- federation_audit_heads, which refers to the chain, must not wait for a writer that keeps its transaction open.
    SELECT c.head_seq AS seq, c.head_hash AS hash, c.head_time_us AS time_us INTO head
    FROM federation.federation_audit_chains c
    WHERE c.chain_id = chain AND c.closed_at_us IS NULL AND 'mosaic_' || replace(c.writer, '-', '_') = session_user
    FOR NO KEY UPDATE;
    IF head IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'MF031', MESSAGE = 'the chain is not open to this writer';
    ELSIF amount > 0 AND head.seq + 1 = first_seq AND head.hash = previous AND head.time_us > (rows[1]).time_us THEN
        RAISE EXCEPTION USING ERRCODE = 'MF032', MESSAGE = 'the rows are dated before the chain''s last';
    ELSIF amount > 0 AND NOT EXISTS (
        SELECT {columns} FROM {placed} p
        EXCEPT
        SELECT {columns} FROM federation.federation_audit_log l WHERE l.chain_id = chain AND l.seq >= first_seq
    ) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'MF030', MESSAGE = 'the rows do not continue the chain';
END
$function$;
