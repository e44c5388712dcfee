    IF (row_limit BETWEEN 1 AND 500) IS NOT TRUE OR char_length(query) > {most_characters} OR num_nonnulls({asked_by}) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'MF020', MESSAGE = 'row_limit or query out of bounds';
    END IF;
