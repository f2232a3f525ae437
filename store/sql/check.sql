-- What must hold between the tables, a query for each kind of finding: it gives the threads that break it,
-- and how. All look at the threads in (after, last], without `last` at all from there on; of these at those
-- named, if any are. A statement sees one state of the database, so what goes on meanwhile is no finding.

-- name: page
-- Where a page of threads ends; NULL: at the end.
SELECT CASE WHEN count(*) = %(limit)s THEN max(p.thread_id) END
FROM (
    SELECT thread_id
    FROM thread
    WHERE thread_id > %(after)s
    ORDER BY thread_id
    LIMIT %(limit)s
) AS p

-- name: thread_busy
SELECT t.thread_id, 'it is busy, and no run of it is pending or running'
FROM thread AS t
WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR t.thread_id = ANY(%(only)s))
    AND t.status = 'busy'
    AND NOT EXISTS (
        SELECT FROM run AS r WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running')
    )

-- name: thread_not_busy
SELECT t.thread_id, 'it is ' || t.status || ', and ' || r.count || ' of its runs are pending or running'
FROM thread AS t
CROSS JOIN LATERAL (
    SELECT count(*) AS count
    FROM run AS o
    WHERE o.thread_id = t.thread_id AND o.status IN ('pending', 'running')
) AS r
WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR t.thread_id = ANY(%(only)s))
    AND t.status <> 'busy' AND r.count > 0

-- name: run_malformed
SELECT b.thread_id, string_agg('run ' || b.run_id || ' is ' || b.status || ' and ' || b.what, '; ')
FROM (
    SELECT r.thread_id, r.run_id, r.status, CASE
            WHEN r.status NOT IN ('pending', 'running') AND r.ended_at IS NULL THEN 'has no end'
            WHEN r.status IN ('pending', 'running') AND r.ended_at IS NOT NULL THEN 'has an end'
            WHEN r.status = 'running' AND r.epoch IS NULL THEN 'has no lease'
            WHEN r.first_epoch > r.epoch THEN 'has a lease of before it began'
        END AS what
    FROM run AS r
    WHERE r.thread_id > %(after)s AND (%(last)s::text IS NULL OR r.thread_id <= %(last)s)
        AND (%(only)s::text[] IS NULL OR r.thread_id = ANY(%(only)s))
) AS b
WHERE b.what IS NOT NULL
GROUP BY b.thread_id

-- name: lease_lost
-- A worker that is there executes it, and can write nothing, not even its end.
SELECT r.thread_id,
    'run ' || r.run_id || ' runs under epoch ' || r.epoch || ', the thread is at ' || t.epoch
FROM run AS r
JOIN thread AS t ON t.thread_id = r.thread_id
JOIN worker AS w ON w.worker_id = r.worker_id
WHERE r.thread_id > %(after)s AND (%(last)s::text IS NULL OR r.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR r.thread_id = ANY(%(only)s))
    AND r.status = 'running' AND r.epoch <> t.epoch

-- name: head_moved
SELECT t.thread_id, 'its head is ' || coalesce(t.head_checkpoint_id, 'none') || ', its newest checkpoint '
    || coalesce(n.checkpoint_id, 'none')
FROM thread AS t
LEFT JOIN LATERAL (
    SELECT c.checkpoint_id
    FROM checkpoints AS c
    WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
    ORDER BY c.checkpoint_id DESC
    LIMIT 1
) AS n ON true
WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR t.thread_id = ANY(%(only)s))
    AND t.head_checkpoint_id IS DISTINCT FROM n.checkpoint_id

-- name: messages_behind
SELECT t.thread_id, 'its messages are those of ' || coalesce(t.projected_checkpoint_id, 'no checkpoint')
    || ', its head is ' || t.head_checkpoint_id
FROM thread AS t
WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR t.thread_id = ANY(%(only)s))
    AND t.status <> 'busy' AND t.head_checkpoint_id IS NOT NULL
    AND t.projected_checkpoint_id IS DISTINCT FROM t.head_checkpoint_id

-- name: messages_misplaced
SELECT w.thread_id, string_agg(w.what, '; ')
FROM (
    SELECT m.conversation_id AS thread_id, 'several messages have place ' || m.seq AS what
    FROM message AS m
    WHERE m.conversation_id > %(after)s AND (%(last)s::text IS NULL OR m.conversation_id <= %(last)s)
    GROUP BY m.conversation_id, m.seq
    HAVING count(*) > 1
    UNION ALL
    SELECT m.conversation_id, 'several messages stand at ' || m.position || ' of the context'
    FROM message AS m
    WHERE m.conversation_id > %(after)s AND (%(last)s::text IS NULL OR m.conversation_id <= %(last)s)
        AND m.position IS NOT NULL
    GROUP BY m.conversation_id, m.position
    HAVING count(*) > 1
    UNION ALL
    SELECT m.conversation_id, 'message ' || m.id || ' is in the context and on no branch'
    FROM message AS m
    WHERE m.conversation_id > %(after)s AND (%(last)s::text IS NULL OR m.conversation_id <= %(last)s)
        AND m.position IS NOT NULL AND NOT m.on_branch
    UNION ALL
    SELECT t.thread_id, 'it has had ' || t.message_count || ' messages, one is at place ' || max(m.seq)
    FROM thread AS t
    JOIN message AS m ON m.conversation_id = t.thread_id
    WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    GROUP BY t.thread_id
    HAVING max(m.seq) >= t.message_count
    UNION ALL
    SELECT f.conversation_id, 'the branch at place ' || f.seq || ' follows place ' || f.parent_seq
    FROM message_fork AS f
    WHERE f.conversation_id > %(after)s AND (%(last)s::text IS NULL OR f.conversation_id <= %(last)s)
        AND f.parent_seq >= f.seq
) AS w
WHERE %(only)s::text[] IS NULL OR w.thread_id = ANY(%(only)s)
GROUP BY w.thread_id

