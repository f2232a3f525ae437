-- name: newest
-- The checkpoints to be kept, newest first, and of each the DeltaChannels whose values are not in
-- it: they are made of what was written to its ancestors.
SELECT c.checkpoint_id, c.parent_checkpoint_id, ARRAY(
    SELECT v.key
    FROM jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.metadata -> 'counters_since_delta_snapshot' ? v.key
        AND NOT EXISTS (
            SELECT FROM checkpoint_blobs AS b
            WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = '' AND b.channel = v.key
                AND b.version = v.value
        )
) AS absent, (c.checkpoint ->> 'v')::int < 4 AS is_old
FROM checkpoints AS c
WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = ''
ORDER BY c.checkpoint_id DESC
LIMIT %(keep)s

-- name: followers
-- Checkpoints that go on from one of a run, and the DeltaChannels whose values are not in them.
SELECT f.checkpoint_id, f.absent
FROM (
    SELECT c.checkpoint_id, ARRAY(
        SELECT v.key
        FROM jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
        WHERE c.metadata -> 'counters_since_delta_snapshot' ? v.key
            AND NOT EXISTS (
                SELECT FROM checkpoint_blobs AS b
                WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = '' AND b.channel = v.key
                    AND b.version = v.value
            )
    ) AS absent
    FROM checkpoints AS c
    JOIN checkpoints AS p
        ON p.thread_id = c.thread_id AND p.checkpoint_ns = ''
        AND p.checkpoint_id = c.parent_checkpoint_id
    WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = ''
        AND p.metadata ->> 'run_id' = %(run_id)s
        AND c.metadata ->> 'run_id' IS DISTINCT FROM %(run_id)s
) AS f
WHERE cardinality(f.absent) > 0

-- name: ancestors
-- Those of a checkpoint back to the one that has the values of these channels, or to the first.
WITH RECURSIVE line AS (
    SELECT c.checkpoint_id, c.parent_checkpoint_id, false AS has_values
    FROM checkpoints AS c
    WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = ''
        AND c.checkpoint_id = %(checkpoint_id)s
    UNION ALL
    SELECT c.checkpoint_id, c.parent_checkpoint_id, NOT EXISTS (
        SELECT FROM unnest(%(channels)s::text[]) AS n (name)
        WHERE NOT EXISTS (
            SELECT FROM checkpoint_blobs AS b
            WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = '' AND b.channel = n.name
                AND b.version = c.checkpoint -> 'channel_versions' ->> n.name
        )
    )
    FROM line AS l
    JOIN checkpoints AS c
        ON c.thread_id = %(thread_id)s AND c.checkpoint_ns = ''
        AND c.checkpoint_id = l.parent_checkpoint_id
    WHERE NOT l.has_values
)
SELECT checkpoint_id FROM line

-- name: lock
-- Nobody else has taken the thread since its checkpoints were looked at.
SELECT thread_id
FROM thread
WHERE thread_id = %(thread_id)s AND epoch = %(epoch)s
FOR UPDATE SKIP LOCKED

-- name: version
SELECT checkpoint -> 'channel_versions' ->> %(channel)s::text
FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns = '' AND checkpoint_id = %(checkpoint_id)s

-- name: put_snapshot
WITH marked AS (
    UPDATE checkpoints AS c
    SET checkpoint = jsonb_set(c.checkpoint, ARRAY['channel_values', %(channel)s::text], 'true')
    WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = ''
        AND c.checkpoint_id = %(checkpoint_id)s
    RETURNING c.checkpoint -> 'channel_versions' ->> %(channel)s::text AS version
)
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT %(thread_id)s, '', %(channel)s, version, %(type)s, %(blob)s
FROM marked
ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING

