-- Erasures and exports of users: asked for, done by whichever process comes to them, reported.

-- name: forget_stale
-- One that nobody has worked on for long was given up with its job; and old ones are nobody's affair.
WITH given_up AS (
    UPDATE user_job
    SET status = 'error', error = 'The processes that worked on it were lost', updated_at = now()
    WHERE kind = %(kind)s AND user_id = %(user_id)s AND status IN ('pending', 'running')
        AND updated_at < now() - interval '2 hours'
)
DELETE FROM user_job
WHERE status IN ('success', 'error') AND updated_at < now() - interval '90 days';

-- name: create
INSERT INTO user_job (user_job_id, kind, user_id, actor, visible)
VALUES (%(user_job_id)s::uuid, %(kind)s, %(user_id)s, %(actor)s, %(visible)s::jsonb)
ON CONFLICT (kind, user_id) WHERE status IN ('pending', 'running') DO NOTHING
RETURNING user_job_id, kind, user_id, actor, visible, status, position, part_count, report, error,
    created_at, updated_at;

-- name: under_way
SELECT user_job_id, kind, user_id, actor, visible, status, position, part_count, report, error,
    created_at, updated_at
FROM user_job
WHERE kind = %(kind)s AND user_id = %(user_id)s AND status IN ('pending', 'running');

-- name: forget_others
-- One file of a user at a time.
DELETE FROM user_job
WHERE kind = 'export' AND user_id = %(user_id)s AND user_job_id <> %(user_job_id)s::uuid
    AND %(kind)s = 'export';

-- name: erasure_rests
SELECT extract(epoch FROM greatest(
    max(updated_at) + make_interval(secs => %(rest_seconds)s) - now(), interval '0 s'
))
FROM user_job
WHERE kind = 'erasure' AND user_id = %(user_id)s AND status IN ('success', 'error');

-- name: get
SELECT user_job_id, kind, user_id, actor, visible, status, position, part_count, report, error,
    created_at, updated_at
FROM user_job
WHERE user_job_id = %(user_job_id)s::uuid
    AND (%(user_id)s::text IS NULL OR user_id = %(user_id)s::text);

-- name: newest_export
SELECT user_job_id, kind, user_id, actor, visible, status, position, part_count, report, error,
    created_at, updated_at
FROM user_job
WHERE kind = 'export' AND user_id = %(user_id)s
ORDER BY created_at DESC
LIMIT 1;

-- name: add
-- Counts come with what they count, in one transaction.
UPDATE user_job
SET report = report || (
        SELECT jsonb_object_agg(key, coalesce((report ->> key)::bigint, 0) + value::bigint)
        FROM jsonb_each_text(%(counts)s::jsonb)
    ),
    status = 'running', updated_at = now()
WHERE user_job_id = %(user_job_id)s::uuid AND status IN ('pending', 'running');

-- name: advance
-- Guarded by where whoever works on it believes it to be: of two, one goes on.
UPDATE user_job
SET position = %(position)s::jsonb, part_count = part_count + %(parts)s::int, updated_at = now()
WHERE user_job_id = %(user_job_id)s::uuid AND part_count = %(before)s::int
    AND status IN ('pending', 'running');

-- name: add_part
INSERT INTO user_job_part (user_job_id, number, content)
VALUES (%(user_job_id)s::uuid, %(number)s, %(content)s::bytea);

-- name: part
SELECT content
FROM user_job_part
WHERE user_job_id = %(user_job_id)s::uuid AND number = %(number)s;

-- name: finish
UPDATE user_job
SET status = %(status)s, error = %(error)s, updated_at = now()
WHERE user_job_id = %(user_job_id)s::uuid AND status IN ('pending', 'running')
RETURNING report;

-- name: delete_expired
DELETE FROM user_job
WHERE user_job_id IN (
    SELECT user_job_id
    FROM user_job
    WHERE kind = 'export' AND updated_at < now() - make_interval(secs => %(keep_seconds)s)
        OR updated_at < now() - interval '90 days'
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
);

-- name: account
SELECT id, username, create_time FROM "user" WHERE id = %(user_id)s;
