-- The rows of {table} that an active local user natively sees and that match a search; as search_{resource}, without a cap.
CREATE OR REPLACE FUNCTION federation.{function}(user_id uuid, query text, {embedding_parameter}row_limit integer)
RETURNS TABLE ({result}, rank double precision, snippet text, distance double precision, found integer)
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET work_mem = '32MB'
AS $function$
DECLARE
    subject CONSTANT uuid := user_id;
    filter CONSTANT jsonb := NULL;
    everything CONSTANT boolean := true;
    personal CONSTANT boolean := false;
    wanted integer;
{search_variables}
BEGIN
{fresh_snapshot}
{local_user}
{search_bounds}
    wanted := row_limit + 1;
{prepared}
    RETURN QUERY
{ranked}
    SELECT {answer}
{rows}
END
$function$;
