-- name: select
-- Each blob by its primary key: a join with the channel versions would read every blob row of the
-- thread. What follows the FROM is composed.
SELECT
    c.thread_id,
    c.checkpoint,
    c.checkpoint_ns,
    c.checkpoint_id,
    c.parent_checkpoint_id,
    c.metadata,
    (
        SELECT array_agg(ARRAY[convert_to(v.key, 'UTF8'), convert_to(b.type, 'UTF8'), b.blob])
        FROM jsonb_each_text(c.checkpoint -> 'channel_versions') AS v
        CROSS JOIN LATERAL (
            SELECT bl.type, bl.blob
            FROM checkpoint_blobs AS bl
            WHERE bl.thread_id = c.thread_id AND bl.checkpoint_ns = c.checkpoint_ns
                AND bl.channel = v.key AND bl.version = v.value
            LIMIT 1
        ) AS b
    ) AS channel_values,
    (
        SELECT array_agg(ARRAY[
            convert_to(w.task_id, 'UTF8'), convert_to(w.channel, 'UTF8'),
            convert_to(w.type, 'UTF8'), w.blob, convert_to(w.task_path, 'UTF8'),
            convert_to(w.idx::text, 'UTF8')
        ])
        FROM checkpoint_writes AS w
        WHERE w.thread_id = c.thread_id AND w.checkpoint_ns = c.checkpoint_ns
            AND w.checkpoint_id = c.checkpoint_id
    ) AS pending_writes
FROM checkpoints AS c

-- name: pending_sends
-- Of checkpoints that were written before LangGraph's format 4.
SELECT thread_id, checkpoint_id,
    array_agg(
        ARRAY[
            convert_to(type, 'UTF8'), blob, convert_to(checkpoint_ns, 'UTF8'),
            convert_to(task_id, 'UTF8'), convert_to(idx::text, 'UTF8')
        ] ORDER BY task_path, task_id, idx
    ) AS sends
FROM checkpoint_writes
WHERE thread_id = ANY (%(thread_ids)s::text[]) AND checkpoint_id = ANY (%(checkpoint_ids)s::text[])
    AND channel = %(channel)s
GROUP BY thread_id, checkpoint_id
