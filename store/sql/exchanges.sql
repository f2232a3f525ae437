-- Sessions out of the server and into it.

-- name: sessions
-- In the order in which they were made: a place in it does not move.
SELECT thread_id AS id, metadata ->> 'user_id' AS user_id, session_name(metadata) AS name,
    metadata ->> 'chat_type' AS chat_type, session_status(metadata) AS status, metadata,
    status AS thread_status, message_count, expires_at, session_etag(metadata, expires_at) AS etag,
    created_at AS create_time, updated_at AS update_time
FROM thread
WHERE (created_at, thread_id)
        > (coalesce(%(after_time)s::timestamptz, '-infinity'), coalesce(%(after_id)s::text, ''))
    AND session_is_there(metadata, expires_at)
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]))
ORDER BY created_at, thread_id
LIMIT %(limit)s::int;

-- name: sessions_of
-- All of a user's, deleted ones too, in the order in which they were made.
SELECT thread_id AS id, metadata ->> 'user_id' AS user_id, session_name(metadata) AS name,
    metadata ->> 'chat_type' AS chat_type, session_status(metadata) AS status, metadata,
    status AS thread_status, message_count, expires_at, session_etag(metadata, expires_at) AS etag,
    created_at AS create_time, updated_at AS update_time
FROM thread
WHERE (
        metadata @> jsonb_build_object('owner', %(user_id)s::text)
        OR metadata ->> 'user_id' = %(user_id)s::text
    )
    AND thread_owner(metadata) = %(user_id)s::text
    AND (created_at, thread_id)
        > (coalesce(%(after_time)s::timestamptz, '-infinity'), coalesce(%(after_id)s::text, ''))
    AND metadata @> ANY(%(visible)s::jsonb[])
ORDER BY created_at, thread_id
LIMIT %(limit)s::int;

-- name: messages
-- A message follows the one before it in the history, unless a branch begins with it. Of those that
-- people deleted nothing is told; what followed them follows what came before them.
SELECT m.id, m.seq, m.role, m.content, m.message_type, m.meta_data, m.in_context, m.on_branch,
    m.create_time,
    (
        WITH RECURSIVE above AS (
            SELECT m.seq, NULL::text AS id, false AS is_told
            UNION ALL
            SELECT p.seq, p.id,
                (p.on_branch OR %(every_branch)s::boolean)
                AND NOT EXISTS (
                    SELECT FROM message_deletion AS d
                    WHERE d.conversation_id = m.conversation_id AND d.message_id = p.id
                )
            FROM above AS a
            CROSS JOIN LATERAL (
                SELECT o.seq, o.id, o.on_branch
                FROM message AS o
                WHERE o.conversation_id = m.conversation_id
                    AND o.seq <= coalesce((
                        SELECT f.parent_seq
                        FROM message_fork AS f
                        WHERE f.conversation_id = m.conversation_id AND f.seq = a.seq
                    ), a.seq - 1)
                ORDER BY o.seq DESC
                LIMIT 1
            ) AS p
            WHERE NOT a.is_told
        )
        SELECT id FROM above WHERE is_told
    ) AS parent_id
FROM message AS m
WHERE m.conversation_id = %(thread_id)s AND m.seq > %(after_seq)s
    AND (m.on_branch OR %(every_branch)s::boolean)
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
    )
ORDER BY m.seq
LIMIT %(limit)s::int;

-- name: head
SELECT m.id
FROM message AS m
WHERE m.conversation_id = %(thread_id)s AND m.on_branch
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
    )
ORDER BY m.position DESC NULLS LAST, m.seq DESC
LIMIT 1;

-- name: known
-- What a session has of messages, shown or not: what is not to be taken in again.
SELECT m.id, m.on_branch
FROM message AS m
WHERE m.conversation_id = %(thread_id)s
ORDER BY m.seq
LIMIT %(limit)s::int;

-- name: forget_old
DELETE FROM import WHERE updated_at < now() - interval '7 days';

-- name: create
INSERT INTO import (import_id, owner, request, size_bytes, report)
SELECT %(import_id)s::uuid, %(owner)s::text, %(request)s::jsonb, %(size_bytes)s,
    %(report)s::jsonb
WHERE (
    SELECT count(*)
    FROM import
    WHERE owner IS NOT DISTINCT FROM %(owner)s::text AND status IN ('pending', 'running')
        AND updated_at > now() - interval '1 hour'
) < %(most)s
RETURNING import_id, owner, request, status, size_bytes, position, report, created_at, updated_at;

-- name: add_part
INSERT INTO import_part (import_id, number, content)
VALUES (%(import_id)s::uuid, %(number)s, %(content)s::bytea);

-- name: part
SELECT content FROM import_part WHERE import_id = %(import_id)s::uuid AND number = %(number)s;

-- name: get
-- One that nobody has worked on for long is nobody's any more: it was given up with its job.
SELECT import_id, owner, request,
    CASE WHEN status IN ('pending', 'running') AND updated_at < now() - interval '2 hours'
        THEN 'error' ELSE status END AS status,
    size_bytes, position, report, created_at, updated_at
FROM import
WHERE import_id = %(import_id)s::uuid
    AND (%(everybody)s::boolean OR owner = %(owner)s::text);

-- name: advance
-- Guarded by where whoever works on it believes it to be: of two, one goes on.
UPDATE import
SET position = %(position)s, report = %(report)s::jsonb, status = %(status)s, updated_at = now()
WHERE import_id = %(import_id)s::uuid AND position = %(before)s
    AND status IN ('pending', 'running');

-- name: forget_parts
DELETE FROM import_part WHERE import_id = %(import_id)s::uuid;
