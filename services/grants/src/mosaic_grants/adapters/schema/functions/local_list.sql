-- The rows of {table} that an active local user natively sees, newest first. Returns up to row_limit + 1 rows, fewer where their texts
-- would exceed 1 MiB together, but at least up to the first that has any. `found`, the same in every row, is how many there were to return
-- before their size counted, or null where they are all here: more than the page holds says that there is more.
CREATE OR REPLACE FUNCTION federation.{function}(user_id uuid, row_limit integer, after_us bigint, after_id uuid)
RETURNS TABLE ({result}, found integer)
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    subject CONSTANT uuid := user_id;
    before timestamptz;
    wanted integer;
BEGIN
{fresh_snapshot}
{local_user}
{keyset}
    wanted := row_limit + 1;
    IF after_us IS NULL THEN
{first_native}
    ELSE
{next_native}
    END IF;
END
$function$;
