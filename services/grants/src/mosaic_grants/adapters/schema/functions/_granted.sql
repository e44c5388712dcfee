WHEN (g.scope -> 'resources' ? '{resource}') IS NOT TRUE THEN 'MF009'
WHEN g.scope -> 'excluded_resources' ? '{resource}' THEN 'MF009'
