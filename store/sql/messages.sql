-- name: page_forward
SELECT id, conversation_id, seq, role, content, message_type, meta_data, run_id, in_context,
    on_branch, create_time, update_time
FROM message
WHERE conversation_id = %(conversation_id)s
    AND seq > %(after_seq)s AND seq < %(before_seq)s
    AND (on_branch OR %(every_branch)s::boolean)
ORDER BY seq
LIMIT %(limit)s::int

-- name: page_backward
SELECT id, conversation_id, seq, role, content, message_type, meta_data, run_id, in_context,
    on_branch, create_time, update_time
FROM message
WHERE conversation_id = %(conversation_id)s
    AND seq > %(after_seq)s AND seq < %(before_seq)s
    AND (on_branch OR %(every_branch)s::boolean)
ORDER BY seq DESC
LIMIT %(limit)s::int

-- name: in_context
SELECT id, conversation_id, seq, role, content, message_type, meta_data, run_id, in_context,
    on_branch, create_time, update_time
FROM message
WHERE conversation_id = %(conversation_id)s AND position IS NOT NULL
ORDER BY position

-- name: exists
SELECT id FROM message WHERE conversation_id = %(conversation_id)s AND id = %(id)s

-- name: of_run
SELECT id, conversation_id, seq, role, content, message_type, meta_data, run_id, in_context,
    on_branch, create_time, update_time
FROM message
WHERE conversation_id = %(conversation_id)s AND run_id = %(run_id)s::uuid
ORDER BY seq

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

-- name: set_projected
UPDATE thread SET
    head_checkpoint_id = %(head)s,
    projected_checkpoint_id = %(projected)s,
    message_count = %(message_count)s
WHERE thread_id = %(thread_id)s
