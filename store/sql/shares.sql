-- Who may manage the shares of a session is said by its thread; who may look at one, by its token.

-- name: create
WITH shared AS (
    SELECT t.thread_id, session_name(t.metadata) AS name, t.head_checkpoint_id
    FROM thread AS t
    WHERE t.thread_id = %(thread_id)s AND t.metadata @> ANY(%(visible)s::jsonb[])
        AND session_is_there(t.metadata, t.expires_at)
        AND (SELECT count(*) FROM share AS s WHERE s.thread_id = t.thread_id) < %(most)s
    FOR UPDATE
), made AS (
    INSERT INTO share (share_id, thread_id, token_hash, mode, password_hash, name, checkpoint_id,
        created_by, expires_at)
    SELECT %(share_id)s::uuid, thread_id, %(token_hash)s::bytea, %(mode)s, %(password_hash)s,
        CASE WHEN %(mode)s = 'snapshot' THEN name END,
        CASE WHEN %(mode)s = 'snapshot' THEN head_checkpoint_id END,
        %(created_by)s, %(expires_at)s::timestamptz
    FROM shared
    RETURNING share_id, thread_id, mode, password_hash IS NOT NULL AS has_password, checkpoint_id,
        created_at, expires_at
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.shared', thread_id, jsonb_build_object('share_id', share_id, 'mode', mode)
    FROM made
)
SELECT share_id, thread_id, mode, has_password, checkpoint_id, created_at, expires_at FROM made;

-- name: forget_expired
-- So that those that nobody can use do not fill the room for others.
DELETE FROM share
WHERE thread_id = %(thread_id)s AND expires_at < now() - interval '30 days';

-- name: snapshot
-- What is said between people and the assistant, and nothing of how.
INSERT INTO share_message
    (share_id, thread_id, seq, id, role, content, message_type, create_time)
SELECT %(share_id)s::uuid, m.conversation_id, m.seq, m.id, m.role, m.content, m.message_type, m.create_time
FROM message AS m
WHERE m.conversation_id = %(thread_id)s AND m.on_branch
    AND (m.role = 'user' OR m.role = 'assistant' AND m.content <> '')
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
    );

-- name: name
SELECT name FROM share WHERE share_id = %(share_id)s::uuid;

-- name: set_name
UPDATE share SET name = %(name)s WHERE share_id = %(share_id)s::uuid;

-- name: list
SELECT s.share_id, s.thread_id, s.mode, s.password_hash IS NOT NULL AS has_password,
    s.checkpoint_id, s.created_at, s.expires_at
FROM share AS s
JOIN thread AS t ON t.thread_id = s.thread_id
WHERE s.thread_id = %(thread_id)s AND session_is_there(t.metadata, t.expires_at)
    AND t.metadata @> ANY(%(visible)s::jsonb[])
ORDER BY s.created_at, s.share_id;

-- name: delete
WITH gone AS (
    DELETE FROM share AS s
    USING thread AS t
    WHERE s.share_id = %(share_id)s::uuid AND s.thread_id = %(thread_id)s
        AND t.thread_id = s.thread_id AND session_is_there(t.metadata, t.expires_at)
        AND t.metadata @> ANY(%(visible)s::jsonb[])
    RETURNING s.thread_id, s.share_id
)
INSERT INTO outbox (name, thread_id, data)
SELECT 'session.unshared', thread_id, jsonb_build_object('share_id', share_id)
FROM gone;

-- name: revoke
WITH gone AS (
    DELETE FROM share WHERE thread_id = %(thread_id)s RETURNING thread_id, share_id
)
INSERT INTO outbox (name, thread_id, data)
SELECT 'session.unshared', thread_id, jsonb_build_object('share_id', share_id)
FROM gone;

-- name: find
SELECT s.share_id, s.thread_id, s.token_hash, s.mode, s.password_hash,
    coalesce(s.name, session_name(t.metadata)) AS name, s.name IS NOT NULL AS is_named,
    t.metadata ->> 'graph_id' AS graph_id, s.created_at, s.expires_at,
    coalesce(s.expires_at <= now(), false) AS is_expired
