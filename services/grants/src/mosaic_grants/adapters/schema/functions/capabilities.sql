-- What a live grant allows: its scope as JSON text, its end (null: none), its cap. Answered whatever the scope.
CREATE OR REPLACE FUNCTION federation.{function}(grant_id uuid, fingerprint bytea)
RETURNS TABLE (scope text, expires_at_us bigint, cap integer)
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
BEGIN
{fresh_snapshot}
{live}
    RETURN QUERY
    SELECT granted::text, (extract(epoch FROM grant_end) * 1000000)::bigint, (granted ->> 'max_rows_per_query')::integer;
END
$function$;
