-- name: of_conversation
SELECT p.id, p.conversation_id, p.chat_type, p.query, p.response, p.meta_data, p.feedback_score,
    p.feedback_reason, p.create_time, p.question_id, p.sealed
FROM message_pair AS p
JOIN thread AS t ON t.thread_id = p.conversation_id
WHERE p.conversation_id = %(conversation_id)s AND t.metadata @> ANY(%(visible)s::jsonb[])
    AND (%(chat_type)s::text IS NULL OR p.chat_type = %(chat_type)s::text)
    AND (NOT %(answered)s::boolean OR p.response <> '')
ORDER BY p.seq DESC
LIMIT %(limit)s::int;

-- name: of_message
-- By the answer's id, or the question's. Of copies of one conversation, the one touched last.
SELECT p.id, p.conversation_id, p.chat_type, p.query, p.response, p.meta_data, p.feedback_score,
    p.feedback_reason, p.create_time, p.question_id, p.sealed
FROM message AS m
JOIN thread AS t ON t.thread_id = m.conversation_id
JOIN message_pair AS p
    ON p.conversation_id = m.conversation_id AND m.id IN (p.id, p.question_id)
WHERE m.id = ANY(%(ids)s::text[]) AND t.metadata @> ANY(%(visible)s::jsonb[])
ORDER BY t.updated_at DESC
LIMIT 1;