-- name: delete_checkpoints
-- Those of a subgraph go with the checkpoint of the root that called it. One with a state of its
-- own, which outlives each call, keeps its newest; all of them, if their writes are data.
WITH kept AS MATERIALIZED (
    SELECT unnest(%(kept)s::text[]) AS checkpoint_id
), lasting AS MATERIALIZED (
    SELECT c.checkpoint_ns, max(c.checkpoint_id) AS newest,
        bool_or(c.metadata ? 'counters_since_delta_snapshot') AS is_delta
    FROM checkpoints AS c
    WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns <> ''
        AND strpos(c.checkpoint_ns, ':') = 0
    GROUP BY c.checkpoint_ns
), gone AS (
    DELETE FROM checkpoints AS c
    WHERE c.thread_id = %(thread_id)s
        AND CASE WHEN c.checkpoint_ns = '' THEN c.checkpoint_id
            ELSE c.metadata -> 'parents' ->> '' END NOT IN (SELECT checkpoint_id FROM kept)
        AND NOT EXISTS (
            SELECT FROM lasting AS l
            WHERE l.checkpoint_ns = c.checkpoint_ns
                AND (l.is_delta OR l.newest = c.checkpoint_id)
        )
    RETURNING c.checkpoint_ns, c.checkpoint_id
)
DELETE FROM checkpoint_writes AS w
USING gone
WHERE w.thread_id = %(thread_id)s AND w.checkpoint_ns = gone.checkpoint_ns
    AND w.checkpoint_id = gone.checkpoint_id

-- name: cut_lines
UPDATE checkpoints AS c SET parent_checkpoint_id = NULL
WHERE c.thread_id = %(thread_id)s AND c.parent_checkpoint_id IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM checkpoints AS p
        WHERE p.thread_id = c.thread_id AND p.checkpoint_ns = c.checkpoint_ns
            AND p.checkpoint_id = c.parent_checkpoint_id
    )

-- name: delete_blobs
WITH kept AS MATERIALIZED (
    SELECT c.checkpoint_ns, v.key AS channel, v.value AS version
    FROM checkpoints AS c
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.thread_id = %(thread_id)s
)
DELETE FROM checkpoint_blobs AS b
WHERE b.thread_id = %(thread_id)s
    AND (b.checkpoint_ns, b.channel, b.version) NOT IN (
        SELECT checkpoint_ns, channel, version FROM kept
    )

-- name: count
UPDATE thread SET checkpoint_count = %(count)s WHERE thread_id = %(thread_id)s

-- name: set_ttl
INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
SELECT thread_id, %(strategy)s, %(ttl_minutes)s,
    updated_at + make_interval(secs => 60 * %(ttl_minutes)s::double precision)
FROM thread
WHERE thread_id = %(thread_id)s
ON CONFLICT (thread_id) DO UPDATE SET
    strategy = EXCLUDED.strategy,
    ttl_minutes = EXCLUDED.ttl_minutes,
    due_at = EXCLUDED.due_at

-- name: get_ttl
SELECT x.strategy, x.ttl_minutes,
    t.updated_at + make_interval(secs => 60 * x.ttl_minutes) AS expires_at
FROM thread_ttl AS x
JOIN thread AS t ON t.thread_id = x.thread_id
WHERE x.thread_id = %(thread_id)s

-- name: claim_expired
-- Whose time has come by what was last known. Of these, those that were used since get a later
-- time; the others are ours for a while, after which somebody looks again.
WITH due AS MATERIALIZED (
    SELECT x.thread_id
    FROM thread_ttl AS x
    WHERE x.due_at <= now()
    ORDER BY x.due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), looked AS (
    UPDATE thread_ttl AS x
    SET due_at = greatest(
        t.updated_at + make_interval(secs => 60 * x.ttl_minutes),
        now() + make_interval(secs => %(retry_seconds)s)
    )
    FROM due
    JOIN thread AS t ON t.thread_id = due.thread_id
    WHERE x.thread_id = due.thread_id
    RETURNING x.thread_id, x.strategy,
        t.status <> 'busy' AND t.updated_at + make_interval(secs => 60 * x.ttl_minutes) <= now()
        AS is_expired
)
SELECT thread_id, strategy, is_expired FROM looked

-- name: renew
-- It lives on, with its newest checkpoint; in a life's time it is looked at again.
UPDATE thread_ttl SET due_at = now() + make_interval(secs => 60 * ttl_minutes)
WHERE thread_id = %(thread_id)s

-- name: graph
SELECT metadata ->> 'graph_id' FROM thread WHERE thread_id = %(thread_id)s

-- name: delete_expired_items
DELETE FROM store
WHERE (prefix, key) IN (
    SELECT prefix, key
    FROM store
    WHERE expires_at < now()
    ORDER BY expires_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
