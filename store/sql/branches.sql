-- name: state_after
-- The newest checkpoint in which a message is the last one: the thread's head, or that which brought
-- the message, or one after it before something else was said. What begins a run is none: it has
-- that run's question in it, if not yet among the messages.
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT m.conversation_id, m.seq, m.role, m.position, m.checkpoint_id, t.head_checkpoint_id,
        t.projected_checkpoint_id
    FROM message AS m
    JOIN thread AS t ON t.thread_id = m.conversation_id
    WHERE m.conversation_id = %(session_id)s AND m.id = %(message_id)s
        AND t.metadata @> ANY(%(visible)s::jsonb[])
        AND NOT EXISTS (
            SELECT FROM message_deletion AS d
            WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
        )
), later AS MATERIALIZED (
    SELECT m.checkpoint_id
    FROM asked
    JOIN message AS m ON m.conversation_id = asked.conversation_id AND m.seq > asked.seq
), line AS (
    SELECT c.thread_id, c.checkpoint_id
    FROM asked
    JOIN checkpoints AS c ON c.thread_id = asked.conversation_id AND c.checkpoint_ns = ''
        AND c.checkpoint_id = asked.checkpoint_id
    WHERE c.checkpoint_id NOT IN (SELECT checkpoint_id FROM later)
    UNION
    SELECT c.thread_id, c.checkpoint_id
    FROM line AS l
    JOIN checkpoints AS c ON c.thread_id = l.thread_id AND c.checkpoint_ns = ''
        AND c.parent_checkpoint_id = l.checkpoint_id
    WHERE c.metadata ->> 'source' <> 'input'
        AND c.checkpoint_id NOT IN (SELECT checkpoint_id FROM later)
), head AS (
    SELECT asked.head_checkpoint_id AS checkpoint_id
    FROM asked
    JOIN checkpoints AS c ON c.thread_id = asked.conversation_id AND c.checkpoint_ns = ''
        AND c.checkpoint_id = asked.head_checkpoint_id
    WHERE asked.projected_checkpoint_id = asked.head_checkpoint_id
        AND c.metadata ->> 'source' <> 'input'
        AND asked.position = (
            SELECT max(m.position) FROM message AS m
            WHERE m.conversation_id = asked.conversation_id
        )
)
SELECT asked.role,
    coalesce((SELECT checkpoint_id FROM head), (SELECT max(checkpoint_id) FROM line))
        AS checkpoint_id,
    EXISTS (SELECT FROM head) AS is_head
FROM asked

-- name: state_before
-- The checkpoint that the one goes on from which brought a message, if that message is the first of
-- those that it brought.
SELECT m.role, (
    SELECT p.checkpoint_id
    FROM checkpoints AS c
    JOIN checkpoints AS p ON p.thread_id = c.thread_id AND p.checkpoint_ns = ''
        AND p.checkpoint_id = c.parent_checkpoint_id
    WHERE c.thread_id = m.conversation_id AND c.checkpoint_ns = ''
        AND c.checkpoint_id = m.checkpoint_id
        AND NOT EXISTS (
            SELECT FROM message AS o
            WHERE o.conversation_id = m.conversation_id AND o.seq = m.seq - 1
                AND o.checkpoint_id = m.checkpoint_id
        )
) AS checkpoint_id, false AS is_head
FROM message AS m
JOIN thread AS t ON t.thread_id = m.conversation_id
WHERE m.conversation_id = %(session_id)s AND t.metadata @> ANY(%(visible)s::jsonb[])
    AND CASE WHEN %(message_id)s::text IS NULL THEN m.seq = 0 ELSE m.id = %(message_id)s::text END
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
            AND %(message_id)s::text IS NOT NULL
    )

-- name: question
-- What a message answers: of those that it follows, the user's that comes first. Of a run it is the
-- same for what it brought first, which may be the user's itself.
WITH RECURSIVE line AS (
    (
        SELECT m.seq, m.id, m.role
        FROM message AS m
        WHERE m.conversation_id = %(session_id)s
            AND CASE WHEN %(run_id)s::text IS NULL THEN m.id = %(message_id)s::text
                ELSE m.run_id = %(run_id)s::text::uuid END
        ORDER BY m.seq
        LIMIT 1
    )
    UNION ALL
    SELECT p.seq, p.id, p.role
    FROM line AS l
    JOIN message AS p ON p.conversation_id = %(session_id)s
        AND p.seq = coalesce((
            SELECT f.parent_seq
            FROM message_fork AS f
            WHERE f.conversation_id = %(session_id)s AND f.seq = l.seq
        ), l.seq - 1)
    WHERE l.role <> 'user'
)
SELECT id FROM line WHERE role = 'user'

-- name: last
-- Of the branch that is shown, and not of a run that goes on: the last message that a finished run
-- brought, or a change that was no run.
SELECT m.id
FROM message AS m
JOIN thread AS t ON t.thread_id = m.conversation_id
WHERE m.conversation_id = %(session_id)s AND t.metadata @> ANY(%(visible)s::jsonb[])
    AND m.on_branch
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
    )
    AND NOT EXISTS (
        SELECT FROM run AS r WHERE r.run_id = m.run_id AND r.status IN ('pending', 'running')
    )
ORDER BY m.seq DESC
LIMIT 1

