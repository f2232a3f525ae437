-- Encryption at rest: one row once it began. Whoever has no key does not touch such a database.
CREATE TABLE encryption (
    is_only boolean NOT NULL DEFAULT true CHECK (is_only),
    -- nothing is in the clear any more
    is_complete boolean NOT NULL,
    -- of the keys that something may be sealed by
    key_ids text[] NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT encryption_pkey PRIMARY KEY (is_only)
);

-- A pair has what its answer's meta_data is sealed in, for who has the key.
CREATE OR REPLACE VIEW message_pair AS
SELECT
    coalesce(a.id, q.meta_data #>> '{additional_kwargs,pair_id}', q.id) AS id,
    q.conversation_id,
    coalesce(q.meta_data #>> '{additional_kwargs,chat_type}', t.metadata ->> 'chat_type', '')
        AS chat_type,
    q.content AS query,
    coalesce(a.content, '') AS response,
    coalesce(a.meta_data #> '{additional_kwargs,meta_data}', '{}') AS meta_data,
    coalesce(f.score, -1) AS feedback_score,
    coalesce(f.reason, '') AS feedback_reason,
    q.create_time,
    q.id AS question_id,
    q.seq,
    a.meta_data ->> '$sealed' AS sealed
FROM message AS q
JOIN thread AS t ON t.thread_id = q.conversation_id
LEFT JOIN LATERAL (
    SELECT m.id, m.conversation_id, m.content, m.meta_data
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
    ORDER BY m.seq DESC
    LIMIT 1
) AS a ON true
LEFT JOIN LATERAL (
    SELECT o.score, o.reason
    FROM feedback AS o
    WHERE o.conversation_id = a.conversation_id AND o.message_id = a.id
    ORDER BY o.update_time DESC
    LIMIT 1
) AS f ON true
WHERE q.role = 'user' AND q.on_branch;
