-- A pair whose question is deleted is none, and a deleted answer is no answer. Both still mark where the
-- answers to a question end, and which answers have a question of their own.
CREATE OR REPLACE VIEW message_pair AS
SELECT
    coalesce(a.id, b.id, q.meta_data #>> '{additional_kwargs,pair_id}', q.id) AS id,
    q.conversation_id,
    coalesce(q.meta_data #>> '{additional_kwargs,chat_type}', t.metadata ->> 'chat_type', '')
        AS chat_type,
    q.content AS query,
    coalesce(a.content, b.content, '') AS response,
    coalesce(coalesce(a.meta_data, b.meta_data) #> '{additional_kwargs,meta_data}', '{}')
        AS meta_data,
    coalesce(f.score, -1) AS feedback_score,
    coalesce(f.reason, '') AS feedback_reason,
    q.create_time,
    q.id AS question_id,
    q.seq,
    coalesce(a.meta_data, b.meta_data) ->> '$sealed' AS sealed
FROM message AS q
JOIN thread AS t ON t.thread_id = q.conversation_id
LEFT JOIN LATERAL (
    SELECT m.id, m.content, m.meta_data
    FROM message AS m
    WHERE m.conversation_id = q.conversation_id AND m.role = 'assistant' AND m.on_branch
        AND m.seq > q.seq
        AND m.seq < coalesce(
            (
                SELECT min(n.seq)
                FROM message AS n
                WHERE n.conversation_id = q.conversation_id AND n.role = 'user' AND n.on_branch
                    AND n.seq > q.seq
            ),
            2147483647
        )
        AND (
            m.meta_data #>> '{additional_kwargs,pair_id}' IS NULL
            OR m.meta_data #>> '{additional_kwargs,pair_id}'
                IN (q.meta_data #>> '{additional_kwargs,pair_id}', q.id)
            OR NOT EXISTS (
                SELECT
                FROM message AS o
                WHERE o.conversation_id = q.conversation_id AND o.role = 'user' AND o.on_branch
                    AND m.meta_data #>> '{additional_kwargs,pair_id}'
                        IN (o.meta_data #>> '{additional_kwargs,pair_id}', o.id)
            )
        )
        AND NOT EXISTS (
            SELECT FROM message_deletion AS d
            WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
        )
    ORDER BY m.seq DESC
    LIMIT 1
) AS a ON true
LEFT JOIN LATERAL (
    SELECT m.id, m.content, m.meta_data
    FROM message AS m
    -- The rest of a conversation is only looked through for a question that has no answer by it.
    WHERE a.id IS NULL
        AND m.conversation_id = q.conversation_id AND m.role = 'assistant' AND m.on_branch
        AND m.seq > q.seq
        AND m.meta_data #>> '{additional_kwargs,pair_id}'
            IN (q.meta_data #>> '{additional_kwargs,pair_id}', q.id)
        AND NOT EXISTS (
            SELECT FROM message_deletion AS d
            WHERE d.conversation_id = m.conversation_id AND d.message_id = m.id
        )
    ORDER BY m.seq DESC
    LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (
    SELECT o.score, o.reason
    FROM feedback AS o
    WHERE o.conversation_id = q.conversation_id AND o.message_id = coalesce(a.id, b.id)
    ORDER BY o.update_time DESC
    LIMIT 1
) AS f ON true
WHERE q.role = 'user' AND q.on_branch
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = q.conversation_id AND d.message_id = q.id
    );
