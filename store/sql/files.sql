-- Attachments: what they hold, whose they are, and where they are used.

-- name: begin
INSERT INTO file_content (content_id) VALUES (%(content_id)s::uuid)

-- name: append
INSERT INTO file_chunk (content_id, place, data)
SELECT content_id, %(place)s::int, %(data)s::bytea
FROM file_content
WHERE content_id = %(content_id)s::uuid AND sha256 IS NULL

-- name: abandon
DELETE FROM file_content WHERE content_id = %(content_id)s::uuid AND sha256 IS NULL

-- name: complete
-- Nothing, if the same content is there already.
UPDATE file_content AS c
SET sha256 = %(sha256)s::bytea, sealed_sha256 = %(sealed_sha256)s::text, size_bytes = %(size_bytes)s::bigint, mime_type = %(mime_type)s::text
WHERE c.content_id = %(content_id)s::uuid AND c.sha256 IS NULL
    AND NOT EXISTS (SELECT FROM file_content AS o WHERE o.sha256 = ANY(%(known_by)s::bytea[]))
RETURNING c.content_id

-- name: same
-- Locked, so that it does not go meanwhile.
SELECT content_id FROM file_content WHERE sha256 = ANY(%(known_by)s::bytea[]) LIMIT 1 FOR KEY SHARE

-- name: create
INSERT INTO file (file_id, content_id, owner, name)
VALUES (%(file_id)s::uuid, %(content_id)s::uuid, %(owner)s, %(name)s)

-- name: get
-- Its owner sees a file, and whoever sees a session that it was sent in.
SELECT f.file_id, f.content_id, f.name, f.owner, f.created_at, c.mime_type, c.size_bytes,
    coalesce(c.sealed_sha256, encode(c.sha256, 'hex')) AS sha256
FROM file AS f
JOIN file_content AS c ON c.content_id = f.content_id
WHERE f.file_id = ANY(%(file_ids)s::uuid[])
    AND (
        f.owner = %(owner)s::text
        OR EXISTS (
            SELECT FROM file_use AS u
            JOIN thread AS t ON t.thread_id = u.thread_id
            WHERE u.file_id = f.file_id
                AND t.metadata @> ANY(%(visible)s::jsonb[])
                AND session_is_there(t.metadata, t.expires_at)
        )
    )

-- name: use
INSERT INTO file_use (thread_id, file_id)
SELECT %(thread_id)s, f.file_id
FROM file AS f
WHERE f.file_id = ANY(%(file_ids)s::uuid[])
ON CONFLICT DO NOTHING

-- name: of_run
-- For the model: what was sent in the thread, and what is that user's whose run it is, who sent it
-- past the sessions; it is sent by that.
WITH found AS (
    SELECT f.file_id, f.content_id, f.name, f.owner, f.created_at
    FROM file AS f
    WHERE f.file_id = ANY(%(file_ids)s::uuid[])
        AND (
            f.owner = %(owner)s::text
            OR EXISTS (
                SELECT FROM file_use AS u
                WHERE u.file_id = f.file_id AND u.thread_id = %(thread_id)s
            )
        )
), used AS (
    INSERT INTO file_use (thread_id, file_id)
    SELECT t.thread_id, found.file_id
    FROM found
    JOIN thread AS t ON t.thread_id = %(thread_id)s
    WHERE NOT EXISTS (
        SELECT FROM file_use AS u
        WHERE u.thread_id = %(thread_id)s AND u.file_id = found.file_id
    )
    ON CONFLICT DO NOTHING
)
SELECT found.file_id, found.content_id, found.name, found.owner, found.created_at, c.mime_type,
    c.size_bytes, coalesce(c.sealed_sha256, encode(c.sha256, 'hex')) AS sha256
FROM found
JOIN file_content AS c ON c.content_id = found.content_id

-- name: chunk
SELECT data FROM file_chunk WHERE content_id = %(content_id)s::uuid AND place = %(place)s::int

-- name: contents
-- What is kept once, each by one of the files that have it.
SELECT f.file_id, c.content_id, f.name, f.owner, f.created_at, c.mime_type, c.size_bytes,
    coalesce(c.sealed_sha256, encode(c.sha256, 'hex')) AS sha256
FROM file_content AS c
CROSS JOIN LATERAL (
    SELECT o.file_id, o.name, o.owner, o.created_at
    FROM file AS o
    WHERE o.content_id = c.content_id
    LIMIT 1
) AS f
WHERE c.content_id > %(after)s::uuid AND c.sha256 IS NOT NULL
ORDER BY c.content_id
LIMIT %(limit)s

-- name: to_check
-- Locked until it is known whether anything uses them; who sends one meanwhile waits.
SELECT file_id
FROM file
WHERE checked_at < now() - make_interval(secs => %(unused_seconds)s)
    AND created_at < now() - make_interval(secs => %(unused_seconds)s)
ORDER BY checked_at
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED

-- name: delete_unused
DELETE FROM file AS f
WHERE f.file_id = ANY(%(file_ids)s::uuid[])
    AND NOT EXISTS (
        SELECT FROM file_use AS u
        JOIN thread AS t ON t.thread_id = u.thread_id
        WHERE u.file_id = f.file_id
    )
RETURNING f.content_id

-- name: checked
UPDATE file SET checked_at = now() WHERE file_id = ANY(%(file_ids)s::uuid[])

-- name: lock_contents
SELECT content_id
FROM file_content
WHERE content_id = ANY(%(content_ids)s::uuid[])
ORDER BY content_id
FOR UPDATE

-- name: delete_contents
-- Those that no file has any more, and what is left of uploads that were broken off.
DELETE FROM file_content AS c
WHERE (
        c.content_id = ANY(%(content_ids)s::uuid[])
        AND NOT EXISTS (SELECT FROM file AS f WHERE f.content_id = c.content_id)
    )
    OR (c.sha256 IS NULL AND c.created_at < now() - interval '1 day')

-- name: usage
SELECT count(*) AS count, coalesce(sum(c.size_bytes), 0)::bigint AS bytes
FROM file AS f
JOIN file_content AS c ON c.content_id = f.content_id
WHERE f.owner = %(owner)s::text

-- name: of_owner
SELECT f.file_id, f.content_id, f.name, f.owner, f.created_at, c.mime_type, c.size_bytes,
    coalesce(c.sealed_sha256, encode(c.sha256, 'hex')) AS sha256
FROM file AS f
JOIN file_content AS c ON c.content_id = f.content_id
WHERE f.owner = %(owner)s::text AND c.sha256 IS NOT NULL
    AND f.file_id > coalesce(%(after)s::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY f.file_id
LIMIT 1
