-- What langgraph.json's `priority` decided. None of these is executed without it.

-- name: of_thread
SELECT priority, fairness_group
FROM thread
WHERE thread_id = %(thread_id)s AND priority IS NOT NULL;

-- name: keep
-- The first decision counts.
UPDATE thread
SET priority = %(priority)s, fairness_group = %(fairness_group)s
WHERE thread_id = %(thread_id)s AND priority IS NULL;

-- name: keep_all
UPDATE thread
SET priority = s.priority, fairness_group = s.fairness_group
FROM jsonb_to_recordset(%(settings)s::jsonb) AS s (
    thread_id text, run_id uuid, priority smallint, fairness_group text
)
WHERE thread.thread_id = s.thread_id AND thread.priority IS NULL;

-- name: mark_all
UPDATE run
SET priority = t.priority, fairness_group = t.fairness_group
FROM jsonb_to_recordset(%(settings)s::jsonb) AS s (
    thread_id text, run_id uuid, priority smallint, fairness_group text
)
JOIN thread AS t ON t.thread_id = s.thread_id
WHERE run.run_id = s.run_id;

-- name: adopt
-- Those that came without: of a process that knows no priorities, or that began at once and were
-- given back.
UPDATE run
SET priority = coalesce(t.priority, 0), fairness_group = coalesce(t.fairness_group, 'default')
FROM thread AS t
WHERE run.status = 'pending' AND run.priority IS NULL AND run.not_before <= now()
    AND t.thread_id = run.thread_id
RETURNING run.run_id;

-- name: is_anybody_waiting
SELECT EXISTS (SELECT FROM run WHERE status = 'pending' AND not_before <= now());
