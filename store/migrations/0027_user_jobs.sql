-- What is to be done with all that is a user's: deleted, or put into a file; and what came of it.
CREATE TABLE user_job (
    user_job_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('erasure', 'export')),
    user_id text NOT NULL,
    -- the identity of who asked for it; empty where nobody is authenticated
    actor text NOT NULL,
    -- by resource, which rows whoever asked may touch: as their metadata must contain
    visible jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'success', 'error')),
    -- of an export: what is in the file already, and of how many parts that is
    position jsonb NOT NULL DEFAULT '{}',
    part_count int NOT NULL DEFAULT 0,
    -- how many of what
    report jsonb NOT NULL DEFAULT '{}',
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_job_pkey PRIMARY KEY (user_job_id)
);
-- One of a kind at a time.
CREATE UNIQUE INDEX user_job_under_way ON user_job (kind, user_id)
    WHERE status IN ('pending', 'running');
CREATE INDEX user_job_of ON user_job (user_id, kind, created_at);
CREATE INDEX user_job_updated ON user_job (updated_at);

-- The file of an export.
CREATE TABLE user_job_part (
    user_job_id uuid NOT NULL,
    number int NOT NULL,
    content bytea STORAGE EXTERNAL NOT NULL,
    CONSTRAINT user_job_part_pkey PRIMARY KEY (user_job_id, number),
    CONSTRAINT user_job_part_user_job_id_fkey
        FOREIGN KEY (user_job_id) REFERENCES user_job ON DELETE CASCADE
);
