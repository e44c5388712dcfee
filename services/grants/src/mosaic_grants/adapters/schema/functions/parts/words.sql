    BEGIN
        asked := websearch_to_tsquery({configuration}, query);
    EXCEPTION WHEN internal_error THEN
        -- Its stack of operators is full (tsquery.c, STACKDEPTH): the query's fault, and no failure of this server, as any other is.
        IF SQLERRM <> 'tsquery stack too small' THEN
            RAISE;
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'MF021', MESSAGE = 'query cannot be parsed';
    END;
    -- Words too common to be indexed leave nothing to search for; that is no search for everything.
    IF numnode(asked) = 0 THEN
        asked := NULL;
    END IF;
    IF asked IS NOT NULL THEN
        -- They only narrow, so that the index yields no matches among everybody else's rows; whose a row is, is asked again below.
        -- The owner's lexeme only as far as own rows can be shown: the time of an answer would else tell of those that cannot.
        -- Null when nothing can be shown; then nothing matches.
        WITH
{included}
        SELECT string_agg(viewer.lexemes, ' | ')::tsquery
        INTO viewers
        FROM (
            SELECT quote_literal({owner_lexeme} || subject::text) WHERE everything OR personal
            UNION ALL
            SELECT quote_literal({team_lexeme} || m.team_id::text) FROM public.team_members m WHERE everything AND m.user_id = subject
            UNION ALL
            SELECT concat_ws(
                ' & ',
                quote_literal({team_lexeme} || i.team_id::text),
                CASE WHEN NOT i.is_member THEN quote_literal({owner_lexeme} || subject::text) END
            )
            FROM included i
        ) viewer (lexemes);
        -- The index knows no positions: asked for a phrase, it would have the text of every row parsed that has the words. So it is
        -- asked for the words (querytree leaves out what is negated, T when nothing is left), and the phrase is looked for below.
        phrased := asked::text ~ {phrase};
        narrowed := CASE
            WHEN NOT phrased THEN asked && viewers
            WHEN querytree(asked) = 'T' THEN viewers
            ELSE regexp_replace(querytree(asked), {phrase}, ' & ', 'g')::tsquery && viewers
        END;
    END IF;