-- name: copy_thread
WITH copied AS (
    INSERT INTO thread (thread_id, metadata, config, epoch)
    SELECT %(target)s, %(metadata)s::jsonb || jsonb_strip_nulls(jsonb_build_object(
            'graph_id', s.metadata -> 'graph_id', 'assistant_id', s.metadata -> 'assistant_id'
        )), s.config,
        -- above what the writes of its checkpoints were made under
        greatest(s.epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    FROM thread AS s
    WHERE s.thread_id = %(source)s AND s.metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.created', thread_id, jsonb_build_object('copied_from', %(source)s::text)
    FROM copied
), told_through AS (
    -- Until all of them are there; see `know`.
    INSERT INTO change_of_messages (thread_id, message_count, checkpoint_id)
    SELECT thread_id, 2147483647, '~'
    FROM copied
)
SELECT thread_id FROM copied

-- name: know
UPDATE change_of_messages AS p
SET message_count = t.message_count, checkpoint_id = coalesce(t.head_checkpoint_id, '')
FROM thread AS t
WHERE t.thread_id = %(thread_id)s AND p.thread_id = t.thread_id

-- name: give_life
INSERT INTO thread_ttl (thread_id, strategy, ttl_minutes, due_at)
SELECT t.thread_id, %(strategy)s, %(ttl_minutes)s,
    t.updated_at + make_interval(secs => 60 * %(ttl_minutes)s::double precision)
FROM thread AS t
WHERE t.thread_id = %(target)s AND %(ttl_minutes)s::double precision IS NOT NULL

-- name: copy_line
-- A checkpoint and those that it came of, with what they are made of: not what was written to it
-- itself, which is of what came after. Messages come that are older than any of them; all others are
-- made of the checkpoints. Without a checkpoint all messages come, up to `message_id`.
WITH RECURSIVE line AS (
    SELECT c.checkpoint_id, c.parent_checkpoint_id
    FROM checkpoints AS c
    WHERE c.thread_id = %(source)s AND c.checkpoint_ns = ''
        AND c.checkpoint_id = %(checkpoint_id)s::text
    UNION
    SELECT c.checkpoint_id, c.parent_checkpoint_id
    FROM line AS l
    JOIN checkpoints AS c ON c.thread_id = %(source)s AND c.checkpoint_ns = ''
        AND c.checkpoint_id = l.parent_checkpoint_id
), of_line AS MATERIALIZED (
    -- Those of a subgraph come with the checkpoint of the root that called it.
    SELECT c.checkpoint_ns, c.checkpoint_id, c.checkpoint -> 'channel_versions' AS versions
    FROM checkpoints AS c
    WHERE c.thread_id = %(source)s
        AND CASE WHEN c.checkpoint_ns = '' THEN c.checkpoint_id
            ELSE nullif(c.metadata -> 'parents' ->> '', %(checkpoint_id)s::text) END
            IN (SELECT checkpoint_id FROM line)
), copied_checkpoints AS (
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT %(target)s::text, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.type,
        c.checkpoint, CASE WHEN c.metadata ? 'thread_id'
            THEN jsonb_set(c.metadata, '{thread_id}', to_jsonb(%(target)s::text))
            ELSE c.metadata END
    FROM of_line AS l
    JOIN checkpoints AS c ON c.thread_id = %(source)s AND c.checkpoint_ns = l.checkpoint_ns
        AND c.checkpoint_id = l.checkpoint_id
), copied_blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT %(target)s::text, b.checkpoint_ns, b.channel, b.version, b.type, b.blob
    FROM checkpoint_blobs AS b
    WHERE b.thread_id = %(source)s AND (b.checkpoint_ns, b.channel, b.version) IN (
        SELECT l.checkpoint_ns, v.key, v.value
        FROM of_line AS l
        CROSS JOIN LATERAL jsonb_each_text(l.versions) AS v
    )
), copied_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT %(target)s::text, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.idx,
        w.channel, w.type, w.blob
    FROM of_line AS l
    JOIN checkpoint_writes AS w ON w.thread_id = %(source)s
        AND w.checkpoint_ns = l.checkpoint_ns AND w.checkpoint_id = l.checkpoint_id
    WHERE w.checkpoint_id <> %(checkpoint_id)s::text
), copied_messages AS (
    INSERT INTO message
        (id, conversation_id, role, content, message_type, meta_data, create_time, update_time,
        seq, position, on_branch, run_id, checkpoint_id, last_checkpoint_id)
    SELECT m.id, %(target)s, m.role, m.content, m.message_type, m.meta_data, m.create_time,
        m.update_time, row_number() OVER (ORDER BY m.seq) - 1, NULL, true, m.run_id,
        m.checkpoint_id, m.last_checkpoint_id
    FROM message AS m
    WHERE m.conversation_id = %(source)s AND m.on_branch
        AND (
            m.checkpoint_id < (SELECT min(checkpoint_id) FROM line)
            OR (%(checkpoint_id)s::text IS NULL AND m.seq <= (
                SELECT seq FROM message WHERE conversation_id = %(source)s AND id = %(message_id)s
            ))
        )
), copied_deletions AS (
    INSERT INTO message_deletion (conversation_id, message_id, deleted_at)
    SELECT %(target)s, d.message_id, d.deleted_at
    FROM message_deletion AS d
    WHERE d.conversation_id = %(source)s
), copied_uses AS (
    INSERT INTO file_use (thread_id, file_id)
    SELECT %(target)s::text, file_id FROM file_use WHERE thread_id = %(source)s
)
UPDATE thread SET checkpoint_count = (SELECT count(*) FROM line) WHERE thread_id = %(target)s
