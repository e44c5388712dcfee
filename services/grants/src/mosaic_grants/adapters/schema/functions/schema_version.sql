-- The migration at which this database stands; services refuse to start at another.
CREATE OR REPLACE FUNCTION federation.{function}()
RETURNS text
LANGUAGE plpgsql
STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RETURN (SELECT v.version_num FROM federation.alembic_version v);
END
$function$;