-- name: leftover_blobs
WITH kept AS MATERIALIZED (
    SELECT c.thread_id, c.checkpoint_ns, v.key AS channel, v.value AS version
    FROM checkpoints AS c
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.thread_id > %(after)s AND (%(last)s::text IS NULL OR c.thread_id <= %(last)s)
        AND (%(only)s::text[] IS NULL OR c.thread_id = ANY(%(only)s))
)
SELECT b.thread_id, count(*) || ' values are of no checkpoint'
FROM checkpoint_blobs AS b
JOIN thread AS t ON t.thread_id = b.thread_id AND t.status <> 'busy'
WHERE b.thread_id > %(after)s AND (%(last)s::text IS NULL OR b.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR b.thread_id = ANY(%(only)s))
    AND (b.thread_id, b.checkpoint_ns, b.channel, b.version) NOT IN (
        SELECT thread_id, checkpoint_ns, channel, version FROM kept
    )
GROUP BY b.thread_id

-- name: checkpoints_of_nobody
SELECT o.thread_id, 'there are ' || string_agg(DISTINCT o.what, ' and ') || ' of it, and no such thread'
FROM (
    SELECT thread_id, 'checkpoints' AS what
    FROM checkpoints
    WHERE thread_id > %(after)s AND (%(last)s::text IS NULL OR thread_id <= %(last)s)
    UNION ALL
    SELECT thread_id, 'values'
    FROM checkpoint_blobs
    WHERE thread_id > %(after)s AND (%(last)s::text IS NULL OR thread_id <= %(last)s)
    UNION ALL
    SELECT thread_id, 'writes'
    FROM checkpoint_writes
    WHERE thread_id > %(after)s AND (%(last)s::text IS NULL OR thread_id <= %(last)s)
) AS o
WHERE (%(only)s::text[] IS NULL OR o.thread_id = ANY(%(only)s))
    AND NOT EXISTS (SELECT FROM thread AS t WHERE t.thread_id = o.thread_id)
GROUP BY o.thread_id

-- name: rows_of_nobody
SELECT o.thread_id, 'there are rows of it in ' || string_agg(DISTINCT o.name, ' and ')
    || ', and no such thread'
FROM (
    SELECT thread_id, 'search_thread' AS name
    FROM search_thread
    WHERE thread_id > %(after)s AND (%(last)s::text IS NULL OR thread_id <= %(last)s)
    UNION ALL
    SELECT conversation_id, 'search_message'
    FROM search_message
    WHERE conversation_id > %(after)s AND (%(last)s::text IS NULL OR conversation_id <= %(last)s)
    UNION ALL
    SELECT thread_id, 'file_use'
    FROM file_use
    WHERE thread_id > %(after)s AND (%(last)s::text IS NULL OR thread_id <= %(last)s)
    UNION ALL
    SELECT thread_id, 'change_of_messages'
    FROM change_of_messages
    WHERE thread_id > %(after)s AND (%(last)s::text IS NULL OR thread_id <= %(last)s)
) AS o
WHERE (%(only)s::text[] IS NULL OR o.thread_id = ANY(%(only)s))
    AND NOT EXISTS (SELECT FROM thread AS t WHERE t.thread_id = o.thread_id)
GROUP BY o.thread_id

-- name: search_behind
-- Of threads that were touched before everything that is in the index: nobody looks at them again.
SELECT t.thread_id, CASE
        WHEN s.checkpoint_id IS DISTINCT FROM t.head_checkpoint_id
            THEN 'search has it as of ' || coalesce(s.checkpoint_id, 'no checkpoint')
                || ', its head is ' || coalesce(t.head_checkpoint_id, 'none')
        ELSE 'search has not all of its messages, or more'
    END
FROM thread AS t
CROSS JOIN search_progress AS p
LEFT JOIN search_thread AS s ON s.thread_id = t.thread_id
WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR t.thread_id = ANY(%(only)s))
    AND t.status <> 'busy' AND t.updated_at < p.touched_at
    -- whose messages are behind themselves are found as such
    AND t.projected_checkpoint_id IS NOT DISTINCT FROM t.head_checkpoint_id
    AND (
        SELECT count(DISTINCT m.seq) = count(*) FROM message AS m WHERE m.conversation_id = t.thread_id
    )
    AND (
        s.checkpoint_id IS DISTINCT FROM t.head_checkpoint_id
        OR EXISTS (
            SELECT
            FROM message AS m
            LEFT JOIN search_message AS f ON f.conversation_id = m.conversation_id AND f.seq = m.seq
            WHERE m.conversation_id = t.thread_id AND f.seq IS NULL
        )
        OR EXISTS (
            SELECT
            FROM search_message AS f
            LEFT JOIN message AS m ON m.conversation_id = f.conversation_id AND m.seq = f.seq
            WHERE f.conversation_id = t.thread_id AND f.seq >= 0 AND m.seq IS NULL
        )
    )

