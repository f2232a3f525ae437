-- Full-text search over messages and the names of sessions: the index of migration 0014 is kept up,
-- and asked. A segment is 32,768 numbers; § in a query stands for its terms' segment.

-- name: progress
-- One process at a time looks for what changed.
SELECT touched_at
FROM search_progress
FOR UPDATE SKIP LOCKED

-- name: changed
-- Threads as the index does not have them yet, those touched first first; and those that a run may
-- be writing to. What goes with its run is never in it.
(
    SELECT t.thread_id, t.updated_at
    FROM thread AS t
    LEFT JOIN search_thread AS s ON s.thread_id = t.thread_id
    WHERE t.updated_at >= %(touched_at)s
        AND (
            t.head_checkpoint_id, coalesce(t.metadata ->> 'name', t.metadata ->> 'generated_title')
        ) IS DISTINCT FROM (s.checkpoint_id, s.name)
        AND NOT EXISTS (
            SELECT FROM run AS r
            WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND r.temporary
        )
    ORDER BY t.updated_at, t.thread_id
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT t.thread_id, NULL
    FROM thread AS t
    LEFT JOIN search_thread AS s ON s.thread_id = t.thread_id
    WHERE t.status = 'busy' AND t.updated_at < %(touched_at)s
        AND t.head_checkpoint_id IS DISTINCT FROM s.checkpoint_id
        AND NOT EXISTS (
            SELECT FROM run AS r
            WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND r.temporary
        )
    ORDER BY t.thread_id
    LIMIT %(limit)s
)

-- name: changed_visible
-- Those that were touched since the index was complete last, and that the caller may see.
SELECT t.thread_id
FROM search_progress AS p
CROSS JOIN LATERAL (
    SELECT n.thread_id, n.head_checkpoint_id, n.metadata
    FROM thread AS n
    WHERE n.updated_at >= coalesce(p.caught_up_at, p.touched_at) - interval '1 second'
    ORDER BY n.updated_at DESC
    LIMIT %(looked_at)s
) AS t
LEFT JOIN search_thread AS s ON s.thread_id = t.thread_id
WHERE t.metadata @> ANY(%(visible)s::jsonb[])
    AND (
        t.head_checkpoint_id, coalesce(t.metadata ->> 'name', t.metadata ->> 'generated_title')
    ) IS DISTINCT FROM (s.checkpoint_id, s.name)
    AND NOT EXISTS (
        SELECT FROM run AS r
        WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND r.temporary
    )
LIMIT %(limit)s

-- name: hold
-- Whoever else is at a thread brings it up to date: it is passed by. No run waits for this; who deletes
-- a thread does, and then takes what is brought in with it.
WITH held AS MATERIALIZED (
    SELECT u.thread_id
    FROM unnest(%(thread_ids)b::text[]) AS u (thread_id)
    WHERE pg_try_advisory_xact_lock(1400, hashtext(u.thread_id))
)
SELECT t.thread_id, t.head_checkpoint_id,
    coalesce(t.metadata ->> 'name', t.metadata ->> 'generated_title') AS name,
    s.name AS indexed_name, t.created_at
FROM held
JOIN thread AS t ON t.thread_id = held.thread_id
LEFT JOIN search_thread AS s ON s.thread_id = t.thread_id
FOR KEY SHARE OF t SKIP LOCKED

-- name: patience
SELECT set_config('lock_timeout', %(lock_timeout)s, true)

-- name: wait
-- Until whoever is at these threads has done with them. In one order, and nobody who waits holds another.
SELECT pg_advisory_xact_lock(1400, o.number)::text
FROM (
    SELECT DISTINCT hashtext(u.thread_id) AS number
    FROM unnest(%(thread_ids)b::text[]) AS u (thread_id)
    ORDER BY 1
) AS o

-- name: unread
-- Messages as the index does not have them; of long ones, what it looks into.
SELECT m.conversation_id, m.seq, m.role, left(m.content, %(characters)s::int), m.create_time,
    m.update_time, m.id
FROM message AS m
LEFT JOIN search_message AS s ON s.conversation_id = m.conversation_id AND s.seq = m.seq
WHERE m.conversation_id = ANY(%(thread_ids)b::text[])
    AND s.update_time IS DISTINCT FROM m.update_time
ORDER BY m.conversation_id, m.seq
LIMIT %(limit)s

-- name: put
INSERT INTO search_message
    (number, conversation_id, seq, role, create_time, update_time, terms)
SELECT n.number, n.conversation_id, n.seq, n.role, n.create_time, n.update_time,
    replace(n.terms, '§', (n.number >> 15) || '.')::tsvector
FROM (
    SELECT nextval('search_number') AS number, u.conversation_id, u.seq, u.role, u.create_time,
        u.update_time, u.terms
    FROM unnest(
        %(conversation_id)b::text[], %(seq)b::int[], %(role)b::text[],
        %(create_time)b::timestamptz[], %(update_time)b::timestamptz[], %(terms)b::text[]
    ) AS u (conversation_id, seq, role, create_time, update_time, terms)
) AS n
ON CONFLICT (conversation_id, seq) DO UPDATE SET
    number = EXCLUDED.number,
    role = EXCLUDED.role,
    create_time = EXCLUDED.create_time,
    update_time = EXCLUDED.update_time,
    terms = EXCLUDED.terms

