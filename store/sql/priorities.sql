-- What langgraph.json's `priority` decided, or whose runs they are where shares are fair. None of these
-- is executed without either.

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

-- name: may_begin
-- As `claim_by_priority` would have it: not beyond what a group may have, not before one of the same
-- group, and not before one of a group with fewer running, or as many.
WITH line AS MATERIALIZED (
    SELECT priority, fairness_group FROM run_line
), busy AS MATERIALIZED (
    SELECT fairness_group, running FROM run_group
), own AS (
    SELECT coalesce(
        (SELECT running FROM busy WHERE fairness_group = %(fairness_group)s), 0
    ) AS running
)
SELECT CASE
    -- Mostly: then nothing else is looked at.
    WHEN %(most_running)s::bigint IS NULL
        AND NOT EXISTS (SELECT FROM run WHERE status = 'pending' AND priority IS NOT NULL)
    THEN true
    ELSE (
        SELECT own.running < coalesce(%(most_running)s::bigint, own.running + 1)
        FROM own
    ) AND NOT EXISTS (
        SELECT FROM line
        CROSS JOIN own
        LEFT JOIN busy ON busy.fairness_group = line.fairness_group
        WHERE coalesce(busy.running, 0) <= own.running
            AND coalesce(busy.running, 0) < coalesce(%(most_running)s::bigint, own.running + 1)
            AND EXISTS (
                SELECT FROM run r
                WHERE r.status = 'pending' AND r.priority = line.priority
                    AND r.fairness_group = line.fairness_group AND r.not_before <= now()
                    AND NOT EXISTS (
                        SELECT FROM run o
                        WHERE o.thread_id = r.thread_id AND o.status IN ('pending', 'running')
                            AND (
                                o.status = 'running'
                                OR (o.not_before, o.seq) < (r.not_before, r.seq)
                            )
                    )
            )
    )
END;

-- name: is_full
SELECT count(*) >= %(most_running)s
FROM run o
JOIN thread t ON t.thread_id = o.thread_id
WHERE o.status = 'running'
    AND coalesce(o.fairness_group, t.fairness_group, 'default') = %(fairness_group)s;

-- name: waiting
SELECT
    (
        SELECT count(*)
        FROM (SELECT FROM run WHERE status = 'pending' LIMIT %(most)s::bigint) AS counted
    ) AS total,
    (
        SELECT count(*)
        FROM (
            SELECT FROM run
            WHERE status = 'pending' AND priority IS NOT NULL
                AND priority = ANY('{-5,-4,-3,-2,-1,0,1,2,3,4,5}'::smallint[])
                AND fairness_group = %(fairness_group)s
            LIMIT %(most_of_group)s::bigint
        ) AS counted
    ) AS of_group;

-- name: count_groups
SELECT count(DISTINCT fairness_group) FROM run_line;
