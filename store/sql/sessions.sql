-- A session is a thread; its attributes are keys of the thread's metadata.

-- name: get
SELECT thread_id AS id, metadata ->> 'user_id' AS user_id,
    coalesce(metadata ->> 'name', '新对话') AS name, metadata ->> 'chat_type' AS chat_type,
    coalesce(metadata ->> 'status', 'active') AS status, metadata, status AS thread_status,
    created_at AS create_time, updated_at AS update_time
FROM thread
WHERE thread_id = %(id)s AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: list
-- Keyset: the page after the last row that the client has. Nothing is skipped or repeated but what
-- was itself touched meanwhile.
SELECT thread_id AS id, metadata ->> 'user_id' AS user_id,
    coalesce(metadata ->> 'name', '新对话') AS name, metadata ->> 'chat_type' AS chat_type,
    coalesce(metadata ->> 'status', 'active') AS status, metadata, status AS thread_status,
    created_at AS create_time, updated_at AS update_time
FROM thread
WHERE (updated_at, thread_id)
        < (coalesce(%(before_time)s::timestamptz, 'infinity'), coalesce(%(before_id)s::text, ''))
    AND (%(status)s::text IS NULL OR coalesce(metadata ->> 'status', 'active') = %(status)s::text)
    AND (%(attributes)s::jsonb = '{}' OR metadata @> %(attributes)s::jsonb)
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]))
ORDER BY updated_at DESC, thread_id DESC
LIMIT %(limit)s;

-- name: list_of_user
SELECT thread_id AS id, metadata ->> 'user_id' AS user_id,
    coalesce(metadata ->> 'name', '新对话') AS name, metadata ->> 'chat_type' AS chat_type,
    coalesce(metadata ->> 'status', 'active') AS status, metadata, status AS thread_status,
    created_at AS create_time, updated_at AS update_time
FROM thread
WHERE metadata ->> 'user_id' = %(user_id)s::text
    AND (updated_at, thread_id)
        < (coalesce(%(before_time)s::timestamptz, 'infinity'), coalesce(%(before_id)s::text, ''))
    AND (%(status)s::text IS NULL OR coalesce(metadata ->> 'status', 'active') = %(status)s::text)
    AND (%(attributes)s::jsonb = '{}' OR metadata @> %(attributes)s::jsonb)
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]))
ORDER BY updated_at DESC, thread_id DESC
LIMIT %(limit)s;
