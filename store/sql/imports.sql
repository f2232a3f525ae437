-- name: known
SELECT id FROM message WHERE conversation_id = %(thread_id)s

-- name: stamp_messages
-- Only what says itself that it is that old: a rebuild comes to the same.
UPDATE message AS m SET create_time = n.at::timestamptz, update_time = n.at::timestamptz
FROM unnest(%(ids)s::text[], %(times)s::text[]) AS n (id, at)
WHERE m.conversation_id = %(thread_id)s AND m.id = n.id
    AND (%(is_sealed)s OR m.meta_data #>> '{additional_kwargs,created_at}' = n.at)
    AND m.create_time IS DISTINCT FROM n.at::timestamptz

-- name: unstamped
SELECT m.id, m.meta_data
FROM unnest(%(ids)s::text[], %(times)s::text[]) AS n (id, at)
JOIN message AS m ON m.conversation_id = %(thread_id)s AND m.id = n.id
WHERE m.create_time IS DISTINCT FROM n.at::timestamptz

-- name: stamp_thread
UPDATE thread SET
    created_at = least(created_at, %(created_at)s::timestamptz),
    updated_at = coalesce(%(updated_at)s::timestamptz, updated_at),
    metadata = CASE WHEN %(mark)s::text IS NULL THEN metadata ELSE metadata - 'import_under_way' END
WHERE thread_id = %(thread_id)s
    -- An import that somebody else has begun anew is theirs to end.
    AND (%(mark)s::text IS NULL OR metadata ->> 'import_under_way' = %(mark)s)

-- name: begun
SELECT greatest(
        t.updated_at,
        (SELECT max(m.update_time) FROM message AS m WHERE m.conversation_id = t.thread_id)
    ) > now() - make_interval(secs => %(fresh_seconds)s),
    EXISTS (SELECT FROM run AS r WHERE r.thread_id = t.thread_id)
        OR EXISTS (SELECT FROM message_deletion AS d WHERE d.conversation_id = t.thread_id)
        OR EXISTS (
            SELECT FROM message AS m
            WHERE m.conversation_id = t.thread_id AND m.id <> ALL(%(ids)s::text[])
        )
FROM thread AS t
WHERE t.thread_id = %(thread_id)s

-- name: end
UPDATE thread SET metadata = metadata - 'import_under_way'
WHERE thread_id = %(thread_id)s AND metadata ->> 'import_under_way' = %(mark)s

-- name: judge
-- What was said of it here since counts.
INSERT INTO feedback (conversation_id, message_id, user_id, score, reason)
SELECT m.conversation_id, m.id, %(user_id)s, n.score, n.reason
FROM unnest(%(ids)s::text[], %(scores)s::int[], %(reasons)s::text[]) AS n (id, score, reason)
JOIN message AS m ON m.conversation_id = %(thread_id)s AND m.id = n.id
ON CONFLICT DO NOTHING
