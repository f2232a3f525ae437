-- Links to a session, for whoever has them. They go with the session.
CREATE TABLE share (
    share_id uuid NOT NULL,
    thread_id text NOT NULL,
    -- of the token, which nobody keeps but who was given it
    token_hash bytea NOT NULL,
    mode text NOT NULL CHECK (mode IN ('snapshot', 'live')),
    -- salted and slow; NULL: no password
    password_hash text,
    -- of a snapshot: what the session was called, and which checkpoint was its newest
    name text,
    checkpoint_id text,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    -- wrong passwords since a time
    failed_count int NOT NULL DEFAULT 0,
    failed_since timestamptz,
    CONSTRAINT share_pkey PRIMARY KEY (share_id),
    CONSTRAINT share_token_hash_key UNIQUE (token_hash),
    CONSTRAINT share_thread_id_fkey FOREIGN KEY (thread_id) REFERENCES thread ON DELETE CASCADE
);
CREATE INDEX share_by_thread ON share (thread_id, created_at);

-- What a snapshot shows: the session's own rows may be edited, pruned or on another branch by now.
CREATE TABLE share_message (
    share_id uuid NOT NULL,
    seq int NOT NULL,
    id text NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    message_type text NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT share_message_pkey PRIMARY KEY (share_id, seq),
    CONSTRAINT share_message_share_id_fkey
        FOREIGN KEY (share_id) REFERENCES share ON DELETE CASCADE
);

-- A file of conversations that is being taken in, and what came of it.
CREATE TABLE import (
    import_id uuid NOT NULL,
    -- whose it is: nobody else sees it. NULL where nobody is authenticated.
    owner text,
    -- as whom the sessions are made, and how the file is to be read
    request jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'success', 'error')),
    size_bytes bigint NOT NULL,
    -- conversations of the file that are done with
    position int NOT NULL DEFAULT 0,
    report jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT import_pkey PRIMARY KEY (import_id)
);
CREATE INDEX import_by_owner ON import (owner, created_at);
CREATE INDEX import_updated ON import (updated_at);

-- The file, until it is done with.
CREATE TABLE import_part (
    import_id uuid NOT NULL,
    number int NOT NULL,
    content bytea NOT NULL,
    CONSTRAINT import_part_pkey PRIMARY KEY (import_id, number),
    CONSTRAINT import_part_import_id_fkey
        FOREIGN KEY (import_id) REFERENCES import ON DELETE CASCADE
);
