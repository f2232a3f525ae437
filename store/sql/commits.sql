-- What the group commit sends, all of it one transaction. Each row names its thread and the epoch
-- of its lease; rows without an epoch are not fenced.

-- name: lock
SELECT n.thread_id, n.epoch
FROM unnest(%(thread_id)s::text[], %(epoch)s::bigint[]) AS n (thread_id, epoch)
JOIN thread AS t ON t.thread_id = n.thread_id AND t.epoch = n.epoch
ORDER BY t.thread_id
FOR NO KEY UPDATE OF t

-- name: blobs
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT n.thread_id, n.checkpoint_ns, n.channel, n.version, n.type, n.blob
FROM unnest(
    %(thread_id)s::text[], %(epoch)s::bigint[], %(checkpoint_ns)s::text[], %(channel)s::text[],
    %(version)s::text[], %(type)s::text[], %(blob)s::bytea[]
) AS n (thread_id, epoch, checkpoint_ns, channel, version, type, blob)
WHERE n.epoch IS NULL
    OR EXISTS (SELECT FROM thread AS t WHERE t.thread_id = n.thread_id AND t.epoch = n.epoch)
ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING

-- name: blob
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
SELECT %(thread_id)s::text, %(checkpoint_ns)s::text, %(channel)s::text, %(version)s::text,
    %(type)s::text, %(blob)s::bytea
WHERE %(epoch)s::bigint IS NULL
    OR EXISTS (
        SELECT FROM thread AS t
        WHERE t.thread_id = %(thread_id)s::text AND t.epoch = %(epoch)s::bigint
    )
ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING

-- name: writes
-- Writes to special channels (negative idx) replace, ordinary ones are written once. What another
-- run wrote is kept beside what replaces it, for the case that this one is taken back.
INSERT INTO checkpoint_writes AS w
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob, epoch)
SELECT n.thread_id, n.checkpoint_ns, n.checkpoint_id, n.task_id, n.task_path, n.idx, n.channel,
    n.type, n.blob, n.epoch
FROM unnest(
    %(thread_id)s::text[], %(epoch)s::bigint[], %(checkpoint_ns)s::text[],
    %(checkpoint_id)s::text[], %(task_id)s::text[], %(task_path)s::text[], %(idx)s::int[],
    %(channel)s::text[], %(type)s::text[], %(blob)s::bytea[]
) AS n (
    thread_id, epoch, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
)
WHERE n.epoch IS NULL
    OR EXISTS (SELECT FROM thread AS t WHERE t.thread_id = n.thread_id AND t.epoch = n.epoch)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
    channel = EXCLUDED.channel,
    type = EXCLUDED.type,
    blob = EXCLUDED.blob,
    epoch = EXCLUDED.epoch,
    (replaced_type, replaced_blob, replaced_epoch) = (
        SELECT CASE WHEN own THEN w.replaced_type ELSE w.type END,
            CASE WHEN own THEN w.replaced_blob ELSE w.blob END,
            CASE WHEN own THEN w.replaced_epoch ELSE w.epoch END
        FROM (
            SELECT w.epoch >= (
                SELECT r.first_epoch
                FROM run AS r
                WHERE r.thread_id = w.thread_id AND r.status = 'running'
            )
        ) AS earlier (own)
    )
WHERE EXCLUDED.idx < 0

-- name: checkpoints
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
SELECT n.thread_id, n.checkpoint_ns, n.checkpoint_id, n.parent_checkpoint_id,
    n.checkpoint::jsonb, n.metadata::jsonb
FROM unnest(
    %(thread_id)s::text[], %(epoch)s::bigint[], %(checkpoint_ns)s::text[],
    %(checkpoint_id)s::text[], %(parent_checkpoint_id)s::text[], %(checkpoint)s::text[],
    %(metadata)s::text[]
) AS n (
    thread_id, epoch, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata
)
WHERE n.epoch IS NULL
    OR EXISTS (SELECT FROM thread AS t WHERE t.thread_id = n.thread_id AND t.epoch = n.epoch)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET
    checkpoint = EXCLUDED.checkpoint,
    metadata = EXCLUDED.metadata

