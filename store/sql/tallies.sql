-- What analytics have counted in advance (migration 0031), thread by thread: those that have settled.

-- name: progress
-- One process at a time counts.
SELECT touched_at
FROM tally_progress
FOR UPDATE SKIP LOCKED

-- name: due
-- Threads as they have not been counted, those touched first first; and those that are stale. Each with
-- what there is to read of it, runs not beyond a thousand; one that could not be counted is all that is read.
SELECT d.thread_id,
    1 + CASE WHEN d.has_failed THEN %(most)s::bigint ELSE d.message_count + (
        SELECT count(*)
        FROM (SELECT FROM run AS r WHERE r.thread_id = d.thread_id LIMIT 1000) AS few
    ) END AS amount,
    d.touched_at
FROM (
    (
        SELECT t.thread_id, t.message_count, t.updated_at AS touched_at,
            y.retry_at IS NOT NULL AS has_failed, 1 AS place
        FROM thread AS t
        LEFT JOIN tally_thread AS y ON y.thread_id = t.thread_id
        WHERE t.updated_at >= %(touched_at)s
            AND t.updated_at
                < now() - make_interval(secs => %(settle_seconds)s::double precision)
            AND t.status <> 'busy' AND coalesce(y.retry_at < now(), true)
            AND (t.updated_at, t.head_checkpoint_id, t.message_count)
                IS DISTINCT FROM (y.updated_at, y.checkpoint_id, y.message_count)
        ORDER BY t.updated_at, t.thread_id
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT y.thread_id, t.message_count, NULL, y.retry_at IS NOT NULL, 2
        FROM tally_thread AS y
        JOIN thread AS t ON t.thread_id = y.thread_id
        WHERE y.is_stale AND t.status <> 'busy' AND coalesce(y.retry_at < now(), true)
        ORDER BY y.thread_id
        LIMIT %(limit)s
    )
) AS d
ORDER BY d.place, d.touched_at, d.thread_id

-- name: hold
-- First how they are, then what they have: a thread that changes in between is seen to have changed.
-- One that somebody deletes is passed by.
WITH held AS MATERIALIZED (
    SELECT thread_id, head_checkpoint_id, message_count, updated_at
    FROM thread
    WHERE thread_id = ANY(%(thread_ids)s::text[])
    ORDER BY thread_id
    FOR KEY SHARE SKIP LOCKED
)
INSERT INTO tally_thread AS y (thread_id, checkpoint_id, message_count, updated_at)
SELECT thread_id, head_checkpoint_id, message_count, updated_at
FROM held
ORDER BY thread_id
ON CONFLICT (thread_id) DO UPDATE SET
    checkpoint_id = EXCLUDED.checkpoint_id,
    message_count = EXCLUDED.message_count,
    updated_at = EXCLUDED.updated_at,
    is_stale = false,
    retry_at = NULL
RETURNING thread_id

