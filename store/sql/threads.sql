-- name: create
WITH created AS (
    INSERT INTO thread (thread_id, metadata, config, expires_at)
    VALUES (%(thread_id)s, %(metadata)s::jsonb, %(config)s::jsonb, %(expires_at)s::timestamptz)
    ON CONFLICT (thread_id) DO NOTHING
    RETURNING thread_id, status, metadata, config, interrupts, error,
        created_at, updated_at, state_updated_at, base_epoch
), told AS (
    INSERT INTO outbox (name, thread_id)
    SELECT 'session.created', thread_id
    FROM created
    WHERE NOT %(temporary)s
), given_life AS (
    INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
    SELECT thread_id, %(strategy)s, %(ttl_minutes)s,
        updated_at + make_interval(secs => 60 * %(ttl_minutes)s::double precision)
    FROM created
    WHERE %(ttl_minutes)s::double precision IS NOT NULL
)
SELECT thread_id, status, metadata, config, interrupts, error, created_at, updated_at,
    state_updated_at, base_epoch
FROM created;

-- name: create_again
-- After a first try whose answer was lost: a thread that is just the same, and that nothing was done
-- with, is what it made.
WITH created AS (
    INSERT INTO thread AS t (thread_id, metadata, config, expires_at)
    VALUES (%(thread_id)s, %(metadata)s::jsonb, %(config)s::jsonb, %(expires_at)s::timestamptz)
    ON CONFLICT (thread_id) DO UPDATE SET updated_at = t.updated_at
    WHERE t.metadata = EXCLUDED.metadata AND t.config = EXCLUDED.config
        AND t.expires_at IS NOT DISTINCT FROM EXCLUDED.expires_at
        AND t.updated_at = t.created_at AND t.head_checkpoint_id IS NULL
        AND t.metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id, status, metadata, config, interrupts, error,
        created_at, updated_at, state_updated_at, base_epoch, xmax = 0 AS is_new
), told AS (
    INSERT INTO outbox (name, thread_id)
    SELECT 'session.created', thread_id
    FROM created
    WHERE is_new AND NOT %(temporary)s
), given_life AS (
    INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
    SELECT thread_id, %(strategy)s, %(ttl_minutes)s,
        updated_at + make_interval(secs => 60 * %(ttl_minutes)s::double precision)
    FROM created
    WHERE %(ttl_minutes)s::double precision IS NOT NULL
    ON CONFLICT (thread_id) DO NOTHING
)
SELECT thread_id, status, metadata, config, interrupts, error, created_at, updated_at,
    state_updated_at, base_epoch
FROM created;

-- name: get
SELECT thread_id, status, metadata, config, interrupts, error,
    created_at, updated_at, state_updated_at, base_epoch
FROM thread
WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: would_be_visible
SELECT WHERE %(metadata)s::jsonb @> ANY(%(visible)s::jsonb[]);

-- name: exists
SELECT thread_id FROM thread WHERE thread_id = %(thread_id)s;

-- name: is_unused
SELECT FROM thread AS t
WHERE t.thread_id = %(thread_id)s
    AND t.head_checkpoint_id IS NULL
    AND NOT EXISTS (SELECT FROM run AS r WHERE r.thread_id = t.thread_id);

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

-- name: metadata_to_change
SELECT metadata
FROM thread
WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[])
FOR NO KEY UPDATE;

-- name: update
-- What makes a session a deleted one does what deleting it does, and the other way round.
WITH before AS MATERIALIZED (
    SELECT thread_id, metadata
    FROM thread
    WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[])
    FOR NO KEY UPDATE
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT CASE
            WHEN is_deleted AND NOT was_deleted THEN 'session.deleted'
            WHEN was_deleted AND NOT is_deleted THEN 'session.restored'
            ELSE 'session.updated'
        END,
        thread_id, jsonb_build_object('changed', changed)
    FROM before
    CROSS JOIN LATERAL (
        SELECT before.metadata @> '{"status": "deleted"}' AS was_deleted,
            before.metadata || %(metadata)s::jsonb @> '{"status": "deleted"}' AS is_deleted,
            changed_keys(before.metadata, before.metadata || %(metadata)s::jsonb) AS changed
    ) AS difference
    WHERE changed IS NOT NULL
)
UPDATE thread
SET metadata = CASE
        WHEN is_deleted AND NOT was_deleted THEN after - 'members' || jsonb_build_object('deleted_at', now())
        WHEN was_deleted AND NOT is_deleted THEN after - 'deleted_at'
        ELSE after
    END,
    purge_at = CASE
        WHEN is_deleted AND NOT was_deleted
            THEN now() + make_interval(secs => %(keep_seconds)s::double precision)
        WHEN is_deleted THEN purge_at
    END,
    updated_at = now()