-- name: reset
-- Before a whole list is written: nothing is in context, and the branch is the new checkpoint's
-- line of ancestors (where they are pruned: what was on the branch). A checkpoint that continues
-- the mirrored one stays on its branch.
WITH RECURSIVE head AS MATERIALIZED (
    SELECT t.thread_id, n.parent_checkpoint_id,
        t.projected_checkpoint_id IS NOT DISTINCT FROM n.parent_checkpoint_id
        OR t.projected_checkpoint_id = n.checkpoint_id AS continues
    FROM unnest(
        %(thread_id)s::text[], %(epoch)s::bigint[], %(checkpoint_id)s::text[],
        %(parent_checkpoint_id)s::text[]
    ) AS n (thread_id, epoch, checkpoint_id, parent_checkpoint_id)
    JOIN thread AS t ON t.thread_id = n.thread_id AND t.epoch = n.epoch
), line AS (
    SELECT thread_id, parent_checkpoint_id AS checkpoint_id
    FROM head
    WHERE parent_checkpoint_id IS NOT NULL AND NOT continues
    UNION
    SELECT c.thread_id, c.parent_checkpoint_id
    FROM line AS l
    JOIN checkpoints AS c
        ON c.thread_id = l.thread_id AND c.checkpoint_ns = '' AND c.checkpoint_id = l.checkpoint_id
    WHERE c.parent_checkpoint_id IS NOT NULL
)
UPDATE message AS m SET
    position = NULL,
    on_branch = CASE WHEN head.continues THEN m.on_branch ELSE
        EXISTS (
            SELECT FROM line AS l
            WHERE l.thread_id = m.conversation_id AND l.checkpoint_id = m.checkpoint_id
        )
        OR m.on_branch AND m.checkpoint_id < coalesce(
            (SELECT min(l.checkpoint_id) FROM line AS l WHERE l.thread_id = m.conversation_id), ''
        )
    END
FROM head
WHERE m.conversation_id = head.thread_id

-- name: messages
-- A new message takes the next place in the history; one that exists keeps its place and its birth.
INSERT INTO message AS m
    (id, conversation_id, role, content, message_type, meta_data, create_time, update_time, seq,
    position, run_id, checkpoint_id, last_checkpoint_id)
SELECT n.id, n.thread_id, n.role, n.content, n.message_type, n.meta_data::jsonb,
    n.at::timestamptz, n.at::timestamptz,
    t.message_count - 1 + (
        count(*) FILTER (WHERE n.is_new) OVER (PARTITION BY n.thread_id ORDER BY n.position)
    )::int,
    n.position, n.run_id::uuid, n.checkpoint_id, n.checkpoint_id
FROM (
    SELECT u.thread_id, u.epoch, u.id, u.role, u.content, u.message_type, u.meta_data, u.position,
        u.checkpoint_id, u.at, u.run_id,
        NOT EXISTS (
            SELECT FROM message AS o WHERE o.conversation_id = u.thread_id AND o.id = u.id
        ) AS is_new
    FROM unnest(
        %(thread_id)s::text[], %(epoch)s::bigint[], %(id)s::text[], %(role)s::text[],
        %(content)s::text[], %(message_type)s::text[], %(meta_data)s::text[], %(position)s::int[],
        %(checkpoint_id)s::text[], %(at)s::text[], %(run_id)s::text[]
    ) AS u (
        thread_id, epoch, id, role, content, message_type, meta_data, position, checkpoint_id, at,
        run_id
    )
) AS n
JOIN thread AS t ON t.thread_id = n.thread_id AND t.epoch = n.epoch
ON CONFLICT (conversation_id, id) DO UPDATE SET
    role = EXCLUDED.role,
    content = EXCLUDED.content,
    message_type = EXCLUDED.message_type,
    meta_data = EXCLUDED.meta_data,
    update_time = CASE
        WHEN (m.role, m.content, m.message_type, m.meta_data)
            = (EXCLUDED.role, EXCLUDED.content, EXCLUDED.message_type, EXCLUDED.meta_data)
        THEN m.update_time ELSE EXCLUDED.update_time
    END,
    last_checkpoint_id = CASE
        WHEN (m.role, m.content, m.message_type, m.meta_data)
            = (EXCLUDED.role, EXCLUDED.content, EXCLUDED.message_type, EXCLUDED.meta_data)
        THEN m.last_checkpoint_id ELSE EXCLUDED.last_checkpoint_id
    END,
    position = EXCLUDED.position,
    on_branch = true
