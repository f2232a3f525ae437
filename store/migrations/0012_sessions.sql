-- Sessions: threads that people name, pin, put away, delete and get back.

ALTER TABLE thread
    -- when a session ends by its owner's wish
    ADD COLUMN expires_at timestamptz,
    -- when a session that was deleted is purged
    ADD COLUMN purge_at timestamptz;
CREATE INDEX thread_ends ON thread (least(expires_at, purge_at))
    WHERE least(expires_at, purge_at) IS NOT NULL;

-- What is said of a session in one place; all are expanded where they are used.
CREATE FUNCTION session_name(metadata jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(metadata ->> 'name', metadata ->> 'generated_title', '新对话');
CREATE FUNCTION session_status(metadata jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN coalesce(metadata ->> 'status', 'active');
-- Whether a session is there for everything but to be restored, and to be listed as deleted.
CREATE FUNCTION session_is_there(metadata jsonb, expires_at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(metadata ->> 'status', 'active') <> 'deleted'
        AND coalesce(expires_at > now(), true);
-- What changes with what its owner may change of it, and with nothing that a run does.
CREATE FUNCTION session_etag(metadata jsonb, expires_at timestamptz) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN md5(
        (metadata - '{graph_id,assistant_id}'::text[])::text
        || coalesce(extract(epoch FROM expires_at)::text, '')
    );

CREATE OR REPLACE VIEW conversation AS
SELECT
    thread_id AS id,
    metadata ->> 'user_id' AS user_id,
    session_name(metadata) AS name,
    metadata ->> 'chat_type' AS chat_type,
    session_status(metadata) AS status,
    created_at AS create_time,
    updated_at AS update_time
FROM thread;

-- The few that come first in a list: everyone's, and a user's. Whoever is in none of them costs a run
-- nothing but a look at the condition.
CREATE INDEX thread_pinned ON thread (updated_at, thread_id) WHERE metadata ->> 'pinned' = 'true';
CREATE INDEX thread_user_pinned ON thread ((metadata ->> 'user_id'), updated_at, thread_id)
    WHERE metadata ->> 'pinned' = 'true';
CREATE INDEX thread_deleted ON thread (updated_at, thread_id)
    WHERE coalesce(metadata ->> 'status', 'active') = 'deleted';

-- How many are pinned. Not by `metadata @>`: each time that a list is planned its hundreds of samples
-- would be looked through, for milliseconds.
CREATE STATISTICS thread_session_pinned ON (metadata ->> 'pinned') FROM thread;

-- Of a session that was purged: that it was, for those who could see it. Nothing of what it was.
CREATE TABLE tombstone (
    thread_id text NOT NULL,
    -- the conditions on metadata under which whoever purged it saw it
    seen_by jsonb NOT NULL,
    purged_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT tombstone_pkey PRIMARY KEY (thread_id)
);
CREATE INDEX tombstone_purged ON tombstone (purged_at);

-- What people think of answers. Not columns of `message`, whose rows are made again from checkpoints;
-- no foreign key to it for the same reason.
CREATE TABLE feedback (
    conversation_id text NOT NULL,
    message_id text NOT NULL,
    -- whose opinion it is; empty without authentication
    user_id text NOT NULL,
    score smallint NOT NULL CHECK (score BETWEEN 0 AND 100),
    reason text,
    tags jsonb NOT NULL DEFAULT '[]',
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT feedback_pkey PRIMARY KEY (conversation_id, message_id, user_id),
    CONSTRAINT feedback_conversation_id_fkey
        FOREIGN KEY (conversation_id) REFERENCES thread ON DELETE CASCADE
);
