-- name: page
-- Oldest first; `store.messages` turns it round. What a message follows is the one before it, unless a
-- branch begins with it.
WITH page AS MATERIALIZED (
    SELECT m.id, m.conversation_id, m.seq, m.role, m.content, m.message_type, m.meta_data,
        m.run_id, m.in_context, m.on_branch, m.create_time, m.update_time,
        CASE WHEN m.last_checkpoint_id <> m.checkpoint_id THEN m.update_time END AS edited_at,
        coalesce((
            SELECT f.parent_seq
            FROM message_fork AS f
            WHERE f.conversation_id = m.conversation_id AND f.seq = m.seq
        ), m.seq - 1) AS parent_seq,
        (
            SELECT d.deleted_at
            FROM message_deletion AS d
            WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
        ) AS deleted_at
    FROM message AS m
    WHERE m.conversation_id = %(conversation_id)s
        AND m.seq > %(after_seq)s AND m.seq < %(before_seq)s
        AND (
            %(every_branch)s::boolean
            OR m.on_branch AND NOT EXISTS (
                SELECT FROM message_deletion AS d
                WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
            )
        )
    ORDER BY m.seq
    LIMIT %(limit)s::int
)
SELECT m.id, m.conversation_id, m.seq, m.role,
    CASE WHEN m.deleted_at IS NULL THEN m.content ELSE '' END AS content, m.message_type,
    CASE WHEN m.deleted_at IS NULL THEN m.meta_data ELSE '{}' END AS meta_data, m.run_id,
    m.in_context, m.on_branch, m.create_time, m.update_time, m.edited_at, m.deleted_at,
    (
        SELECT p.id
        FROM message AS p
        WHERE p.conversation_id = m.conversation_id AND p.seq = m.parent_seq
    ) AS parent_id,
    ARRAY(
        SELECT s.id
        FROM (
            SELECT o.seq
            FROM message_fork AS o
            WHERE o.conversation_id = m.conversation_id AND o.parent_seq = m.parent_seq
            UNION ALL
            SELECT m.parent_seq + 1
            WHERE NOT EXISTS (
                SELECT FROM message_fork AS o
                WHERE o.conversation_id = m.conversation_id AND o.seq = m.parent_seq + 1
            )
        ) AS following
        JOIN message AS s ON s.conversation_id = m.conversation_id AND s.seq = following.seq
        WHERE NOT EXISTS (
            SELECT FROM message_deletion AS d
            WHERE d.conversation_id = s.conversation_id AND d.message_id = s.id
        )
        ORDER BY s.seq
    ) AS sibling_ids
FROM page AS m
ORDER BY m.seq

-- name: in_context
SELECT id, conversation_id, seq, role, content, message_type, meta_data, run_id, in_context,
    on_branch, create_time, update_time
FROM message
WHERE conversation_id = %(conversation_id)s AND position IS NOT NULL
ORDER BY position

-- name: seq
SELECT seq FROM message WHERE conversation_id = %(conversation_id)s AND id = %(id)s

-- name: delete
-- Whether the model saw it or not.
WITH gone AS (
    INSERT INTO message_deletion (conversation_id, message_id)
    SELECT m.conversation_id, m.id
    FROM message AS m
    JOIN thread AS t ON t.thread_id = m.conversation_id
    WHERE m.conversation_id = %(conversation_id)s AND m.id = ANY(%(ids)s::text[])
        AND t.metadata @> ANY(%(visible)s::jsonb[])
    ON CONFLICT DO NOTHING
    RETURNING conversation_id, message_id
)
INSERT INTO outbox (name, thread_id, data)
SELECT 'message.deleted', conversation_id, jsonb_build_object('message_id', message_id)
FROM gone

-- name: get
SELECT m.id, m.conversation_id, m.seq, m.role, m.content, m.message_type, m.meta_data, m.run_id,
    m.in_context, m.on_branch, m.create_time, m.update_time,
    CASE WHEN m.last_checkpoint_id <> m.checkpoint_id THEN m.update_time END AS edited_at
FROM message AS m
JOIN thread AS t ON t.thread_id = m.conversation_id
WHERE m.conversation_id = %(conversation_id)s AND m.id = %(id)s
    AND t.metadata @> ANY(%(visible)s::jsonb[])
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
    )

-- name: of_run
SELECT id, conversation_id, seq, role, content, message_type, meta_data, run_id, in_context,
    on_branch, create_time, update_time
FROM message AS m
WHERE conversation_id = %(conversation_id)s AND run_id = %(run_id)s::uuid
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
    )
ORDER BY seq

-- name: known_ids
SELECT id
FROM message
WHERE conversation_id = %(conversation_id)s AND id = ANY(%(message_ids)s::text[])

-- name: by_either_id
-- Known by a client under its own id, or under the one that it has for the answer of a run.
(
    SELECT id
    FROM message
    WHERE conversation_id = %(conversation_id)s AND id = %(message_id)s
)
UNION ALL (
    SELECT m.id
    FROM run AS r
    JOIN message AS m ON m.conversation_id = r.thread_id AND m.run_id = r.run_id
    WHERE r.thread_id = %(conversation_id)s AND r.metadata ->> 'reply_id' = %(message_id)s
    ORDER BY m.seq DESC
    LIMIT 1
)
LIMIT 1

