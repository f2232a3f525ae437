-- Attachments. What a file holds is kept once, whoever uploads it how often: by its hash.
CREATE TABLE file_content (
    content_id uuid NOT NULL,
    -- NULL while it is being uploaded
    sha256 bytea,
    size_bytes bigint,
    -- by what is in it
    mime_type text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT file_content_pkey PRIMARY KEY (content_id),
    CONSTRAINT file_content_sha256 UNIQUE (sha256)
);
CREATE INDEX file_content_uploading ON file_content (created_at) WHERE sha256 IS NULL;

-- In pieces, so that no process ever holds the whole of it.
CREATE TABLE file_chunk (
    content_id uuid NOT NULL,
    place int NOT NULL,
    data bytea STORAGE EXTERNAL NOT NULL,
    CONSTRAINT file_chunk_pkey PRIMARY KEY (content_id, place),
    CONSTRAINT file_chunk_content_id_fkey
        FOREIGN KEY (content_id) REFERENCES file_content ON DELETE CASCADE
);

CREATE TABLE file (
    file_id uuid NOT NULL,
    content_id uuid NOT NULL,
    -- the identity of who uploaded it; empty without authentication
    owner text NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- when it was last looked whether anything uses it
    checked_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT file_pkey PRIMARY KEY (file_id),
    CONSTRAINT file_content_id_fkey FOREIGN KEY (content_id) REFERENCES file_content
);
CREATE INDEX file_by_content ON file (content_id);
CREATE INDEX file_checked ON file (checked_at);

-- The sessions that a file was sent in; its owner, or who could see it there, sent it. No foreign key to
-- the thread: it would be checked with every change of every thread.
CREATE TABLE file_use (
    thread_id text NOT NULL,
    file_id uuid NOT NULL,
    CONSTRAINT file_use_pkey PRIMARY KEY (thread_id, file_id),
    CONSTRAINT file_use_file_id_fkey FOREIGN KEY (file_id) REFERENCES file ON DELETE CASCADE
);
CREATE INDEX file_use_by_file ON file_use (file_id);
