-- name: get
SELECT r.run_id, r.thread_id, r.assistant_id, r.status, r.multitask_strategy, r.metadata,
    r.kwargs, r.attempt, r.first_epoch, coalesce(r.first_epoch, t.epoch + 1) AS log_epoch,
    r.temporary, r.error, r.created_at, r.updated_at
FROM run r
JOIN thread t ON t.thread_id = r.thread_id
WHERE r.run_id = %(run_id)s::uuid
    AND (%(thread_id)s::text IS NULL OR r.thread_id = %(thread_id)s::text)
    AND t.metadata @> ANY(%(visible)s::jsonb[]);

-- name: ending
SELECT run_id, status, error, epoch, told AS event_count
FROM run
WHERE run_id = %(run_id)s::uuid;

-- name: left_in
-- What a run left its thread in, unless somebody has had the thread since: its end raised the epoch by one.
SELECT t.settled_status
FROM run r
JOIN thread t ON t.thread_id = r.thread_id AND t.epoch = r.epoch + 1
WHERE r.run_id = %(run_id)s::uuid AND r.status NOT IN ('pending', 'running');

-- name: list
SELECT r.run_id, r.thread_id, r.assistant_id, r.status, r.multitask_strategy, r.metadata,
    r.kwargs, r.attempt, r.first_epoch, coalesce(r.first_epoch, t.epoch + 1) AS log_epoch,
    r.temporary, r.error, r.created_at, r.updated_at
FROM run r
JOIN thread t ON t.thread_id = r.thread_id
WHERE r.thread_id = %(thread_id)s
    AND (%(status)s::text IS NULL OR r.status = %(status)s::text)
    AND t.metadata @> ANY(%(visible)s::jsonb[])
ORDER BY r.created_at DESC, r.seq DESC
LIMIT %(limit)s OFFSET %(offset)s;

-- name: in_flight
SELECT r.run_id, r.thread_id, r.seq
FROM run r
WHERE r.status IN ('pending', 'running') AND r.status = ANY(%(statuses)s::text[])
    AND r.seq > %(after)s
    AND EXISTS (
        SELECT FROM thread t
        WHERE t.thread_id = r.thread_id AND t.metadata @> ANY(%(visible)s::jsonb[])
    )
ORDER BY r.seq
LIMIT %(limit)s;

-- name: assistant_and_thread
-- All that a new run is made of, in one round trip.
SELECT a.assistant_id, a.graph_id, a.config, a.context, a.metadata,
    t.thread_id, t.config AS thread_config, t.metadata AS thread_metadata
FROM assistant a
LEFT JOIN thread t ON t.thread_id = %(thread_id)s AND t.metadata @> ANY(%(visible)s::jsonb[])
WHERE a.assistant_id = %(assistant_id)s
    AND (a.is_system OR a.metadata @> ANY(%(assistant_visible)s::jsonb[]));

-- name: ended
-- Which of these are in flight no more, deleted ones among them.
SELECT asked.run_id
FROM unnest(%(run_ids)s::uuid[]) AS asked (run_id)
WHERE NOT EXISTS (
    SELECT FROM run WHERE run.run_id = asked.run_id AND run.status IN ('pending', 'running')
);

-- name: to_follow
-- The end of a run is told after `told` events, and after its error if it has one.
WITH heard AS (
    SELECT r.run_id, r.status IN ('pending', 'running')
        OR (%(epoch)s::bigint, %(seq)s::bigint)
            < (r.epoch, coalesce(r.told + CASE WHEN r.error IS NULL THEN 1 ELSE 2 END, 0))
        AS goes_on
    FROM run AS r
    WHERE r.thread_id = %(thread_id)s AND r.first_epoch <= %(epoch)s::bigint
    ORDER BY r.first_epoch DESC
    LIMIT 1
)
SELECT next.run_id
FROM (
    SELECT run_id, 0 AS place, 0 AS seq FROM heard WHERE goes_on
    UNION ALL
    SELECT r.run_id, CASE r.status WHEN 'running' THEN 1 ELSE 2 END, r.seq
    FROM run AS r
    WHERE r.thread_id = %(thread_id)s AND r.status IN ('pending', 'running')
) AS next
WHERE EXISTS (
    SELECT FROM thread AS t
    WHERE t.thread_id = %(thread_id)s AND t.metadata @> ANY(%(visible)s::jsonb[])
)
ORDER BY next.place, next.seq
LIMIT 1;

-- name: graph_ids
SELECT run_id::text, kwargs #>> '{config,configurable,graph_id}'
FROM run
WHERE run_id = ANY(%(run_ids)s::uuid[]);

-- name: of_assistant
-- In flight, whoever's thread they are on.
SELECT run_id, thread_id
FROM run
WHERE assistant_id = %(assistant_id)s AND status IN ('pending', 'running');

-- name: are_any
SELECT r.run_id
FROM run AS r
JOIN thread AS t ON t.thread_id = r.thread_id
WHERE r.thread_id = %(thread_id)s AND r.run_id = ANY(%(run_ids)s::uuid[])
    AND t.metadata @> ANY(%(visible)s::jsonb[])
LIMIT 1;
