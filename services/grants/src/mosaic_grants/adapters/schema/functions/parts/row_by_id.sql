    -- By its key, before anybody asks whose it is: left to itself the planner looks for it among all rows of the subject.
    WITH asked AS MATERIALIZED (
        SELECT t.id, t.owner_id, t.team_id, t.updated_at FROM {table} t WHERE t.id = row_id AND {dated}
    ),
    native AS MATERIALIZED (
{native}
    ),
{included},
    shown AS MATERIALIZED (
        SELECT n.* FROM native n WHERE everything
        UNION ALL
{filtered}
    )
