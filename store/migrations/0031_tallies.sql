-- What analytics have counted in advance: of each thread, by quarters of an hour and by model. No time
-- zone's day begins within one. Made beside the runs, by whoever looks for threads that have settled
-- (store/tallies.py), and right to the last row: of threads that changed since, messages are read.

-- How a thread was when it was counted. Whatever changes its messages or its runs changes one of these
-- three, or says that it is stale.
CREATE TABLE tally_thread (
    thread_id text NOT NULL,
    checkpoint_id text,
    message_count int,
    updated_at timestamptz,
    is_stale boolean NOT NULL DEFAULT false,
    CONSTRAINT tally_thread_pkey PRIMARY KEY (thread_id),
    CONSTRAINT tally_thread_thread_id_fkey
        FOREIGN KEY (thread_id) REFERENCES thread ON DELETE CASCADE
);
CREATE INDEX tally_thread_stale ON tally_thread (thread_id) WHERE is_stale;

CREATE TABLE tally (
    thread_id text NOT NULL,
    -- since 1970, in UTC
    quarter int NOT NULL,
    -- of the answers, and of the runs by their last answers; messages that are none are with any of them
    model text,
    messages int NOT NULL,
    answers int NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    runs int NOT NULL,
    failed_runs int NOT NULL,
    -- of each run, in no order
    first_token_ms int[] NOT NULL,
    total_ms int[] NOT NULL,
    CONSTRAINT tally_thread_id_fkey
        FOREIGN KEY (thread_id) REFERENCES tally_thread ON DELETE CASCADE
);
CREATE UNIQUE INDEX tally_place ON tally (thread_id, quarter, model) NULLS NOT DISTINCT;
CREATE INDEX tally_by_time ON tally (quarter);

-- One row: threads that were touched before have been counted, but those that are busy or stale.
CREATE TABLE tally_progress (
    is_only boolean NOT NULL DEFAULT true CHECK (is_only),
    touched_at timestamptz NOT NULL DEFAULT 'epoch',
    CONSTRAINT tally_progress_pkey PRIMARY KEY (is_only)
);
INSERT INTO tally_progress DEFAULT VALUES;

CREATE FUNCTION quarter_of(at timestamptz) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN floor(extract(epoch FROM at) / 900)::int;

-- Whole ones, and 24 days at the most.
CREATE FUNCTION milliseconds(of interval) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN round(least(1000 * extract(epoch FROM of), 2147483647))::int;
