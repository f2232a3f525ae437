-- name: create
WITH created AS (
    INSERT INTO thread (thread_id, metadata, config)
    VALUES (%(thread_id)s, %(metadata)s::jsonb, %(config)s::jsonb)
    ON CONFLICT (thread_id) DO NOTHING
    RETURNING thread_id, status, metadata, config, interrupts, error,
        created_at, updated_at, state_updated_at
), given_life AS (
    INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
    SELECT thread_id, %(strategy)s, %(ttl_minutes)s,
        updated_at + make_interval(secs => 60 * %(ttl_minutes)s::double precision)
    FROM created
    WHERE %(ttl_minutes)s::double precision IS NOT NULL
)
SELECT thread_id, status, metadata, config, interrupts, error, created_at, updated_at,
    state_updated_at
FROM created;

-- name: create_again
-- After a first try whose answer was lost: a thread that is just the same, and that nothing was done
-- with, is what it made.
WITH created AS (
    INSERT INTO thread AS t (thread_id, metadata, config)
    VALUES (%(thread_id)s, %(metadata)s::jsonb, %(config)s::jsonb)
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = t.updated_at
    WHERE t.metadata = EXCLUDED.metadata AND t.config = EXCLUDED.config
        AND t.updated_at = t.created_at AND t.head_checkpoint_id IS NULL
        AND t.metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id, status, metadata, config, interrupts, error,
        created_at, updated_at, state_updated_at
), given_life AS (
    INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
    SELECT thread_id, %(strategy)s, %(ttl_minutes)s,
        updated_at + make_interval(secs => 60 * %(ttl_minutes)s::double precision)
    FROM created
    WHERE %(ttl_minutes)s::double precision IS NOT NULL
    ON CONFLICT (thread_id) DO NOTHING
)
SELECT thread_id, status, metadata, config, interrupts, error, created_at, updated_at,
    state_updated_at
FROM created;

-- name: get
SELECT thread_id, status, metadata, config, interrupts, error,
    created_at, updated_at, state_updated_at
FROM thread
WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: exists
SELECT thread_id FROM thread WHERE thread_id = %(thread_id)s;

-- name: every
-- For who may see everything, or whose rows `search` looks through.
SELECT thread_id, status, metadata, config, interrupts, error,
    created_at, updated_at, state_updated_at
FROM thread;

-- name: search
-- A condition that every row meets is folded away: an index could only be read whole for it.
SELECT thread_id, status, metadata, config, interrupts, error,
    created_at, updated_at, state_updated_at
FROM thread
WHERE (%(metadata)s::jsonb = '{}' OR metadata @> %(metadata)s::jsonb)
    AND (%(status)s::text IS NULL OR status = %(status)s::text)
    AND (%(ids)s::text[] IS NULL OR thread_id = ANY(%(ids)s::text[]))
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]));

-- name: count
-- Without metadata it is read from an index alone.
SELECT count(*)
FROM thread
WHERE (%(metadata)s::jsonb = '{}' OR metadata @> %(metadata)s::jsonb)
    AND (%(status)s::text IS NULL OR status = %(status)s::text)
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]));

-- name: update
UPDATE thread
SET metadata = metadata || %(metadata)s::jsonb, updated_at = now()
WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[])
RETURNING thread_id, status, metadata, config, interrupts, error,
    created_at, updated_at, state_updated_at;

-- name: lease
-- A new epoch for a writer that is no run. It holds nothing: whoever comes next takes a higher one.
UPDATE thread
SET epoch = epoch + 1
WHERE thread_id = %(thread_id)s AND status <> 'busy' AND metadata @> ANY(%(visible)s::jsonb[])
RETURNING thread_id, epoch, head_checkpoint_id, projected_checkpoint_id, settled_status,
    checkpoint_count,
    NOT EXISTS (
        SELECT FROM checkpoints AS c
        WHERE c.thread_id = thread.thread_id AND c.checkpoint_ns = ''
            AND c.checkpoint_id > coalesce(thread.head_checkpoint_id, '')
    ) AS head_is_newest;

-- name: lock_leased
SELECT thread_id FROM thread WHERE thread_id = %(thread_id)s AND epoch = %(epoch)s FOR UPDATE;

-- name: settle
-- A run that was queued meanwhile keeps the thread busy; one that began has another epoch.
UPDATE thread
SET status = CASE WHEN status = 'busy' THEN status ELSE %(status)s END,
    settled_status = %(status)s,
    interrupts = %(interrupts)s::jsonb,
    error = NULL,
    updated_at = now(),
    state_updated_at = now()
WHERE thread_id = %(thread_id)s AND epoch = %(epoch)s;

-- name: lock
SELECT thread_id FROM thread WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[]) FOR UPDATE;

-- name: delete
-- Runs and messages go with the row; a write that comes late finds no row to be fenced by.
WITH gone AS (
    DELETE FROM thread WHERE thread_id = %(thread_id)s RETURNING thread_id
), checkpoint_gone AS (
    DELETE FROM checkpoints WHERE thread_id = %(thread_id)s
), blob_gone AS (
    DELETE FROM checkpoint_blobs WHERE thread_id = %(thread_id)s
), write_gone AS (
    DELETE FROM checkpoint_writes WHERE thread_id = %(thread_id)s
)
SELECT thread_id FROM gone;

-- name: in_flight
SELECT run_id
FROM run
WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running');
