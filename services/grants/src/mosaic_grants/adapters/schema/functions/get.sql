-- One row of {table}, and what became of it: exactly one answer, whether it is there or not, by one and the same statement.
--
-- visibility: visible, and then the row; out_of_scope, when the subject natively sees it and the grant does not show it; not_visible,
-- when it is not there or not the subject's to see. Only a visible row fills the other columns. The cap hides no row from here.
CREATE OR REPLACE FUNCTION federation.{function}(grant_id uuid, fingerprint bytea, row_id uuid)
RETURNS TABLE ({result}, visibility text)
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
    everything boolean;
    personal boolean;
BEGIN
{fresh_snapshot}
{live}
{filter}
    RETURN QUERY
{row}
END
$function$;