-- name: forget
-- Messages that were taken back.
DELETE FROM search_message AS s
WHERE s.conversation_id = ANY(%(thread_ids)b::text[]) AND s.seq >= 0
    AND NOT EXISTS (
        SELECT FROM message AS m WHERE m.conversation_id = s.conversation_id AND m.seq = s.seq
    )

-- name: mark
INSERT INTO search_thread (thread_id, checkpoint_id, name)
SELECT u.thread_id, u.checkpoint_id, u.name
FROM unnest(%(thread_id)b::text[], %(checkpoint_id)b::text[], %(name)b::text[])
    AS u (thread_id, checkpoint_id, name)
ON CONFLICT (thread_id) DO UPDATE SET
    checkpoint_id = EXCLUDED.checkpoint_id,
    name = EXCLUDED.name

-- name: advance
-- A transaction that began before this one may commit later, and with it a thread that looks as if
-- it had been there: for as long as one may take, what was touched is looked at again.
UPDATE search_progress SET
    touched_at = greatest(
        touched_at,
        least(%(touched_at)s::timestamptz, now() - make_interval(secs => %(overlap_seconds)s))
    ),
    caught_up_at = CASE WHEN %(is_complete)s::boolean THEN now() ELSE caught_up_at END

-- name: scope
-- The sessions that somebody can see, if they are not too many to be named.
SELECT t.thread_id, t.message_count
FROM thread AS t
WHERE t.metadata @> ANY(%(visible)s::jsonb[])
LIMIT %(limit)s

-- name: in_sessions
-- Of few sessions every message is compared.
WITH asked AS MATERIALIZED (
    SELECT n AS segment, replace(%(query)s::text, '§', n || '.')::tsquery AS query
    FROM generate_series(0, (SELECT max(number) >> 15 FROM search_message)) AS n
)
SELECT said.number, said.conversation_id
FROM (
    SELECT m.number, m.conversation_id, m.terms
    FROM search_message AS m
    WHERE m.conversation_id = ANY(%(session_ids)s::text[])
        AND m.number < %(before)s
        AND (%(role)s::text IS NULL OR m.role = %(role)s)
        AND (%(from)s::timestamptz IS NULL OR m.create_time >= %(from)s)
        AND (%(to)s::timestamptz IS NULL OR m.create_time < %(to)s)
        AND (m.seq >= 0 OR %(names)s::boolean)
    OFFSET 0
) AS said
JOIN asked ON asked.segment = said.number >> 15
WHERE said.terms @@ asked.query
ORDER BY said.number DESC
LIMIT %(window)s

-- name: in_segments
-- Of many, some segments at a time, the newest first, until there are enough or time is up; one step
-- at least. A step is as wide as what is missing looks to be by what was found so far, and at most
-- four times as wide as all before it: a common word reads one segment, and what a rare one reads is
-- fetched side by side. Who may see a hit is looked up from the newest hit on, one by one. "+ 0"
-- keeps PostgreSQL from reading all messages in the order of their numbers.
WITH RECURSIVE walk AS (
    SELECT n.above, ((n.above - 1) >> 15) + 1 AS oldest, 0 AS count, NULL::bigint[] AS numbers,
        NULL::text[] AS session_ids
    FROM (
        SELECT least(%(before)s::bigint, coalesce(max(number), 0) + 1) AS above
        FROM search_message
    ) AS n
    UNION ALL
    SELECT w.above, asked.oldest, w.count + cardinality(found.numbers), found.*
    FROM walk AS w
    CROSS JOIN LATERAL (SELECT w.above - (w.oldest << 15) AS numbers) AS searched
    CROSS JOIN LATERAL (
        SELECT greatest(1, least(%(widest)s::bigint, least(
            4 * searched.numbers,
            (%(window)s::bigint - w.count) * searched.numbers / nullif(w.count, 0)
        ) >> 15)) AS width
    ) AS step
    CROSS JOIN LATERAL (
        SELECT min(n) AS oldest,
            string_agg('(' || replace(%(query)s::text, '§', n || '.') || ')', ' | ')::tsquery AS query
        FROM generate_series(greatest(w.oldest - step.width, 0), w.oldest - 1) AS n
    ) AS asked
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(h.number ORDER BY h.number DESC), '{}') AS numbers,
            coalesce(array_agg(h.conversation_id ORDER BY h.number DESC), '{}') AS session_ids
        FROM (
            SELECT f.number, f.conversation_id
            FROM (
                SELECT m.number, m.conversation_id
                FROM search_message AS m
                WHERE m.terms @@ asked.query
                    AND m.number + 0 < %(before)s
                    AND (%(role)s::text IS NULL OR m.role = %(role)s)
                    AND (%(from)s::timestamptz IS NULL OR m.create_time >= %(from)s)
                    AND (%(to)s::timestamptz IS NULL OR m.create_time < %(to)s)
                    AND (m.seq >= 0 OR %(names)s::boolean)
                    AND (
                        %(session_ids)s::text[] IS NULL
                        OR m.conversation_id = ANY(%(session_ids)s::text[])
                    )
                ORDER BY m.number + 0 DESC
                OFFSET 0
            ) AS f
            WHERE '{}'::jsonb = ANY(%(visible)s::jsonb[])
                OR %(session_ids)s::text[] IS NOT NULL
                OR (
                    SELECT t.metadata @> ANY(%(visible)s::jsonb[])
                    FROM thread AS t
                    WHERE t.thread_id = f.conversation_id
                )
            LIMIT %(window)s - w.count
        ) AS h
    ) AS found
    WHERE w.oldest > 0 AND w.count < %(window)s
        AND (
            w.numbers IS NULL
            OR clock_timestamp() < statement_timestamp() + make_interval(secs => %(seconds)s)
        )
)
SELECT oldest, numbers, session_ids
FROM walk
WHERE numbers IS NOT NULL
ORDER BY oldest DESC

