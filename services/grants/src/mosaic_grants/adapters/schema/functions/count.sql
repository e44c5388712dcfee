-- How many rows of {table} a user sees through a scope, through another, and through both; the last two are null without another.
-- Numbers and no row: paging through everything under a grant with that scope, and no cap, gives as many.
CREATE OR REPLACE FUNCTION federation.{function}(user_id uuid, scope jsonb, against jsonb)
RETURNS TABLE (visible bigint, visible_against bigint, visible_in_both bigint)
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET work_mem = '32MB'
AS $function$
DECLARE
    subject CONSTANT uuid := user_id;
    refusal text;
    filter jsonb;
    everything boolean;
    personal boolean;
    filter_against jsonb;
    everything_against boolean;
    personal_against boolean;
BEGIN
{fresh_snapshot}
{local_user}
    refusal := CASE
{granted}
    END;
{filter}
    refusal := CASE
{granted_against}
    END;
{filter_against}
    RETURN QUERY
    WITH
{included},
{included_against},
    shown AS MATERIALIZED (
        SELECT DISTINCT s.id FROM (
{shown}
        ) s
    )
    SELECT (SELECT count(*) FROM shown), CASE WHEN against IS NOT NULL THEN count(*) END, CASE WHEN against IS NOT NULL THEN count(s.id) END
    FROM (
        SELECT DISTINCT a.id FROM (
{shown_against}
        ) a
    ) other
    LEFT JOIN shown s ON s.id = other.id;
END
$function$;
