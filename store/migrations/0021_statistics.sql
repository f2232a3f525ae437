-- What analytics are made of. How long the first token of a run took, from its start; NULL if nobody
-- was streamed one.
ALTER TABLE run ADD COLUMN first_token_ms int;

-- Ranges of time. Messages come in its order, to the end of the index. A run is written three times
-- over, each time to all of its indexes but those that only summarize stretches of the table.
CREATE INDEX message_by_time ON message (create_time);
CREATE INDEX run_by_time ON run USING brin (created_at)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX feedback_by_time ON feedback (create_time);

-- What a message says of its tokens, if it is a count: messages are what graphs make them.
CREATE FUNCTION token_count(said jsonb) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN jsonb_typeof(said) = 'number' AND said::numeric BETWEEN 0 AND 1e12
            THEN said::numeric::bigint
    END;
