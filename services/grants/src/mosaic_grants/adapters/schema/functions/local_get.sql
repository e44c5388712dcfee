-- One row of {table} as an active local user natively sees it: exactly one answer, visible with the row, or not_visible and nothing else.
CREATE OR REPLACE FUNCTION federation.{function}(user_id uuid, row_id uuid)
RETURNS TABLE ({result}, visibility text)
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    subject CONSTANT uuid := user_id;
    filter CONSTANT jsonb := NULL;
    everything CONSTANT boolean := true;
    personal CONSTANT boolean := false;
BEGIN
{fresh_snapshot}
{local_user}
    RETURN QUERY
{row}
END
$function$;
