included{of} AS MATERIALIZED (
    SELECT named.team_id, EXISTS (
        SELECT FROM public.team_members m WHERE m.user_id = subject AND m.team_id = named.team_id
    ) AS is_member
    FROM (
        SELECT DISTINCT value::uuid AS team_id
        FROM jsonb_array_elements_text(coalesce(filter{of} -> 'include_teams', '[]'))
    ) named
)
