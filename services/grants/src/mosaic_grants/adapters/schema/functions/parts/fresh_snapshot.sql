    -- An older snapshot would outlive a revocation, and only an edge that is broken would ask for one.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = 'MF020', MESSAGE = 'read functions need READ COMMITTED';
    END IF;
