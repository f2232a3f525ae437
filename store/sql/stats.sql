-- What was said, run and thought of it in a stretch of time, in groups. Threads that are not visible
-- are not counted; sessions that are deleted are, until they are purged: what they cost was spent.
-- Of a day the key is its number among `days`, which are their first moments.
--
-- A stretch is its whole quarters of an hour, of which the tallies tell, and what is left at both ends: that
-- is read. Of `uncounted` threads all is. Where nothing was counted the whole quarters are none, at its end.
--
-- What is visible is asked of every row behind OFFSET 0, beyond which the planner does not look: it
-- takes containment for rare, and would look for the messages of each of a user's many threads.
-- `narrowed` is the same condition where threads are found, or none if `user_id` says it better.

-- name: room
-- For this transaction: hundreds of thousands of rows are grouped without a file.
SELECT set_config('work_mem', '64MB', true);

-- name: said
-- Whatever is on any branch: it was said, and paid for. A row of a group and a model tells of tokens.
WITH told AS NOT MATERIALIZED (
    SELECT o.thread_id, o.day, o.model,
        CASE %(group_by)s::text
            WHEN 'user' THEN o.metadata ->> 'user_id'
            WHEN 'chat_type' THEN o.metadata ->> 'chat_type'
            WHEN 'model' THEN o.model
        END AS attribute,
        o.messages, o.answers,
        coalesce(o.input_tokens, token_count(o.usage -> 'input_tokens')) AS input_tokens,
        coalesce(o.output_tokens, token_count(o.usage -> 'output_tokens')) AS output_tokens,
        coalesce(
            o.cached_tokens, token_count(o.usage #> '{input_token_details,cache_read}')
        ) AS cached_tokens
    FROM (
        SELECT s.thread_id, s.day, s.model, s.messages, s.answers, s.input_tokens, s.output_tokens,
            s.cached_tokens, s.usage, t.metadata
        FROM (
            SELECT y.thread_id, CASE WHEN %(group_by)s::text = 'day'
                    THEN width_bucket(y.quarter, %(day_quarters)s::int[]) END AS day,
                y.model,
                CASE WHEN %(group_by)s::text = 'model' THEN y.answers ELSE y.messages END
                    AS messages,
                y.answers, y.input_tokens, y.output_tokens, y.cached_tokens, NULL::jsonb AS usage
            FROM tally AS y
            WHERE y.quarter >= quarter_of(%(whole_since)s::timestamptz)
                AND y.quarter < quarter_of(%(whole_until)s::timestamptz)
                AND y.thread_id <> ALL(%(uncounted)s::text[])
                AND CASE WHEN %(group_by)s::text = 'model' THEN y.answers ELSE y.messages END > 0
            UNION ALL
            SELECT m.conversation_id, CASE WHEN %(group_by)s::text = 'day'
                    THEN width_bucket(m.create_time, %(days)s::timestamptz[]) END,
                -- To look into JSON is most of the work: only where it tells of tokens.
                CASE WHEN m.role = 'assistant'
                    THEN model_of(m.meta_data) END,
                1, (m.role = 'assistant')::int, NULL, NULL, NULL,
                CASE WHEN m.role = 'assistant' THEN m.meta_data -> 'usage_metadata' END
            FROM (
                SELECT conversation_id, create_time, role, meta_data
                FROM message
                WHERE create_time >= %(since)s::timestamptz
                    AND create_time < %(whole_since)s::timestamptz
                UNION ALL
                SELECT conversation_id, create_time, role, meta_data
                FROM message
                WHERE create_time >= %(whole_until)s::timestamptz
                    AND create_time < %(until)s::timestamptz
                UNION ALL
                SELECT conversation_id, create_time, role, meta_data
                FROM message
                WHERE conversation_id = ANY(%(uncounted)s::text[])
                    AND create_time >= %(whole_since)s::timestamptz
                    AND create_time < %(whole_until)s::timestamptz
            ) AS m
            WHERE %(group_by)s::text <> 'model' OR m.role = 'assistant'
        ) AS s
        JOIN thread AS t ON t.thread_id = s.thread_id
        WHERE (%(user_id)s::text IS NULL OR t.metadata ->> 'user_id' = %(user_id)s::text)
            AND ('{}'::jsonb = ANY(%(narrowed)s::jsonb[])
                OR t.metadata @> ANY(%(narrowed)s::jsonb[]))
        OFFSET 0
    ) AS o
    WHERE '{}'::jsonb = ANY(%(visible)s::jsonb[]) OR o.metadata @> ANY(%(visible)s::jsonb[])
), of_sessions AS (
    SELECT each.day, each.attribute, count(*) AS sessions
    FROM (SELECT DISTINCT day, attribute, thread_id FROM told) AS each
    GROUP BY 1, 2
), summed AS (
    SELECT day, attribute, model, grouping(model) = 1 AS is_sum,
        CASE grouping(model) WHEN 1 THEN sum(messages)::bigint ELSE 0 END AS messages,
        CASE grouping(model) WHEN 1 THEN sum(answers)::bigint ELSE 0 END AS answers,
        coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
        coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
        coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens
    FROM told
    GROUP BY GROUPING SETS ((day, attribute), (day, attribute, model))
    HAVING grouping(model) = 1 OR sum(input_tokens) > 0 OR sum(output_tokens) > 0
)
SELECT coalesce(g.day::text, g.attribute) AS key, g.model, g.is_sum, s.sessions, g.messages,
    g.answers, g.input_tokens, g.output_tokens, g.cached_tokens
FROM summed AS g
JOIN of_sessions AS s ON coalesce(s.day, 0) = coalesce(g.day, 0)
    AND coalesce(s.attribute, '') = coalesce(g.attribute, '')
    AND (s.attribute IS NULL) = (g.attribute IS NULL);

-- name: ran
-- A run is of the model of its last answer; without one of none.
WITH told AS NOT MATERIALIZED (
    SELECT o.day, CASE %(group_by)s::text
            WHEN 'user' THEN o.metadata ->> 'user_id'
            WHEN 'chat_type' THEN o.metadata ->> 'chat_type'
            WHEN 'model' THEN o.model
        END AS attribute,
        o.runs, o.failed, o.first_token_ms, o.total_ms
    FROM (
        SELECT s.day, s.model, s.runs, s.failed, s.first_token_ms, s.total_ms, t.metadata
        FROM (
            SELECT y.thread_id, CASE WHEN %(group_by)s::text = 'day'
                    THEN width_bucket(y.quarter, %(day_quarters)s::int[]) END AS day,
                y.model, y.runs, y.failed_runs AS failed, y.first_token_ms, y.total_ms
            FROM tally AS y
            WHERE y.quarter >= quarter_of(%(whole_since)s::timestamptz)
                AND y.quarter < quarter_of(%(whole_until)s::timestamptz)
                AND y.thread_id <> ALL(%(uncounted)s::text[]) AND y.runs > 0
            UNION ALL
            SELECT r.thread_id, CASE WHEN %(group_by)s::text = 'day'
                    THEN width_bucket(r.created_at, %(days)s::timestamptz[]) END,
                CASE WHEN %(group_by)s::text = 'model' THEN (
                    SELECT model_of(m.meta_data)
                    FROM message AS m
                    WHERE m.conversation_id = r.thread_id AND m.run_id = r.run_id
                        AND m.role = 'assistant'
                    ORDER BY m.seq DESC
                    LIMIT 1
                ) END,
                1, (r.status IN ('error', 'timeout'))::int,
                CASE WHEN r.first_token_ms IS NOT NULL THEN ARRAY[r.first_token_ms] END,
                CASE WHEN r.status = 'success' AND r.ended_at >= r.started_at
                    THEN ARRAY[milliseconds(r.ended_at - r.started_at)] END
            FROM (
                SELECT run_id, thread_id, status, created_at, started_at, ended_at, first_token_ms
                FROM run
                WHERE created_at >= %(since)s::timestamptz
                    AND created_at < %(whole_since)s::timestamptz
                UNION ALL
                SELECT run_id, thread_id, status, created_at, started_at, ended_at, first_token_ms
                FROM run
                WHERE created_at >= %(whole_until)s::timestamptz
                    AND created_at < %(until)s::timestamptz
                UNION ALL
                SELECT run_id, thread_id, status, created_at, started_at, ended_at, first_token_ms
                FROM run
                WHERE thread_id = ANY(%(uncounted)s::text[])
                    AND created_at >= %(whole_since)s::timestamptz
                    AND created_at < %(whole_until)s::timestamptz
            ) AS r
        ) AS s
        JOIN thread AS t ON t.thread_id = s.thread_id
        WHERE (%(user_id)s::text IS NULL OR t.metadata ->> 'user_id' = %(user_id)s::text)
            AND ('{}'::jsonb = ANY(%(narrowed)s::jsonb[])
                OR t.metadata @> ANY(%(narrowed)s::jsonb[]))
        OFFSET 0
    ) AS o
    WHERE '{}'::jsonb = ANY(%(visible)s::jsonb[]) OR o.metadata @> ANY(%(visible)s::jsonb[])
), took AS (
    -- All of a group in an array: to sort them by group would be to sort by its name.
    SELECT day, attribute, array_agg(first_token_ms) FILTER (WHERE first_token_ms IS NOT NULL)
            AS first_token_ms,
        array_agg(total_ms) FILTER (WHERE total_ms IS NOT NULL) AS total_ms
    FROM (
        SELECT day, attribute, unnest(first_token_ms) AS first_token_ms,
            unnest(total_ms) AS total_ms
        FROM told
    ) AS each
    GROUP BY 1, 2
), summed AS (
    SELECT day, attribute, sum(runs)::bigint AS runs, sum(failed)::bigint AS failed
    FROM told
    GROUP BY 1, 2
)
SELECT coalesce(g.day::text, g.attribute) AS key, g.runs, g.failed, f.ms AS first_token_ms,
    t.ms AS total_ms
FROM summed AS g
LEFT JOIN took ON coalesce(took.day, 0) = coalesce(g.day, 0)
    AND coalesce(took.attribute, '') = coalesce(g.attribute, '')
    AND (took.attribute IS NULL) = (g.attribute IS NULL)
LEFT JOIN LATERAL (
    SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY u.ms) AS ms
    FROM unnest(took.first_token_ms) AS u (ms)
) AS f ON true
LEFT JOIN LATERAL (
    SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY u.ms) AS ms
    FROM unnest(took.total_ms) AS u (ms)
) AS t ON true;

-- name: thought
-- Of the time in which it was first said.
SELECT CASE %(group_by)s::text
        WHEN 'day' THEN width_bucket(f.create_time, %(days)s::timestamptz[])::text
        WHEN 'user' THEN t.metadata ->> 'user_id'
        WHEN 'chat_type' THEN t.metadata ->> 'chat_type'
        ELSE model_of(m.meta_data)
    END AS key,
    count(*) AS opinions,
    count(*) FILTER (WHERE f.score >= 50) AS likes,
    avg(f.score)::float8 AS score
FROM feedback AS f
JOIN thread AS t ON t.thread_id = f.conversation_id
LEFT JOIN message AS m ON %(group_by)s::text = 'model'
    AND m.conversation_id = f.conversation_id AND m.id = f.message_id
WHERE f.create_time >= %(since)s::timestamptz AND f.create_time < %(until)s::timestamptz
    AND (%(user_id)s::text IS NULL OR t.metadata ->> 'user_id' = %(user_id)s::text)
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR t.metadata @> ANY(%(visible)s::jsonb[]))
GROUP BY 1;