-- name: ranked
-- Once more who may see it, and whether it is still there, unchanged: the index may be behind. That
-- is looked up from the best hit on, one by one, until the page is full.
WITH best AS MATERIALIZED (
    SELECT r.number, r.rank, r.conversation_id, r.seq
    FROM (
        SELECT m.number, m.conversation_id, m.seq, m.update_time, ts_rank(
            m.terms, replace(%(query)s::text, '§', (m.number >> 15) || '.')::tsquery, 1
        )::float8 AS rank
        FROM unnest(%(numbers)s::bigint[]) AS n (number)
        JOIN search_message AS m ON m.number = n.number
        ORDER BY rank DESC, m.number DESC
        OFFSET 0
    ) AS r
    WHERE (r.rank, r.number) < (%(rank)s::float8, %(number)s::bigint)
        AND (
            SELECT g.on_branch AND NOT EXISTS (
                SELECT FROM message_deletion AS d
                WHERE d.conversation_id = g.conversation_id AND d.message_id = g.id
            )
            FROM message AS g
            WHERE g.conversation_id = r.conversation_id AND g.seq = r.seq
                AND g.update_time = r.update_time
        )
        AND (
            SELECT t.metadata @> ANY(%(visible)s::jsonb[])
                AND session_is_there(t.metadata, t.expires_at)
            FROM thread AS t
            WHERE t.thread_id = r.conversation_id
        )
    LIMIT %(limit)s
)
SELECT best.number, best.rank, g.conversation_id AS session_id, g.id AS message_id, g.role,
    g.create_time, left(g.content, %(characters)s::int) AS content,
    session_name(t.metadata) AS session_name
FROM best
JOIN message AS g ON g.conversation_id = best.conversation_id AND g.seq = best.seq
JOIN thread AS t ON t.thread_id = best.conversation_id
ORDER BY best.rank DESC, best.number DESC

-- name: texts
-- What hits have, sealed.
SELECT m.number, m.conversation_id, g.id,
    CASE
        WHEN m.seq < 0
            THEN coalesce(t.metadata ->> 'name', t.metadata ->> 'generated_title', '')
        ELSE g.content
    END
FROM unnest(%(numbers)s::bigint[]) AS n (number)
JOIN search_message AS m ON m.number = n.number
JOIN thread AS t ON t.thread_id = m.conversation_id
LEFT JOIN message AS g ON g.conversation_id = m.conversation_id AND g.seq = m.seq
    AND g.update_time = m.update_time
WHERE m.seq < 0 OR g.id IS NOT NULL

-- name: best_of_sessions
-- The newest hit of each session: its name, or a message. What was read of it is no longer its
-- content if it has changed since.
SELECT DISTINCT ON (m.conversation_id) m.conversation_id AS session_id, g.id AS message_id,
    left(
        CASE
            WHEN m.seq < 0
                THEN coalesce(t.metadata ->> 'name', t.metadata ->> 'generated_title', '')
            ELSE g.content
        END,
        %(characters)s::int
    ) AS content
FROM unnest(%(numbers)s::bigint[]) AS n (number)
JOIN search_message AS m ON m.number = n.number
JOIN thread AS t ON t.thread_id = m.conversation_id
LEFT JOIN message AS g ON g.conversation_id = m.conversation_id AND g.seq = m.seq
    AND g.update_time = m.update_time AND g.on_branch
    AND NOT EXISTS (
        SELECT FROM message_deletion AS d
        WHERE d.conversation_id = g.conversation_id AND d.message_id = g.id
    )
WHERE t.metadata @> ANY(%(visible)s::jsonb[]) AND (m.seq < 0 OR g.id IS NOT NULL)
ORDER BY m.conversation_id, m.number DESC
