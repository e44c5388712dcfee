WHEN ({scope} -> 'resources' ? '{resource}') IS NOT TRUE THEN 'MF009'
WHEN {scope} -> 'excluded_resources' ? '{resource}' THEN 'MF009'
WHEN jsonb_typeof({scope} -> 'filters' -> '{resource}') <> 'object' THEN 'MF009'
