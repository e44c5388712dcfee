SELECT {columns}{source}
WHERE {visible}{condition}
