-- Encryption at rest, of what lies beside runs and messages; see docs/encryption.md.

-- A file's hash as clients get it, sealed. `sha256` is then a keyed hash, by which the same content is
-- found again, and which says nothing to others.
ALTER TABLE file_content ADD COLUMN sealed_sha256 text;

-- A snapshot's messages are copies of sealed ones, which open where those would.
ALTER TABLE share_message ADD COLUMN thread_id text;
UPDATE share_message AS m SET thread_id = s.thread_id FROM share AS s WHERE s.share_id = m.share_id;

-- The keys that everything is sealed with where `encryption` of langgraph.json keeps them: as its own
-- handlers have sealed them. The highest number seals; the others open what they sealed.
CREATE TABLE data_key (
    number int NOT NULL CHECK (number > 0),
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT data_key_pkey PRIMARY KEY (number)
);
