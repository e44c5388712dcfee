-- The rows of {table} that a live grant shows and that match a search, best first, then newest first, then by id (of rows equally near, by id).
--
-- query: words as for a web search{embedding_comment}.
-- rank: higher is better, comparable within one answer. snippet: words around the matches, each between ** and **; null without a query.
-- distance: cosine distance, where an embedding is given and the row has one.
-- Returns up to row_limit + 1 rows, fewer where their texts would exceed 1 MiB together, but at least up to the first that has any.
-- The same in every row: `budget` is the grant's cap; `found` is how many rows matched, up to {most_found}.
-- Ranked are the newest {most_ranked} matches, fewer where their texts would exceed {ranked_mib} MiB together.
-- A phrase is looked for in the newest {most_parsed} rows that have its words.
CREATE OR REPLACE FUNCTION federation.{function}(grant_id uuid, fingerprint bytea, query text, {embedding_parameter}row_limit integer)
RETURNS TABLE ({result}, rank double precision, snippet text, distance double precision, found integer, budget integer)
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET work_mem = '32MB'
AS $function$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    refusal text;
    subject uuid;
    granted jsonb;
    grant_end timestamptz;
    filter jsonb;
    everything boolean;
    personal boolean;
    cap integer;
    wanted integer;
{search_variables}
BEGIN
{fresh_snapshot}
{live}
{search_bounds}
{filter}
    cap := granted ->> 'max_rows_per_query';
    wanted := least(row_limit, cap) + 1;
{prepared}
    RETURN QUERY
{ranked}
    SELECT {answer}, cap
{rows}
END
$function$;
