-- Whoever fires a cron holds its thread's row first, as those do who delete the thread, and passes by
-- a cron that somebody else holds.

-- name: create
INSERT INTO cron (cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_time, enabled,
    on_run_completed, payload, metadata, injected, visible_threads, visible_assistants, next_run_at)
VALUES (%(cron_id)s::uuid, %(assistant_id)s::uuid, %(thread_id)s, %(user_id)s, %(schedule)s,
    %(timezone)s, %(end_time)s::timestamptz, %(enabled)s, %(on_run_completed)s, %(payload)s::jsonb,
    %(metadata)s::jsonb, %(injected)s::jsonb, %(visible_threads)s::jsonb,
    %(visible_assistants)s::jsonb, %(next_run_at)s::timestamptz)
RETURNING cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_time, enabled,
    on_run_completed, payload, metadata, injected, visible_threads, visible_assistants,
    next_run_at, error, created_at, updated_at;

-- name: get
SELECT cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_time, enabled,
    on_run_completed, payload, metadata, injected, visible_threads, visible_assistants,
    next_run_at, error, created_at, updated_at
FROM cron
WHERE cron_id = %(cron_id)s::uuid AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: get_to_change
SELECT cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_time, enabled,
    on_run_completed, payload, metadata, injected, visible_threads, visible_assistants,
    next_run_at, error, created_at, updated_at
FROM cron
WHERE cron_id = %(cron_id)s::uuid AND metadata @> ANY(%(visible)s::jsonb[])
FOR UPDATE;

-- name: search
SELECT cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_time, enabled,
    on_run_completed, payload, metadata, injected, visible_threads, visible_assistants,
    next_run_at, error, created_at, updated_at
FROM cron
WHERE ('{}'::jsonb = ANY(%(metadata)s::jsonb[]) OR metadata @> ANY(%(metadata)s::jsonb[]))
    AND (%(assistant_id)s::uuid IS NULL OR assistant_id = %(assistant_id)s::uuid)
    AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s::text)
    AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s::boolean)
    AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: count
SELECT count(*)
FROM cron
WHERE ('{}'::jsonb = ANY(%(metadata)s::jsonb[]) OR metadata @> ANY(%(metadata)s::jsonb[]))
    AND (%(assistant_id)s::uuid IS NULL OR assistant_id = %(assistant_id)s::uuid)
    AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s::text)
    AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s::boolean)
    AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: count_of_user
SELECT count(*) FROM cron WHERE user_id = %(user_id)s;

-- name: update
UPDATE cron
SET schedule = %(schedule)s, timezone = %(timezone)s, end_time = %(end_time)s::timestamptz,
    enabled = %(enabled)s, on_run_completed = %(on_run_completed)s, payload = %(payload)s::jsonb,
    metadata = %(metadata)s::jsonb, next_run_at = %(next_run_at)s::timestamptz,
    updated_at = clock_timestamp()
WHERE cron_id = %(cron_id)s::uuid
RETURNING cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_time, enabled,
    on_run_completed, payload, metadata, injected, visible_threads, visible_assistants,
    next_run_at, error, created_at, updated_at;

-- name: delete
DELETE FROM cron
WHERE cron_id = %(cron_id)s::uuid AND metadata @> ANY(%(visible)s::jsonb[])
RETURNING cron_id;

-- name: look
SELECT coalesce(%(now)s::timestamptz, clock_timestamp()),
    (SELECT min(next_run_at) FROM cron WHERE enabled);

-- name: due
SELECT cron_id, assistant_id, thread_id, user_id, schedule, timezone, end_time, enabled,
    on_run_completed, payload, metadata, injected, visible_threads, visible_assistants,
    next_run_at, error, created_at, updated_at
FROM cron
WHERE enabled AND next_run_at <= %(now)s::timestamptz
ORDER BY next_run_at
LIMIT %(limit)s;

-- name: take
-- Only as it was read: one that was changed or fired meanwhile is looked at again.
SELECT cron_id
FROM cron
WHERE cron_id = %(cron_id)s::uuid AND enabled AND next_run_at = %(scheduled_for)s::timestamptz
    AND updated_at = %(updated_at)s::timestamptz
FOR UPDATE SKIP LOCKED;

-- name: waiting
-- Its runs that have not begun.
SELECT run_id
FROM run
WHERE cron_id = %(cron_id)s::uuid AND status = 'pending'
LIMIT %(most)s;

-- name: advance
UPDATE cron
SET next_run_at = %(next_run_at)s::timestamptz, error = %(error)s::jsonb
WHERE cron_id = %(cron_id)s::uuid;

-- name: mark
-- The time that a run is for; there is one run for each.
UPDATE run
SET cron_id = %(cron_id)s::uuid, scheduled_for = %(scheduled_for)s::timestamptz
WHERE run_id = %(run_id)s::uuid;
