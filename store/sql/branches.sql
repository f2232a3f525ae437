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
    WHERE asked.projected_checkpoint_id = asked.head_checkpoint_id AND asked.position = (
        SELECT max(m.position) FROM message AS m WHERE m.conversation_id = asked.conversation_id
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
-- What an answer answers: the user's message before it, on its branch.
SELECT q.id
FROM message AS m
JOIN message AS q ON q.conversation_id = m.conversation_id AND q.seq < m.seq
    AND q.role = 'user' AND q.on_branch
WHERE m.conversation_id = %(session_id)s AND m.id = %(message_id)s
ORDER BY q.seq DESC
LIMIT 1