-- name: count
-- Only what differs is written: of a long conversation its last quarter of an hour.
WITH answered AS (
    -- Copies of a thread name its runs too.
    SELECT DISTINCT ON (m.conversation_id, m.run_id) m.conversation_id AS thread_id, m.run_id,
        model_of(m.meta_data) AS model
    FROM message AS m
    WHERE m.conversation_id = ANY(%(thread_ids)s::text[]) AND m.role = 'assistant'
        AND m.run_id IS NOT NULL
    ORDER BY m.conversation_id, m.run_id, m.seq DESC
), cell AS (
    SELECT m.thread_id, m.quarter,
        CASE WHEN m.is_answer THEN m.model ELSE
            min(m.model) FILTER (WHERE m.is_answer) OVER (PARTITION BY m.thread_id, m.quarter)
        END AS model,
        m.messages, CASE WHEN m.is_answer THEN m.messages ELSE 0 END AS answers, m.input_tokens,
        m.output_tokens, m.cached_tokens, 0 AS runs, 0 AS failed_runs,
        NULL::int[] AS first_token_ms, NULL::int[] AS total_ms
    FROM (
        SELECT s.thread_id, s.quarter, s.is_answer, s.model, count(*) AS messages,
            sum(token_count(s.usage -> 'input_tokens')) AS input_tokens,
            sum(token_count(s.usage -> 'output_tokens')) AS output_tokens,
            sum(token_count(s.usage #> '{input_token_details,cache_read}')) AS cached_tokens
        FROM (
            SELECT conversation_id AS thread_id, quarter_of(create_time) AS quarter,
                role = 'assistant' AS is_answer,
                CASE WHEN role = 'assistant' THEN meta_data -> 'usage_metadata' END AS usage,
                CASE WHEN role = 'assistant' THEN model_of(meta_data) END AS model
            FROM message
            WHERE conversation_id = ANY(%(thread_ids)s::text[])
        ) AS s
        GROUP BY 1, 2, 3, 4
    ) AS m
    UNION ALL
    SELECT r.thread_id, quarter_of(r.created_at), a.model, 0, 0, 0, 0, 0, count(*),
        count(*) FILTER (WHERE r.status IN ('error', 'timeout')),
        array_agg(r.first_token_ms) FILTER (WHERE r.first_token_ms IS NOT NULL),
        array_agg(milliseconds(r.ended_at - r.started_at))
            FILTER (WHERE r.status = 'success' AND r.ended_at >= r.started_at)
    FROM run AS r
    LEFT JOIN answered AS a ON a.thread_id = r.thread_id AND a.run_id = r.run_id
    WHERE r.thread_id = ANY(%(thread_ids)s::text[])
    GROUP BY 1, 2, 3
), made AS MATERIALIZED (
    SELECT thread_id, quarter, model, sum(messages)::int AS messages, sum(answers)::int AS answers,
        coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
        coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
        coalesce(sum(cached_tokens), 0)::bigint AS cached_tokens,
        sum(runs)::int AS runs, sum(failed_runs)::int AS failed_runs,
        coalesce(max(first_token_ms), '{}') AS first_token_ms,
        coalesce(max(total_ms), '{}') AS total_ms
    FROM cell
    GROUP BY 1, 2, 3
), gone AS (
    DELETE FROM tally AS y
    WHERE y.thread_id = ANY(%(thread_ids)s::text[]) AND NOT EXISTS (
        SELECT FROM made AS m
        WHERE m.thread_id = y.thread_id AND m.quarter = y.quarter
            AND coalesce(m.model, '') = coalesce(y.model, '')
            AND (m.model IS NULL) = (y.model IS NULL)
    )
)
INSERT INTO tally AS y (thread_id, quarter, model, messages, answers, input_tokens, output_tokens,
    cached_tokens, runs, failed_runs, first_token_ms, total_ms)
SELECT thread_id, quarter, model, messages, answers, input_tokens, output_tokens, cached_tokens,
    runs, failed_runs, first_token_ms, total_ms
FROM made
ON CONFLICT (thread_id, quarter, model) DO UPDATE SET
    messages = EXCLUDED.messages,
    answers = EXCLUDED.answers,
    input_tokens = EXCLUDED.input_tokens,
    output_tokens = EXCLUDED.output_tokens,
    cached_tokens = EXCLUDED.cached_tokens,
    runs = EXCLUDED.runs,
    failed_runs = EXCLUDED.failed_runs,
    first_token_ms = EXCLUDED.first_token_ms,
    total_ms = EXCLUDED.total_ms
WHERE (y.messages, y.answers, y.input_tokens, y.output_tokens, y.cached_tokens, y.runs,
        y.failed_runs, y.first_token_ms, y.total_ms)
    IS DISTINCT FROM (EXCLUDED.messages, EXCLUDED.answers, EXCLUDED.input_tokens,
        EXCLUDED.output_tokens, EXCLUDED.cached_tokens, EXCLUDED.runs, EXCLUDED.failed_runs,
        EXCLUDED.first_token_ms, EXCLUDED.total_ms)

-- name: advance
-- A transaction that began before this one may commit later, and with it a thread that looks as if it
-- had been there: of what was touched this lately nothing counts as counted.
UPDATE tally_progress
SET touched_at = greatest(touched_at, least(
    %(touched_at)s::timestamptz,
    now() - make_interval(secs => %(settle_seconds)s::double precision)
))

-- name: set_aside
-- What cannot be counted is read, and tried again later.
INSERT INTO tally_thread AS y (thread_id, is_stale, retry_at)
SELECT thread_id, true,
    clock_timestamp() + make_interval(secs => %(retry_seconds)s::double precision)
FROM thread
WHERE thread_id = %(thread_id)s
FOR KEY SHARE
ON CONFLICT (thread_id) DO UPDATE SET is_stale = true, retry_at = EXCLUDED.retry_at

-- name: mark_changed
-- Whatever changed without being touched, such as a state that was written and never settled.
INSERT INTO tally_thread AS y (thread_id, is_stale)
SELECT t.thread_id, true
FROM thread AS t
LEFT JOIN tally_thread AS o ON o.thread_id = t.thread_id
WHERE t.updated_at < (SELECT touched_at FROM tally_progress) AND t.status <> 'busy'
    AND o.is_stale IS NOT true
    AND (t.updated_at, t.head_checkpoint_id, t.message_count)
        IS DISTINCT FROM (o.updated_at, o.checkpoint_id, o.message_count)
ON CONFLICT (thread_id) DO UPDATE SET is_stale = true

-- name: mark_stale
-- Threads whose messages or runs change in this transaction in another way than by a run.
INSERT INTO tally_thread AS y (thread_id, is_stale)
SELECT t.thread_id, true
FROM (
    SELECT thread_id
    FROM thread
    WHERE thread_id = ANY(%(thread_ids)s::text[])
    ORDER BY thread_id
    FOR KEY SHARE
) AS t
ON CONFLICT (thread_id) DO UPDATE SET is_stale = true

-- name: uncounted
-- Threads that are not as they were counted. Whatever else there is, is.
SELECT t.thread_id
FROM thread AS t
LEFT JOIN tally_thread AS y ON y.thread_id = t.thread_id
WHERE t.updated_at >= (SELECT touched_at FROM tally_progress)
    AND (t.updated_at, t.head_checkpoint_id, t.message_count)
        IS DISTINCT FROM (y.updated_at, y.checkpoint_id, y.message_count)
UNION
SELECT thread_id FROM thread WHERE status = 'busy'
UNION
SELECT thread_id FROM tally_thread WHERE is_stale
LIMIT %(limit)s
