-- A thread that cannot be counted is read instead, and tried again late: nothing else waits for it.
ALTER TABLE tally_thread ADD COLUMN retry_at timestamptz;

-- By which model a message is told of. Whoever writes a state writes it, as long as it likes: the index
-- of tallies takes so much of it.
CREATE FUNCTION model_of(meta_data jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN left(meta_data #>> '{response_metadata,model_name}', 256);

-- Names were whole before, and runs may have been told by the answers of their copies.
SELECT FROM tally_progress FOR UPDATE;
UPDATE tally_thread SET is_stale = true;