-- name: name_not_indexed
SELECT t.thread_id, CASE
        WHEN n.thread_id IS NULL THEN 'the index of names does not have it'
        ELSE 'the index of names has another name of it'
    END
FROM thread AS t
LEFT JOIN thread_name AS n ON n.thread_id = t.thread_id
WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR t.thread_id = ANY(%(only)s))
    AND n.parts IS DISTINCT FROM CASE
        WHEN session_name(t.metadata) <> session_name('{}') THEN name_parts(session_name(t.metadata))
    END

-- name: heads
-- Of threads whose messages are those of their heads, what these are and which graph made them.
SELECT t.thread_id, t.head_checkpoint_id, t.metadata ->> 'graph_id'
FROM thread AS t
WHERE t.thread_id > %(after)s AND (%(last)s::text IS NULL OR t.thread_id <= %(last)s)
    AND (%(only)s::text[] IS NULL OR t.thread_id = ANY(%(only)s))
    AND t.head_checkpoint_id IS NOT NULL AND t.projected_checkpoint_id = t.head_checkpoint_id

-- name: newest
SELECT (
    SELECT max(c.checkpoint_id)
    FROM checkpoints AS c
    WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
), t.metadata ->> 'graph_id'
FROM thread AS t
WHERE t.thread_id = %(thread_id)s

-- name: projected
SELECT projected_checkpoint_id FROM thread WHERE thread_id = %(thread_id)s

-- name: epochs
SELECT thread_id, epoch, status FROM thread WHERE thread_id = ANY(%(thread_ids)s::text[])

-- name: settle_thread
UPDATE thread AS t
SET status = CASE
        WHEN EXISTS (
            SELECT FROM run AS r
            WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running')
        ) THEN 'busy'
        ELSE t.settled_status
    END
WHERE t.thread_id = %(thread_id)s

-- name: lock_thread
SELECT thread_id FROM thread WHERE thread_id = %(thread_id)s FOR UPDATE

-- name: hand_on
-- It is lost: whoever sees it first goes on with it under a lease of its own.
UPDATE run AS r
SET worker_id = NULL
FROM thread AS t
WHERE t.thread_id = r.thread_id AND r.thread_id = %(thread_id)s AND r.status = 'running'
    AND r.epoch <> t.epoch

-- name: delete_leftover_blobs
WITH kept AS MATERIALIZED (
    SELECT c.checkpoint_ns, v.key AS channel, v.value AS version
    FROM checkpoints AS c
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.thread_id = %(thread_id)s
)
DELETE FROM checkpoint_blobs AS b
USING thread AS t
WHERE t.thread_id = b.thread_id AND t.status <> 'busy' AND b.thread_id = %(thread_id)s
    AND (b.checkpoint_ns, b.channel, b.version) NOT IN (
        SELECT checkpoint_ns, channel, version FROM kept
    )

-- name: delete_rows
WITH gone AS MATERIALIZED (
    SELECT %(thread_id)s::text AS thread_id
    WHERE NOT EXISTS (SELECT FROM thread WHERE thread_id = %(thread_id)s)
), indexed AS (
    DELETE FROM search_message AS s USING gone WHERE s.conversation_id = gone.thread_id
), index AS (
    DELETE FROM search_thread AS s USING gone WHERE s.thread_id = gone.thread_id
), told AS (
    DELETE FROM change_of_messages AS c USING gone WHERE c.thread_id = gone.thread_id
)
DELETE FROM file_use AS u USING gone WHERE u.thread_id = gone.thread_id

-- name: index_again
-- The index forgets the thread, and looks again at all that was touched since the thread was.
WITH gone AS (
    DELETE FROM search_message WHERE conversation_id = %(thread_id)s
), unmarked AS (
    DELETE FROM search_thread WHERE thread_id = %(thread_id)s
)
UPDATE search_progress AS p
SET touched_at = least(p.touched_at, t.updated_at)
FROM thread AS t
WHERE t.thread_id = %(thread_id)s

-- name: index_name
WITH unnamed AS (
    DELETE FROM thread_name AS n
    USING thread AS t
    WHERE t.thread_id = %(thread_id)s AND n.thread_id = t.thread_id
        AND session_name(t.metadata) = session_name('{}')
)
INSERT INTO thread_name (thread_id, parts)
SELECT thread_id, name_parts(session_name(metadata))
FROM thread
WHERE thread_id = %(thread_id)s AND session_name(metadata) <> session_name('{}')
ON CONFLICT (thread_id) DO UPDATE SET parts = EXCLUDED.parts
