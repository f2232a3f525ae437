-- What was said, run and thought of it in a stretch of time, in groups. Threads that are not visible
-- are not counted; sessions that are deleted are, until they are purged: what they cost was spent.
-- Of a day the key is its number among `days`, which are their first moments.
--
-- What is visible is asked of every row behind OFFSET 0, beyond which the planner does not look: it
-- takes containment for rare, and would look for the messages of each of a user's many threads.
-- `narrowed` is the same condition where threads are found, or none if `user_id` says it better.

-- name: room
-- For this transaction: hundreds of thousands of rows are grouped without a file.
SELECT set_config('work_mem', '64MB', true);

-- name: said
-- Whatever is on any branch: it was said, and paid for. A row of a group without a model is its sum.
WITH told AS (
    SELECT m.conversation_id, m.model,
        CASE WHEN %(group_by)s::text = 'day'
            THEN width_bucket(m.create_time, %(days)s::timestamptz[]) END AS day,
        count(*) AS messages,
        count(*) FILTER (WHERE m.is_answer) AS answers,
        sum(token_count(m.usage -> 'input_tokens')) AS input_tokens,
        sum(token_count(m.usage -> 'output_tokens')) AS output_tokens,
        sum(token_count(m.usage #> '{input_token_details,cache_read}')) AS cached_tokens
    FROM (
        -- To look into JSON is most of the work: once, and only where tokens are told of.
        SELECT conversation_id, create_time, role = 'assistant' AS is_answer,
            CASE WHEN role = 'assistant' THEN meta_data -> 'usage_metadata' END AS usage,
            CASE WHEN role = 'assistant'
                THEN meta_data -> 'response_metadata' ->> 'model_name' END AS model
        FROM message
        JOIN thread ON thread_id = conversation_id
        WHERE create_time >= %(since)s::timestamptz AND create_time < %(until)s::timestamptz
            AND (%(group_by)s::text <> 'model' OR role = 'assistant')
            AND (%(user_id)s::text IS NULL OR metadata ->> 'user_id' = %(user_id)s::text)
            AND ('{}'::jsonb = ANY(%(narrowed)s::jsonb[]) OR metadata @> ANY(%(narrowed)s::jsonb[]))
        OFFSET 0
    ) AS m
    GROUP BY 1, 2, 3
), keyed AS (
    SELECT CASE %(group_by)s::text
            WHEN 'day' THEN told.day::text
            WHEN 'user' THEN t.metadata ->> 'user_id'
            WHEN 'chat_type' THEN t.metadata ->> 'chat_type'
            ELSE told.model
        END AS key,
        told.conversation_id, told.model, told.messages, told.answers, told.input_tokens,
        told.output_tokens, told.cached_tokens
    FROM told
    JOIN thread AS t ON t.thread_id = told.conversation_id
    WHERE '{}'::jsonb = ANY(%(visible)s::jsonb[]) OR t.metadata @> ANY(%(visible)s::jsonb[])
)
SELECT key, model, grouping(model) = 1 AS is_sum, count(DISTINCT conversation_id) AS sessions,
    sum(messages)::bigint AS messages, sum(answers)::bigint AS answers,
    coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
    coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens
FROM keyed
GROUP BY GROUPING SETS ((key), (key, model));

-- name: ran
SELECT CASE %(group_by)s::text
        WHEN 'day' THEN width_bucket(r.created_at, %(days)s::timestamptz[])::text
        WHEN 'user' THEN r.metadata ->> 'user_id'
        ELSE r.metadata ->> 'chat_type'
    END AS key,
    count(*) AS runs,
    count(*) FILTER (WHERE r.status IN ('error', 'timeout')) AS failed,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY r.first_token_ms) AS first_token_ms,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
        ORDER BY 1000 * extract(epoch FROM r.ended_at - r.started_at)::float8
    ) FILTER (WHERE r.status = 'success') AS total_ms
FROM (
    SELECT run_id, run.status, run.created_at, started_at, ended_at, first_token_ms, thread.metadata
    FROM run
    JOIN thread ON thread.thread_id = run.thread_id
    WHERE run.created_at >= %(since)s::timestamptz AND run.created_at < %(until)s::timestamptz
        AND (%(user_id)s::text IS NULL OR thread.metadata ->> 'user_id' = %(user_id)s::text)
        AND ('{}'::jsonb = ANY(%(narrowed)s::jsonb[])
            OR thread.metadata @> ANY(%(narrowed)s::jsonb[]))
    OFFSET 0
) AS r
WHERE '{}'::jsonb = ANY(%(visible)s::jsonb[]) OR r.metadata @> ANY(%(visible)s::jsonb[])
GROUP BY 1;

-- name: ran_by_model
-- A run is of the model of its last answer; without one of none.
WITH answer AS (
    SELECT DISTINCT ON (m.run_id) m.run_id, m.meta_data #>> '{response_metadata,model_name}' AS model
    FROM message AS m
    WHERE m.create_time >= %(since)s::timestamptz AND m.create_time < %(until)s::timestamptz
        AND m.role = 'assistant' AND m.run_id IS NOT NULL
    ORDER BY m.run_id, m.seq DESC
)
SELECT a.model AS key,
    count(*) AS runs,
    count(*) FILTER (WHERE r.status IN ('error', 'timeout')) AS failed,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY r.first_token_ms) AS first_token_ms,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (
        ORDER BY 1000 * extract(epoch FROM r.ended_at - r.started_at)::float8
    ) FILTER (WHERE r.status = 'success') AS total_ms
FROM (
    SELECT run_id, run.status, run.created_at, started_at, ended_at, first_token_ms, thread.metadata
    FROM run
    JOIN thread ON thread.thread_id = run.thread_id
    WHERE run.created_at >= %(since)s::timestamptz AND run.created_at < %(until)s::timestamptz
        AND (%(user_id)s::text IS NULL OR thread.metadata ->> 'user_id' = %(user_id)s::text)
        AND ('{}'::jsonb = ANY(%(narrowed)s::jsonb[])
            OR thread.metadata @> ANY(%(narrowed)s::jsonb[]))
    OFFSET 0
) AS r
LEFT JOIN answer AS a ON a.run_id = r.run_id
WHERE '{}'::jsonb = ANY(%(visible)s::jsonb[]) OR r.metadata @> ANY(%(visible)s::jsonb[])
GROUP BY 1;

-- name: thought
-- Of the time in which it was first said.
SELECT CASE %(group_by)s::text
        WHEN 'day' THEN width_bucket(f.create_time, %(days)s::timestamptz[])::text
        WHEN 'user' THEN t.metadata ->> 'user_id'
        WHEN 'chat_type' THEN t.metadata ->> 'chat_type'
        ELSE m.meta_data #>> '{response_metadata,model_name}'
    END AS key,
    count(*) AS opinions,
    count(*) FILTER (WHERE f.score >= 50) AS likes,
    avg(f.score)::float8 AS score
FROM feedback AS f
JOIN thread AS t ON t.thread_id = f.conversation_id
LEFT JOIN message AS m
    ON m.conversation_id = f.conversation_id AND m.id = f.message_id
WHERE f.create_time >= %(since)s::timestamptz AND f.create_time < %(until)s::timestamptz
    AND (%(user_id)s::text IS NULL OR t.metadata ->> 'user_id' = %(user_id)s::text)
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR t.metadata @> ANY(%(visible)s::jsonb[]))
GROUP BY 1;
