-- What the project of the seed knows besides: turns as pairs, and users.

-- The seed's paired message: what a user said, and the last that the assistant said to it.
CREATE VIEW message_pair AS
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
    q.seq
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

-- Who registered with the routes of that project (`THREADWELL_COMPAT`); nobody else is in it.
CREATE TABLE "user" (
    id text NOT NULL,
    username text NOT NULL,
    -- scrypt, with its parameters and salt; never the password
    password_hash text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_pkey PRIMARY KEY (id),
    CONSTRAINT user_username_key UNIQUE (username)
);
