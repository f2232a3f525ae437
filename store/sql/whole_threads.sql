-- name: fence_thread
-- Waits for a commit under way; whoever holds a lease writes nothing any more.
UPDATE thread SET
    epoch = epoch + 1,
    head_checkpoint_id = NULL,
    projected_checkpoint_id = NULL,
    message_count = 0
WHERE thread_id = %(thread_id)s

-- name: delete_thread
WITH deleted_messages AS (
    DELETE FROM message WHERE conversation_id = %(thread_id)s
), deleted_forks AS (
    DELETE FROM message_fork WHERE conversation_id = %(thread_id)s
), deleted_deletions AS (
    DELETE FROM message_deletion WHERE conversation_id = %(thread_id)s
), deleted_writes AS (
    DELETE FROM checkpoint_writes WHERE thread_id = %(thread_id)s
), deleted_blobs AS (
    DELETE FROM checkpoint_blobs WHERE thread_id = %(thread_id)s
)
DELETE FROM checkpoints WHERE thread_id = %(thread_id)s

-- name: forget_context
-- The checkpoints are gone; the messages stay as history.
WITH history AS (
    UPDATE message SET position = NULL
    WHERE conversation_id = ANY (%(thread_ids)s::text[]) AND position IS NOT NULL
)
UPDATE thread SET head_checkpoint_id = NULL, projected_checkpoint_id = NULL
WHERE thread_id = ANY (%(thread_ids)s::text[])

-- name: threads_of_runs
SELECT DISTINCT thread_id
FROM checkpoints
WHERE metadata ->> 'run_id' = ANY (%(run_ids)s::text[])
    AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)

-- name: lock_threads
SELECT thread_id
FROM thread
WHERE thread_id = ANY (%(thread_ids)s::text[])
ORDER BY thread_id
FOR NO KEY UPDATE

-- name: delete_runs
WITH gone AS (
    DELETE FROM checkpoints
    WHERE thread_id = ANY (%(thread_ids)s::text[])
        AND metadata ->> 'run_id' = ANY (%(run_ids)s::text[])
    RETURNING thread_id, checkpoint_ns, checkpoint_id
), deleted_writes AS (
    DELETE FROM checkpoint_writes AS w
    USING gone
    WHERE w.thread_id = gone.thread_id AND w.checkpoint_ns = gone.checkpoint_ns
        AND w.checkpoint_id = gone.checkpoint_id
)
-- Where nothing is left to make the messages from again.
DELETE FROM message AS m
USING gone
WHERE m.conversation_id = gone.thread_id AND m.checkpoint_id = gone.checkpoint_id
    AND gone.checkpoint_ns = ''
    AND NOT EXISTS (
        SELECT FROM checkpoints AS c
        WHERE c.thread_id = gone.thread_id AND c.checkpoint_ns = ''
            AND coalesce(c.metadata ->> 'run_id' <> ALL (%(run_ids)s::text[]), true)
    )

-- name: delete_garbage_blobs
WITH kept AS MATERIALIZED (
    SELECT c.thread_id, c.checkpoint_ns, v.key AS channel, v.value AS version
    FROM checkpoints AS c
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
    WHERE c.thread_id = ANY (%(thread_ids)s::text[])
)
DELETE FROM checkpoint_blobs AS b
WHERE b.thread_id = ANY (%(thread_ids)s::text[])
    AND (b.thread_id, b.checkpoint_ns, b.channel, b.version) NOT IN (
        SELECT thread_id, checkpoint_ns, channel, version FROM kept
    )

-- name: move_heads
UPDATE thread AS t SET
    head_checkpoint_id = (
        SELECT max(c.checkpoint_id)
        FROM checkpoints AS c
        WHERE c.thread_id = t.thread_id AND c.checkpoint_ns = ''
    ),
    projected_checkpoint_id = NULL,
    message_count = coalesce(
        (SELECT max(m.seq) + 1 FROM message AS m WHERE m.conversation_id = t.thread_id), 0
    ),
    state_updated_at = now()
WHERE t.thread_id = ANY (%(thread_ids)s::text[])

-- name: copy_thread
-- One statement sees one state of the source.
WITH copied_checkpoints AS (
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT %(target)s::text, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint,
        -- Ours do not name the thread; those of LangGraph's own saver do.
        CASE WHEN metadata ? 'thread_id'
            THEN jsonb_set(metadata, '{thread_id}', to_jsonb(%(target)s::text)) ELSE metadata END
    FROM checkpoints WHERE thread_id = %(source)s
    ON CONFLICT DO NOTHING
), copied_blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT %(target)s::text, checkpoint_ns, channel, version, type, blob
    FROM checkpoint_blobs WHERE thread_id = %(source)s
    ON CONFLICT DO NOTHING
), copied_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT %(target)s::text, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type,
        blob
    FROM checkpoint_writes WHERE thread_id = %(source)s
    ON CONFLICT DO NOTHING
), copied_messages AS (
    INSERT INTO message
        (id, conversation_id, role, content, message_type, meta_data, create_time, update_time,
        seq, position, on_branch, run_id, checkpoint_id, last_checkpoint_id)
    SELECT m.id, t.thread_id, m.role, m.content, m.message_type, m.meta_data, m.create_time,
        m.update_time, m.seq, m.position, m.on_branch, m.run_id, m.checkpoint_id,
        m.last_checkpoint_id
    FROM message AS m
    JOIN thread AS t ON t.thread_id = %(target)s
    WHERE m.conversation_id = %(source)s
    ON CONFLICT DO NOTHING
), copied_forks AS (
    INSERT INTO message_fork (conversation_id, seq, parent_seq, checkpoint_id)
    SELECT t.thread_id, f.seq, f.parent_seq, f.checkpoint_id
    FROM message_fork AS f
    JOIN thread AS t ON t.thread_id = %(target)s
    WHERE f.conversation_id = %(source)s
    ON CONFLICT DO NOTHING
), copied_deletions AS (
    INSERT INTO message_deletion (conversation_id, message_id, deleted_at)
    SELECT t.thread_id, d.message_id, d.deleted_at
    FROM message_deletion AS d
    JOIN thread AS t ON t.thread_id = %(target)s
    WHERE d.conversation_id = %(source)s
    ON CONFLICT DO NOTHING
), copied_uses AS (
    INSERT INTO file_use (thread_id, file_id)
    SELECT %(target)s::text, file_id FROM file_use WHERE thread_id = %(source)s
    ON CONFLICT DO NOTHING
)
UPDATE thread AS t SET
    head_checkpoint_id = s.head_checkpoint_id,
    projected_checkpoint_id = s.projected_checkpoint_id,
    message_count = s.message_count,
    state_updated_at = now()
FROM thread AS s
WHERE t.thread_id = %(target)s AND s.thread_id = %(source)s
