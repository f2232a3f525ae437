-- How long threads are kept, and how many checkpoints.

-- The life of a thread that was given one; it begins anew with each use of the thread.
CREATE TABLE thread_ttl (
    thread_id text NOT NULL,
    strategy text NOT NULL CHECK (strategy IN ('delete', 'keep_latest')),
    ttl_minutes double precision NOT NULL CHECK (ttl_minutes > 0),
    -- When to look at the thread next: its end, had it not been used since.
    due_at timestamptz NOT NULL,
    CONSTRAINT thread_ttl_pkey PRIMARY KEY (thread_id),
    CONSTRAINT thread_ttl_thread_id_fkey
        FOREIGN KEY (thread_id) REFERENCES thread ON DELETE CASCADE
);
CREATE INDEX thread_ttl_due ON thread_ttl (due_at);

-- Checkpoints of the root namespace: written since the thread was pruned, and kept then.
ALTER TABLE thread ADD COLUMN checkpoint_count int NOT NULL DEFAULT 0;
