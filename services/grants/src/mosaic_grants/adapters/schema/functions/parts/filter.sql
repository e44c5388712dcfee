    -- A scope without a filter for the resource shows all that the subject natively sees; one that refuses it, nothing.
    filter{of} := CASE WHEN refusal IS NULL THEN {scope} -> 'filters' -> '{resource}' END;
    everything{of} := refusal IS NULL AND filter{of} IS NULL;
    personal{of} := filter{of} IS NOT NULL AND coalesce((filter{of} -> 'include_personal')::boolean, true);
