CASE
    WHEN EXISTS (SELECT FROM shown) THEN 'visible'
    WHEN EXISTS (SELECT FROM native) THEN 'out_of_scope'
    ELSE 'not_visible'
END
