    hits AS (
        SELECT b.* FROM by_words b
    )
