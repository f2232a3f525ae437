-- name: get
SELECT f.run_id AS first_run_id, l.run_id, f.thread_id, f.assistant_id, l.status, l.error,
    l.status = 'success' AND t.status = 'interrupted' AND NOT EXISTS (
        SELECT FROM run AS n WHERE n.thread_id = f.thread_id AND n.seq > l.seq
    ) AS asks, l.updated_at
FROM run AS f
JOIN thread AS t ON t.thread_id = f.thread_id
CROSS JOIN LATERAL (
    SELECT r.run_id, r.seq, r.status, r.error, r.updated_at
    FROM run AS r
    WHERE r.thread_id = f.thread_id
        AND (r.run_id = f.run_id OR r.metadata ->> 'continues_run_id' = f.run_id::text)
    ORDER BY r.seq DESC
    LIMIT 1
) AS l
WHERE f.run_id = %(run_id)s::uuid AND f.thread_id = %(thread_id)s
    AND f.assistant_id = %(assistant_id)s AND NOT f.metadata ? 'continues_run_id'
    AND t.metadata @> ANY(%(visible)s::jsonb[])

-- name: list
WITH chain AS MATERIALIZED (
    SELECT f.run_id AS first_run_id, l.run_id, f.thread_id, f.assistant_id, l.status, l.error,
        l.status = 'success' AND t.status = 'interrupted' AND NOT EXISTS (
            SELECT FROM run AS n WHERE n.thread_id = f.thread_id AND n.seq > l.seq
        ) AS asks, l.updated_at, l.seq
    FROM run AS f
    JOIN thread AS t ON t.thread_id = f.thread_id
    CROSS JOIN LATERAL (
        SELECT r.run_id, r.seq, r.status, r.error, r.updated_at
        FROM run AS r
        WHERE r.thread_id = f.thread_id
            AND (r.run_id = f.run_id OR r.metadata ->> 'continues_run_id' = f.run_id::text)
        ORDER BY r.seq DESC
        LIMIT 1
    ) AS l
    WHERE f.assistant_id = %(assistant_id)s AND NOT f.metadata ? 'continues_run_id'
        AND NOT f.temporary
        AND (%(thread_id)s::text IS NULL OR f.thread_id = %(thread_id)s::text)
        AND (%(after)s::timestamptz IS NULL OR l.updated_at > %(after)s::timestamptz)
        AND t.metadata @> ANY(%(visible)s::jsonb[])
)
SELECT first_run_id, run_id, thread_id, assistant_id, status, error, asks, updated_at,
    count(*) OVER () AS total
FROM chain
WHERE (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s::text[]))
    AND (%(asks)s::boolean IS NULL OR asks = %(asks)s::boolean)
ORDER BY seq DESC
LIMIT %(limit)s OFFSET %(offset)s

-- name: firsts
SELECT run_id, COALESCE(metadata ->> 'continues_run_id', run_id::text)
FROM run
WHERE run_id = ANY(%(run_ids)s::uuid[])