FROM before
CROSS JOIN LATERAL (
    SELECT before.metadata || %(metadata)s::jsonb AS after,
        before.metadata @> '{"status": "deleted"}' AS was_deleted,
        before.metadata || %(metadata)s::jsonb @> '{"status": "deleted"}' AS is_deleted
) AS difference
WHERE thread.thread_id = before.thread_id
RETURNING thread.thread_id, status, thread.metadata, config, interrupts, error,
    created_at, updated_at, state_updated_at;

-- name: unshare
-- After the statement that deletes it: whoever shares it holds its row, and this sees what they made.
DELETE FROM share WHERE thread_id = %(thread_id)s;

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
WITH settled AS (
    UPDATE thread
    SET status = CASE WHEN status = 'busy' THEN status ELSE %(status)s END,
        settled_status = %(status)s,
        interrupts = %(interrupts)s::jsonb,
        error = NULL,
        updated_at = now(),
        state_updated_at = now()
    WHERE thread_id = %(thread_id)s AND epoch = %(epoch)s
    RETURNING thread_id
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.updated', thread_id, '{"changed": ["state"]}'
    FROM settled
)
SELECT thread_id FROM settled;

-- name: lock
SELECT thread_id FROM thread WHERE thread_id = %(thread_id)s AND metadata @> ANY(%(visible)s::jsonb[]) FOR UPDATE;

-- name: delete
-- Runs and messages go with the row; a write that comes late finds no row to be fenced by.
WITH gone AS (
    DELETE FROM thread WHERE thread_id = %(thread_id)s RETURNING thread_id, metadata
), told AS (
    -- Who could see the thread may know that it is gone, and nobody what it was called.
    INSERT INTO outbox (name, thread_id, seen_by)
    SELECT 'session.purged', thread_id,
        metadata - ARRAY['name', 'generated_title', 'title_source', 'tags', 'folder']
    FROM gone
), change_gone AS (
    DELETE FROM change WHERE thread_id = %(thread_id)s
), delivery_gone AS (
    DELETE FROM webhook_delivery WHERE thread_id = %(thread_id)s
), place_gone AS (
    DELETE FROM change_of_messages WHERE thread_id = %(thread_id)s
), checkpoint_gone AS (
    DELETE FROM checkpoints WHERE thread_id = %(thread_id)s
), blob_gone AS (
    DELETE FROM checkpoint_blobs WHERE thread_id = %(thread_id)s
), write_gone AS (
    DELETE FROM checkpoint_writes WHERE thread_id = %(thread_id)s
), indexed_gone AS (
    DELETE FROM search_message WHERE conversation_id = %(thread_id)s
), index_gone AS (
    DELETE FROM search_thread WHERE thread_id = %(thread_id)s
), use_gone AS (
    DELETE FROM file_use WHERE thread_id = %(thread_id)s RETURNING file_id
), perhaps_unused AS (
    UPDATE file SET checked_at = 'epoch' FROM use_gone WHERE file.file_id = use_gone.file_id
)
SELECT thread_id FROM gone;

-- name: in_flight
SELECT run_id
FROM run
WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running');