FROM share AS s
JOIN thread AS t ON t.thread_id = s.thread_id
WHERE s.token_hash = %(token_hash)s::bytea
    AND session_is_there(t.metadata, t.expires_at);

-- name: attempt
-- Counted before it is tried, so that those that are made at once do not slip by.
UPDATE share
SET failed_count = CASE WHEN failed_since > now() - make_interval(secs => %(window_seconds)s)
        THEN failed_count + 1 ELSE 1 END,
    failed_since = CASE WHEN failed_since > now() - make_interval(secs => %(window_seconds)s)
        THEN failed_since ELSE now() END
WHERE share_id = %(share_id)s::uuid
    AND (failed_count < %(most)s OR failed_since IS NULL
        OR failed_since <= now() - make_interval(secs => %(window_seconds)s));

-- name: succeeded
UPDATE share
SET failed_count = greatest(failed_count - 1, 0)
WHERE share_id = %(share_id)s::uuid;

-- name: live_messages
SELECT m.seq, m.id, m.role, m.content, m.message_type, m.create_time
FROM message AS m
WHERE m.conversation_id = %(thread_id)s AND m.seq > %(after_seq)s AND m.on_branch
    AND (m.role = 'user' OR m.role = 'assistant' AND m.content <> '')
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
    )
ORDER BY m.seq
LIMIT %(limit)s::int;

-- name: snapshot_messages
SELECT seq, id, role, content, message_type, create_time
FROM share_message
WHERE share_id = %(share_id)s::uuid AND seq > %(after_seq)s
ORDER BY seq
LIMIT %(limit)s::int;

-- name: members
SELECT CASE WHEN jsonb_typeof(metadata -> 'members') = 'object'
    THEN metadata -> 'members' ELSE '{}' END AS members
FROM thread
WHERE thread_id = %(thread_id)s AND session_is_there(metadata, expires_at)
    AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: add_members
WITH found AS (
    SELECT thread_id, CASE WHEN jsonb_typeof(metadata -> 'members') = 'object'
        THEN metadata -> 'members' ELSE '{}' END || %(members)s::jsonb AS members
    FROM thread
    WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[])
        AND session_is_there(metadata, expires_at)
    FOR UPDATE
), shared AS (
    UPDATE thread AS t
    SET metadata = t.metadata || jsonb_build_object('members', found.members)
    FROM found
    WHERE t.thread_id = found.thread_id
        AND (SELECT count(*) FROM jsonb_object_keys(found.members)) <= %(most)s
    RETURNING t.thread_id, t.metadata -> 'members' AS members
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.shared', thread_id, jsonb_build_object('members', %(members)s::jsonb)
    FROM shared
)
SELECT members FROM shared;

-- name: remove_member
WITH unshared AS (
    UPDATE thread
    SET metadata = metadata #- ARRAY['members', %(user)s::text]
    WHERE thread_id = %(thread_id)s AND session_is_there(metadata, expires_at)
        AND metadata @> ANY(%(visible)s::jsonb[])
        AND metadata -> 'members' ? %(user)s::text
    RETURNING thread_id
)
INSERT INTO outbox (name, thread_id, data)
SELECT 'session.unshared', thread_id, jsonb_build_object('members', jsonb_build_array(%(user)s::text))
FROM unshared;

-- name: remove_members
WITH before AS MATERIALIZED (
    SELECT thread_id AS before_id, metadata -> 'members' AS members
    FROM thread
    WHERE thread_id = %(thread_id)s AND session_is_there(metadata, expires_at)
        AND metadata @> ANY(%(visible)s::jsonb[])
    FOR NO KEY UPDATE
), unshared AS (
    UPDATE thread SET metadata = metadata - 'members' FROM before WHERE thread_id = before_id
    RETURNING thread_id, members
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.unshared', thread_id,
        jsonb_build_object('members', ARRAY(SELECT jsonb_object_keys(members)))
    FROM unshared
    WHERE jsonb_typeof(members) = 'object'
)
SELECT thread_id FROM unshared;
