-- The rows of {table} that a live grant shows, newest first (updated_at descending, then id ascending in byte order).
--
-- Returns up to row_limit + 1 rows, fewer where their texts would exceed 1 MiB together, but at least up to the first that has any.
-- The same in every row: `budget` is how many rows the cap leaves to this query, this page included, or null where that is more than
-- a page; `found` is how many rows there were to return before their size counted, or null where they are all here. Mostly they say
-- nothing, and to send a null fifty times costs less.
--     page      = the first min(row_limit, budget) rows
--     more      = found > the page's length
--     truncated = more, and the page is budget rows long: the cap ends the query here
-- The next page starts after (updated_at_us, id) of the page's last row, with served grown by the page.
CREATE OR REPLACE FUNCTION federation.{function}(
    grant_id uuid, fingerprint bytea, row_limit integer, after_us bigint, after_id uuid, served integer
)
RETURNS TABLE ({result}, found integer, budget integer)
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    refusal text;
    subject uuid;
    granted jsonb;
    grant_end timestamptz;
    filter jsonb;
    personal boolean;
    before timestamptz;
    remaining integer;
    wanted integer;
BEGIN
{fresh_snapshot}
{live}
{keyset}
    IF (served >= 0) IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'MF020', MESSAGE = 'served must not be negative';
    END IF;
    remaining := greatest((granted ->> 'max_rows_per_query')::integer - served, 0);
    wanted := least(row_limit, remaining) + 1;
    IF remaining > row_limit THEN
        remaining := NULL;
    END IF;

    filter := granted -> 'filters' -> '{resource}';
    personal := coalesce((filter -> 'include_personal')::boolean, true);
    -- A first page has statements of its own: of half as many branches, and most pages are first ones.
    IF filter IS NULL AND after_us IS NULL THEN
{first_native}
    ELSIF filter IS NULL THEN
{next_native}
    ELSIF after_us IS NULL THEN
{first_filtered}
    ELSE
{next_filtered}
    END IF;
END
$function$;