-- name: copy
-- What its checkpoints and messages belong to comes with them, see `copy_thread`. In the middle of a
-- run it is what a run leaves that was stopped there: something is next.
WITH copied AS (
    INSERT INTO thread (thread_id, metadata, config, interrupts, error, status, settled_status,
        epoch, checkpoint_count)
    -- whom the one is shared with has nothing to do with the copy, nor has that it is deleted
    SELECT %(target)s,
        CASE WHEN s.metadata @> '{"status": "deleted"}' THEN s.metadata - 'status' ELSE s.metadata END
            - ARRAY['members', 'import_under_way', 'deleted_at'] || %(metadata)s::jsonb,
        s.config,
        CASE WHEN going.has_written THEN '{}' ELSE s.interrupts END,
        CASE WHEN going.has_written THEN NULL ELSE s.error END,
        left_in.status, left_in.status,
        -- above what the writes of its checkpoints were made under
        greatest(s.epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint),
        s.checkpoint_count
    FROM thread AS s
    CROSS JOIN LATERAL (
        SELECT EXISTS (
            SELECT FROM run AS r
            JOIN checkpoints AS c ON c.thread_id = r.thread_id AND c.checkpoint_ns = ''
                AND c.checkpoint_id = s.head_checkpoint_id
                AND c.metadata ->> 'run_id' = r.run_id::text
            WHERE r.thread_id = s.thread_id AND r.status IN ('pending', 'running')
        ) AS has_written
    ) AS going
    CROSS JOIN LATERAL (
        SELECT CASE WHEN going.has_written THEN 'interrupted' ELSE s.settled_status END AS status
    ) AS left_in
    WHERE s.thread_id = %(source)s AND s.metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id, updated_at
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.created', thread_id, jsonb_build_object('copied_from', %(source)s::text)
    FROM copied
), told_through AS (
    -- The messages that it begins with are nobody's news.
    INSERT INTO change_of_messages (thread_id, message_count, checkpoint_id)
    SELECT copied.thread_id, s.message_count, coalesce(s.head_checkpoint_id, '')
    FROM copied
    JOIN thread AS s ON s.thread_id = %(source)s
), given_life AS (
    INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
    SELECT copied.thread_id, x.strategy, x.ttl_minutes,
        copied.updated_at + make_interval(secs => 60 * x.ttl_minutes)
    FROM copied
    JOIN thread_ttl AS x ON x.thread_id = %(source)s
)
SELECT thread_id FROM copied;

-- name: candidates
-- Threads that may have the values that are asked for: of these, scalars lie in the checkpoint's
-- JSON and are compared here. What lies in a blob, and what a DeltaChannel makes, is not seen.
SELECT t.thread_id
FROM thread AS t
CROSS JOIN LATERAL (
    SELECT c.checkpoint -> 'channel_values' AS scalars,
        c.metadata -> 'counters_since_delta_snapshot' AS made
    FROM checkpoints AS c
    WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) AS head
WHERE (%(metadata)s::jsonb = '{}' OR t.metadata @> %(metadata)s::jsonb)
    AND (%(status)s::text IS NULL OR t.status = %(status)s::text)
    AND (%(ids)s::text[] IS NULL OR t.thread_id = ANY(%(ids)s::text[]))
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR t.metadata @> ANY(%(visible)s::jsonb[]))
    AND NOT EXISTS (
        SELECT FROM jsonb_each(%(values)s::jsonb) AS wanted
        WHERE head.scalars -> wanted.key <> wanted.value
            AND NOT coalesce(head.made ? wanted.key, false)
    );

-- name: of_assistant
SELECT t.thread_id
FROM thread AS t
WHERE t.metadata @> jsonb_build_object('assistant_id', %(assistant_id)s::text)
    AND t.metadata @> ANY(%(visible)s::jsonb[])
LIMIT %(limit)s;

-- name: storage
-- What a thread takes: JSON as it lies on disk, blobs before they are compressed.
SELECT 'checkpoints' AS kind, NULL AS channel, count(*) AS count,
    coalesce(sum(pg_column_size(c.checkpoint) + pg_column_size(c.metadata)), 0)::bigint AS bytes
FROM checkpoints AS c
WHERE c.thread_id = %(thread_id)s
UNION ALL
SELECT 'channel_values', b.channel, count(*), coalesce(sum(octet_length(b.blob)), 0)::bigint
FROM checkpoint_blobs AS b
WHERE b.thread_id = %(thread_id)s
GROUP BY b.channel
UNION ALL
SELECT 'pending_writes', NULL, count(*), coalesce(sum(octet_length(w.blob)), 0)::bigint
FROM checkpoint_writes AS w
WHERE w.thread_id = %(thread_id)s;

-- name: epoch
SELECT epoch FROM thread WHERE thread_id = %(thread_id)s;

-- name: base_epoch
SELECT coalesce(base_epoch, 0) FROM thread WHERE thread_id = %(thread_id)s;

-- name: count_owned
SELECT count(*)
FROM (
    SELECT FROM thread WHERE metadata @> %(owned)s::jsonb LIMIT %(most)s::bigint
) AS owned;
