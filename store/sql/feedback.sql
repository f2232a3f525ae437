-- What people think of messages: an opinion each, as visible as the session.

-- name: put
-- Of what others think people see nothing, so neither who nor what is told to all who see the session.
WITH kept AS (
    INSERT INTO feedback AS f (conversation_id, message_id, user_id, score, reason, tags)
    SELECT m.conversation_id, m.id, %(user_id)s, %(score)s, %(reason)s, %(tags)s::jsonb
    FROM thread AS t
    JOIN message AS m ON m.conversation_id = t.thread_id
    WHERE t.thread_id = %(conversation_id)s AND m.id = %(message_id)s
        AND session_is_there(t.metadata, t.expires_at) AND t.metadata @> ANY(%(visible)s::jsonb[])
        AND NOT EXISTS (
            SELECT FROM message_deletion AS d
            WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
        )
    ON CONFLICT (conversation_id, message_id, user_id) DO UPDATE SET
        score = EXCLUDED.score,
        reason = EXCLUDED.reason,
        tags = EXCLUDED.tags,
        update_time = now()
    RETURNING conversation_id, message_id, score, reason, tags
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'feedback.given', conversation_id, jsonb_build_object('message_id', message_id)
    FROM kept
)
SELECT message_id, score, reason, tags FROM kept;

-- name: delete
WITH gone AS (
    DELETE FROM feedback AS f
    USING thread AS t
    WHERE t.thread_id = f.conversation_id AND f.conversation_id = %(conversation_id)s
        AND f.message_id = %(message_id)s AND f.user_id = %(user_id)s
        AND session_is_there(t.metadata, t.expires_at) AND t.metadata @> ANY(%(visible)s::jsonb[])
    RETURNING f.conversation_id, f.message_id
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'feedback.withdrawn', conversation_id, jsonb_build_object('message_id', message_id)
    FROM gone
)
SELECT message_id FROM gone;

-- name: of_messages
SELECT message_id, score, reason, tags
FROM feedback
WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s
    AND message_id = ANY(%(message_ids)s::text[]);

-- name: of_user
-- Wherever it is, in the order of sessions and messages.
SELECT conversation_id, message_id, score, reason, tags, create_time
FROM feedback
WHERE user_id = %(user_id)s
    AND (conversation_id, message_id) > (%(after_id)s::text, %(after_message)s::text)
ORDER BY conversation_id, message_id
LIMIT %(limit)s;
