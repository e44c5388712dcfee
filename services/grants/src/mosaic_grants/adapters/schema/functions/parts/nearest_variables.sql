    direction public.vector;
    near integer;
    few boolean;
    -- The rows nearest to the embedding, nearest first; null without one.
    nearest_ids uuid[];
    nearest_times timestamptz[];
    nearest_distances double precision[];