WHERE (m.role, m.content, m.message_type, m.meta_data, m.position, m.on_branch)
    IS DISTINCT FROM (
        EXCLUDED.role, EXCLUDED.content, EXCLUDED.message_type, EXCLUDED.meta_data,
        EXCLUDED.position, true
    )

-- name: forks
-- Where a branch begins: what is said next does not follow the message before it in the history. Only
-- checkpoints that go back come here; of several before anything is said the last one counts. One that
-- continues no other is on the branch of the messages that it begins with.
WITH RECURSIVE forked AS MATERIALIZED (
    SELECT t.thread_id, t.message_count AS seq, n.checkpoint_id,
        n.parent_checkpoint_id IS NULL AS is_root, coalesce((
        SELECT max(m.seq)
        FROM message AS m
        WHERE m.conversation_id = t.thread_id AND m.on_branch AND m.seq < t.message_count
    ), -1) AS parent_seq
    FROM unnest(
        %(thread_id)s::text[], %(epoch)s::bigint[], %(checkpoint_id)s::text[],
        %(parent_checkpoint_id)s::text[]
    ) AS n (thread_id, epoch, checkpoint_id, parent_checkpoint_id)
    JOIN thread AS t ON t.thread_id = n.thread_id AND t.epoch = n.epoch
    WHERE t.projected_checkpoint_id IS DISTINCT FROM n.parent_checkpoint_id
        AND t.projected_checkpoint_id IS DISTINCT FROM n.checkpoint_id
), branch AS (
    SELECT thread_id, parent_seq AS seq
    FROM forked
    WHERE is_root
    UNION ALL
    SELECT b.thread_id, coalesce((
        SELECT f.parent_seq
        FROM message_fork AS f
        WHERE f.conversation_id = b.thread_id AND f.seq = b.seq
    ), b.seq - 1)
    FROM branch AS b
    WHERE b.seq >= 0
), shown AS (
    UPDATE message AS m SET on_branch = true
    FROM branch AS b
    WHERE m.conversation_id = b.thread_id AND m.seq = b.seq AND NOT m.on_branch
), straight AS (
    DELETE FROM message_fork AS f
    USING forked
    WHERE f.conversation_id = forked.thread_id AND f.seq = forked.seq
        AND forked.parent_seq = forked.seq - 1
)
INSERT INTO message_fork (conversation_id, seq, parent_seq, checkpoint_id)
SELECT thread_id, seq, parent_seq, checkpoint_id
FROM forked
WHERE parent_seq <> seq - 1
ON CONFLICT (conversation_id, seq) DO UPDATE SET
    parent_seq = EXCLUDED.parent_seq,
    checkpoint_id = EXCLUDED.checkpoint_id

-- name: places
UPDATE message AS m SET position = n.position
FROM unnest(
    %(thread_id)s::text[], %(epoch)s::bigint[], %(id)s::text[], %(position)s::int[]
) AS n (thread_id, epoch, id, position)
JOIN thread AS t ON t.thread_id = n.thread_id AND t.epoch = n.epoch
WHERE m.conversation_id = n.thread_id AND m.id = n.id

-- name: heads
UPDATE thread AS t SET
    head_checkpoint_id = n.checkpoint_id,
    checkpoint_count = t.checkpoint_count + 1,
    projected_checkpoint_id = CASE WHEN n.is_projected THEN n.checkpoint_id END,
    message_count = CASE WHEN n.has_messages THEN coalesce(
        (SELECT max(m.seq) + 1 FROM message AS m WHERE m.conversation_id = t.thread_id), 0
    ) ELSE t.message_count END
FROM unnest(
    %(thread_id)s::text[], %(epoch)s::bigint[], %(checkpoint_id)s::text[],
    %(is_projected)s::boolean[], %(has_messages)s::boolean[]
) AS n (thread_id, epoch, checkpoint_id, is_projected, has_messages)
WHERE t.thread_id = n.thread_id AND t.epoch = n.epoch
