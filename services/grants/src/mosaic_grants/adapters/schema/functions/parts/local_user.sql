    IF NOT EXISTS (SELECT FROM public.users u WHERE u.id = subject AND u.active) THEN
        RAISE EXCEPTION USING ERRCODE = 'MF008', MESSAGE = 'refused';
    END IF;
