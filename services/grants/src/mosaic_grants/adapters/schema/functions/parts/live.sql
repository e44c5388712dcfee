    -- Every lock in one look, in the snapshot that also gives the rows. The order decides which refusal is heard (architecture.md, step 4).
    SELECT
        CASE
            WHEN g.status = 'pending' THEN 'MF001'
            WHEN c.state IS NULL THEN 'MF002'
            WHEN g.status = 'revoked' THEN 'MF003'
            WHEN g.status = 'expired' OR g.expires_at <= moment THEN 'MF004'
            WHEN (g.status = 'active') IS NOT TRUE THEN 'MF001'
            WHEN (p.state = 'active') IS NOT TRUE THEN 'MF005'
            WHEN (c.state = 'active' OR (c.state = 'superseded' AND c.superseded_at >= moment - interval '24 hours')) IS NOT TRUE THEN 'MF006'
            WHEN (c.not_after >= moment) IS NOT TRUE THEN 'MF007'
            WHEN u.active IS NOT TRUE THEN 'MF008'{resource_check}
        END,
        g.subject_user_id, g.scope, g.expires_at
    INTO refusal, subject, granted, grant_end
    FROM federation.federation_grants g
    JOIN federation.federation_peers p ON p.id = g.peer_id
    LEFT JOIN federation.federation_certificates c ON c.grant_id = g.id AND c.fingerprint_sha256 = {function}.fingerprint
    LEFT JOIN public.users u ON u.id = g.subject_user_id
    WHERE g.id = {function}.grant_id;
    IF NOT FOUND THEN
        refusal := 'MF001';
    END IF;
    IF refusal IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = refusal, MESSAGE = 'refused';
    END IF;
