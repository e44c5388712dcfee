    WITH native AS MATERIALIZED (
{native}
    ),
{included},
    shown AS MATERIALIZED (
        SELECT n.* FROM native n WHERE everything
        UNION ALL
{filtered}
    )
