-- Full-text search. A projection of `message` made beside the runs, by whoever looks for threads
-- that changed (store/search.py); its statements are no part of a commit, and no foreign key checks
-- or locks the thread for them: what is deleted is deleted by name, and hits are joined with what is.

-- How far a thread is in the index: the checkpoint and the name that it was last read at.
CREATE TABLE search_thread (
    thread_id text NOT NULL,
    checkpoint_id text,
    name text,
    CONSTRAINT search_thread_pkey PRIMARY KEY (thread_id)
);

-- Numbers rise: what was indexed later is found first.
CREATE SEQUENCE search_number;

-- A message, or (seq -1) the name of a session, as its terms.
CREATE TABLE search_message (
    number bigint NOT NULL,
    conversation_id text NOT NULL,
    seq int NOT NULL,
    role text NOT NULL,
    create_time timestamptz NOT NULL,
    -- the message's update_time when it was read
    update_time timestamptz NOT NULL,
    -- Each term begins with the number's segment of 32,768: a search walks through the segments,
    -- newest first, and ends when it has found enough, so that a word which half of all messages
    -- have costs no more than a rare one. Only the newest segment's part of the index is written.
    terms tsvector NOT NULL,
    CONSTRAINT search_message_pkey PRIMARY KEY (number),
    CONSTRAINT search_message_place UNIQUE (conversation_id, seq)
);
-- Without a list of pending entries, which every search would read from end to end.
CREATE INDEX search_message_terms ON search_message USING gin (terms) WITH (fastupdate = off);

-- One row: threads that were touched before are in the index; and when nothing was left to do last.
CREATE TABLE search_progress (
    is_only boolean NOT NULL DEFAULT true CHECK (is_only),
    touched_at timestamptz NOT NULL DEFAULT 'epoch',
    caught_up_at timestamptz,
    CONSTRAINT search_progress_pkey PRIMARY KEY (is_only)
);
INSERT INTO search_progress DEFAULT VALUES;