-- name: thread_to_project
SELECT thread_id, metadata ->> 'graph_id' AS graph_id
FROM thread
WHERE thread_id = %(thread_id)s

-- name: threads_to_project
SELECT thread_id, metadata ->> 'graph_id' AS graph_id
FROM thread
WHERE thread_id > %(after)s
    AND (
        %(everything)s::boolean
        OR head_checkpoint_id IS NOT NULL
        AND projected_checkpoint_id IS DISTINCT FROM head_checkpoint_id
    )
ORDER BY thread_id
LIMIT %(limit)s::int

-- name: root_checkpoints
SELECT c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint ->> 'ts' AS at, c.metadata, v.version,
    b.type, b.blob, CASE WHEN b.type IS NULL THEN (
        SELECT array_agg(ARRAY[
            convert_to(w.task_path, 'UTF8'), convert_to(w.task_id, 'UTF8'),
            convert_to(w.idx::text, 'UTF8'), convert_to(w.type, 'UTF8'), w.blob
        ])
        FROM checkpoint_writes AS w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = ''
            AND w.checkpoint_id = c.parent_checkpoint_id AND w.channel = %(channel)s::text
    ) END AS writes
FROM checkpoints AS c
CROSS JOIN LATERAL (
    SELECT c.checkpoint -> 'channel_versions' ->> %(channel)s::text AS version
) AS v
LEFT JOIN LATERAL (
    SELECT bl.type, bl.blob
    FROM checkpoint_blobs AS bl
    WHERE bl.thread_id = c.thread_id AND bl.checkpoint_ns = '' AND bl.channel = %(channel)s::text
        AND bl.version = v.version
    LIMIT 1
) AS b ON true
WHERE c.thread_id = %(thread_id)s AND c.checkpoint_ns = '' AND c.checkpoint_id > %(after)s
ORDER BY c.checkpoint_id
LIMIT %(limit)s::int

-- name: messages_before
-- What was first seen in checkpoints that are no more. Where none is left, a message that is still
-- in context is not history but a rest: its run was rolled back.
SELECT id, role, content, message_type, meta_data, seq, position, on_branch, run_id,
    checkpoint_id, last_checkpoint_id, create_time, update_time
FROM message
WHERE conversation_id = %(thread_id)s
    AND (checkpoint_id < %(first)s OR %(first)s::text IS NULL AND position IS NULL)

-- name: forks
SELECT seq, parent_seq, checkpoint_id FROM message_fork WHERE conversation_id = %(thread_id)s

-- name: lock_thread
SELECT (
    SELECT max(c.checkpoint_id)
    FROM checkpoints AS c
    WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
) AS head
FROM thread AS t
WHERE t.thread_id = %(thread_id)s
FOR NO KEY UPDATE SKIP LOCKED

-- name: delete_messages
DELETE FROM message WHERE conversation_id = %(thread_id)s

-- name: insert_messages
INSERT INTO message
    (id, conversation_id, role, content, message_type, meta_data, seq, position, on_branch, run_id,
    checkpoint_id, last_checkpoint_id, create_time, update_time)
SELECT n.id, %(thread_id)s, n.role, n.content, n.message_type, n.meta_data::jsonb, n.seq,
    n.position, n.on_branch, n.run_id::uuid, n.checkpoint_id, n.last_checkpoint_id,
    n.created::timestamptz, n.updated::timestamptz
FROM unnest(
    %(id)s::text[], %(role)s::text[], %(content)s::text[], %(message_type)s::text[],
    %(meta_data)s::text[], %(seq)s::int[], %(position)s::int[], %(on_branch)s::boolean[],
    %(run_id)s::text[], %(checkpoint_id)s::text[], %(last_checkpoint_id)s::text[],
    %(created)s::text[], %(updated)s::text[]
) AS n (
    id, role, content, message_type, meta_data, seq, position, on_branch, run_id, checkpoint_id,
    last_checkpoint_id, created, updated
)

-- name: replace_forks
WITH made AS MATERIALIZED (
    SELECT n.seq, n.parent_seq, n.checkpoint_id
    FROM unnest(%(seq)s::int[], %(parent_seq)s::int[], %(checkpoint_id)s::text[])
        AS n (seq, parent_seq, checkpoint_id)
), gone AS (
    DELETE FROM message_fork AS f
    WHERE f.conversation_id = %(thread_id)s AND f.seq NOT IN (SELECT seq FROM made)
)
INSERT INTO message_fork (conversation_id, seq, parent_seq, checkpoint_id)
SELECT %(thread_id)s, seq, parent_seq, checkpoint_id
FROM made
ON CONFLICT (conversation_id, seq) DO UPDATE SET
    parent_seq = EXCLUDED.parent_seq,
    checkpoint_id = EXCLUDED.checkpoint_id

-- name: set_projected
UPDATE thread SET
    head_checkpoint_id = %(head)s,
    projected_checkpoint_id = %(projected)s,
    message_count = %(message_count)s
WHERE thread_id = %(thread_id)s
