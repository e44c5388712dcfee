    IF (row_limit BETWEEN 1 AND 500) IS NOT TRUE
        OR num_nulls(after_us, after_id) = 1
        OR after_us NOT BETWEEN -62135596800000000 AND 253402300799999999 THEN
        RAISE EXCEPTION USING ERRCODE = 'MF020', MESSAGE = 'row_limit or keyset out of bounds';
    END IF;
    -- Seconds and micros apart: an interval is multiplied as double precision, which is exact for each of them and not for both at once.
    before := timestamptz 'epoch' + (after_us / 1000000) * interval '1 second' + (after_us % 1000000) * interval '1 microsecond';
