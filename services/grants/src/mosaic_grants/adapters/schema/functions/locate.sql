-- What get_{resource} would say of a row under a scope that need not be any grant's: visible, out_of_scope or not_visible; never the row.
CREATE OR REPLACE FUNCTION federation.{function}(user_id uuid, scope jsonb, row_id uuid)
RETURNS text
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
AS $function$
DECLARE
    subject CONSTANT uuid := user_id;
    refusal text;
    filter jsonb;
    everything boolean;
    personal boolean;
BEGIN
{fresh_snapshot}
{local_user}
    refusal := CASE
{granted}
    END;
{filter}
    RETURN (
{row_by_id}
    SELECT
{visibility}
    );
END
$function$;
