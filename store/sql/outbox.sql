-- What happened, from the transactions that did it to those who are told. Decision 23 says why.

-- name: put
INSERT INTO outbox (name, thread_id, run_id, data, seen_by)
SELECT %(name)s, %(thread_id)s, %(run_id)s::uuid, %(data)s::jsonb,
    CASE WHEN %(name)s = 'session.purged' THEN (
        SELECT metadata - ARRAY['name', 'generated_title', 'title_source', 'tags', 'folder']
        FROM thread
        WHERE thread_id = %(thread_id)s
    ) END;

-- name: look
SELECT seq, (SELECT min(outbox_id) FROM outbox) AS oldest,
    (SELECT max(outbox_id) FROM outbox) AS newest,
    EXISTS (SELECT FROM webhook WHERE enabled) AS has_webhooks
FROM change_head;

-- name: lock
-- One publisher at a time: the others leave it to that one.
SELECT seq FROM change_head FOR UPDATE SKIP LOCKED;

-- name: take
-- What has committed by now, in the order in which it was written: of a thread, whose row every change
-- of it holds, that is the order in which it happened.
WITH next AS MATERIALIZED (
    SELECT outbox_id FROM outbox ORDER BY outbox_id LIMIT %(limit)s
), taken AS (
    DELETE FROM outbox
    USING next
    WHERE outbox.outbox_id = next.outbox_id
    RETURNING outbox.outbox_id, name, thread_id, run_id, run_status, data, seen_by, created_at
)
SELECT taken.name, taken.thread_id, taken.run_id, taken.run_status, taken.data, taken.seen_by,
    taken.created_at, t.thread_id IS NOT NULL AS is_there, t.metadata ->> 'user_id' AS user_id,
    session_name(t.metadata) AS session_name,
    t.metadata ->> 'chat_type' AS chat_type,
    session_status(t.metadata) AS session_status, r.error ->> 'error' AS error
FROM taken
LEFT JOIN thread AS t ON t.thread_id = taken.thread_id
LEFT JOIN run AS r ON r.run_id = taken.run_id AND taken.name = 'run.ended'
ORDER BY taken.outbox_id;

-- name: lock_places
-- Whoever takes a run back sets them back: before this, or after what is read next.
SELECT thread_id
FROM change_of_messages
WHERE thread_id = ANY(%(thread_ids)s::text[])
ORDER BY thread_id
FOR UPDATE;

-- name: messages
-- Those that were written, or written again, since this was asked last. Of a thread of before there
-- was an outbox, no old ones. Of each thread as many as its rows may tell, and one more. What a run
-- brought whose end is told later, because it goes on or the end waits in the outbox, is for that end.
WITH asked AS MATERIALIZED (
    SELECT t.thread_id, w.up_to, t.message_count, coalesce(t.head_checkpoint_id, '') AS head,
        coalesce(p.message_count, 0) AS told_count, p.checkpoint_id AS told_through,
        CASE WHEN p.thread_id IS NULL AND t.created_at < h.began_at THEN h.began_at
            ELSE '-infinity' END AS since
    FROM unnest(%(thread_ids)s::text[], %(limits)s::int[]) AS w (thread_id, up_to)
    JOIN thread AS t ON t.thread_id = w.thread_id
    CROSS JOIN change_head AS h
    LEFT JOIN change_of_messages AS p ON p.thread_id = t.thread_id
), brought AS MATERIALIZED (
    SELECT asked.thread_id, m.run_id, min(m.seq) AS seq, min(m.checkpoint_id) AS checkpoint_id
    FROM asked
    JOIN message AS m ON m.conversation_id = asked.thread_id AND m.seq >= asked.told_count
        AND m.create_time >= asked.since
    WHERE m.run_id <> ALL(%(ended)s::uuid[])
    GROUP BY asked.thread_id, m.run_id
), later AS MATERIALIZED (
    SELECT b.thread_id, min(b.seq) AS seq, min(b.checkpoint_id) AS checkpoint_id
    FROM brought AS b
    JOIN (
        SELECT r.run_id
        FROM brought
        JOIN run AS r ON r.run_id = brought.run_id AND r.status IN ('pending', 'running')
        UNION
        SELECT o.run_id
        FROM brought
        JOIN outbox AS o ON o.run_id = brought.run_id AND o.name = 'run.ended'
    ) AS untold ON untold.run_id = b.run_id
    GROUP BY b.thread_id
), remembered AS (
    INSERT INTO change_of_messages (thread_id, message_count, checkpoint_id)
    SELECT asked.thread_id, coalesce(later.seq, asked.message_count),
        CASE WHEN later.seq IS NULL THEN asked.head ELSE coalesce((
            SELECT max(m.last_checkpoint_id)
            FROM message AS m
            WHERE m.conversation_id = asked.thread_id
                AND m.last_checkpoint_id < later.checkpoint_id
                AND m.last_checkpoint_id <> m.checkpoint_id
        ), asked.told_through, '') END
    FROM asked
    LEFT JOIN later ON later.thread_id = asked.thread_id
    ON CONFLICT (thread_id) DO UPDATE SET
        message_count = EXCLUDED.message_count,
        checkpoint_id = EXCLUDED.checkpoint_id
)
SELECT asked.thread_id, m.is_new, m.id, m.role, m.seq, m.run_id
FROM asked
LEFT JOIN later ON later.thread_id = asked.thread_id
CROSS JOIN LATERAL (
    (
        SELECT true AS is_new, id, role, seq, run_id
        FROM message
        WHERE conversation_id = asked.thread_id AND seq >= asked.told_count
            AND create_time >= asked.since AND (later.seq IS NULL OR seq < later.seq)
        ORDER BY seq
        LIMIT asked.up_to
    )
    UNION ALL
    (
        SELECT false AS is_new, id, role, seq, run_id
        FROM message
        WHERE conversation_id = asked.thread_id AND last_checkpoint_id > asked.told_through
            AND last_checkpoint_id <> checkpoint_id AND seq < asked.told_count
            AND (later.seq IS NULL OR last_checkpoint_id < later.checkpoint_id)
        ORDER BY last_checkpoint_id
        LIMIT asked.up_to
    )
) AS m
ORDER BY asked.thread_id, m.seq;

-- name: publish
WITH published AS (
    INSERT INTO change (seq, name, thread_id, data, seen_by, created_at)
    SELECT %(after)s::bigint + c.place, c.name, c.thread_id, c.data, c.seen_by, c.created_at
    FROM ROWS FROM (
        jsonb_to_recordset(%(changes)s::jsonb) AS (
            name text, thread_id text, data jsonb, seen_by jsonb, created_at timestamptz
        )
    ) WITH ORDINALITY AS c (name, thread_id, data, seen_by, created_at, place)
    RETURNING seq
)
UPDATE change_head SET seq = %(after)s::bigint + (SELECT count(*) FROM published);

-- name: forget
-- What was told of threads that are gone, also by a publisher that did not know of it yet.
WITH change_gone AS (
    DELETE FROM change WHERE thread_id = ANY(%(thread_ids)s::text[]) AND seq <= %(after)s
), delivery_gone AS (
    DELETE FROM webhook_delivery
    WHERE thread_id = ANY(%(thread_ids)s::text[]) AND seq <= %(after)s
)
DELETE FROM change_of_messages AS p
WHERE thread_id = ANY(%(thread_ids)s::text[])
    AND NOT EXISTS (SELECT FROM thread WHERE thread.thread_id = p.thread_id);

-- name: overrun
-- Webhooks that are too far behind hear nothing more, and say why.
UPDATE webhook
SET enabled = false, updated_at = now(),
    disabled_reason = 'More than ' || %(max_pending)s::int || ' events were waiting to be delivered'
WHERE enabled AND (
    SELECT count(*)
    FROM (
        SELECT
        FROM webhook_delivery AS d
        WHERE d.webhook_id = webhook.webhook_id AND d.status = 'pending'
        LIMIT %(max_pending)s::int + 1
    ) AS waiting
) > %(max_pending)s::int;

-- name: fan_out
WITH due AS (
    INSERT INTO webhook_delivery (webhook_id, seq, thread_id, name, body)
    SELECT w.webhook_id, c.seq, c.thread_id, c.name, jsonb_build_object(
        'type', c.name, 'seq', c.seq,
        'timestamp', to_char(c.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    ) || CASE WHEN c.data ? '$sealed' THEN c.data ELSE jsonb_build_object('data', c.data) END
    FROM change AS c
    LEFT JOIN thread AS t ON t.thread_id = c.thread_id
    JOIN webhook AS w ON w.enabled
        AND EXISTS (SELECT FROM unnest(w.events) AS e (name) WHERE c.name LIKE replace(e.name, '*', '%%'))
        AND EXISTS (
            SELECT
            FROM jsonb_array_elements(w.visible) AS v (contained)
            WHERE coalesce(c.seen_by, t.metadata) @> v.contained
        )
    WHERE c.seq > %(after)s
    RETURNING delivery_id, webhook_id
), enqueued AS (
    INSERT INTO job (kind, payload)
    SELECT %(kind)s, jsonb_build_object('delivery_id', due.delivery_id,
        'webhook_id', due.webhook_id, 'webhook_owner', w.identity)
    FROM due
    JOIN webhook AS w ON w.webhook_id = due.webhook_id
)
SELECT pg_notify('threadwell', %(signal)s) FROM due LIMIT 1;

-- name: trim
-- Too old, or too many; some at a time.
WITH too_old AS (
    SELECT greatest(
        (SELECT seq FROM change_head) - %(keep_count)s::bigint,
        coalesce((
            SELECT max(seq)
            FROM (
                SELECT seq
                FROM change
                WHERE created_at < now() - make_interval(secs => %(keep_seconds)s)
                ORDER BY created_at
                LIMIT %(limit)s
            ) AS oldest
        ), 0)
    ) AS through
), gone AS (
    DELETE FROM change
    WHERE seq IN (
        SELECT seq FROM change
        WHERE seq <= (SELECT through FROM too_old)
        ORDER BY seq
        LIMIT %(limit)s
    )
    RETURNING seq
)
UPDATE change_head
SET trimmed_through = greatest(trimmed_through, (SELECT max(seq) FROM gone))
WHERE EXISTS (SELECT FROM gone);

-- name: trim_outbox
-- While nobody waits to be told, nothing is published. What goes unpublished is a gap for whoever
-- comes back from before it, and nothing before that is of use to them.
WITH first_ones AS (
    SELECT outbox_id, created_at FROM outbox ORDER BY outbox_id LIMIT %(limit)s
), gone AS (
    DELETE FROM outbox
    USING first_ones AS f
    WHERE outbox.outbox_id = f.outbox_id AND (
        f.outbox_id <= (SELECT max(outbox_id) FROM outbox) - %(keep_count)s::bigint
        OR f.created_at < now() - make_interval(secs => %(keep_seconds)s)
    )
    RETURNING outbox.outbox_id
), before AS (
    DELETE FROM change WHERE EXISTS (SELECT FROM gone)
)
UPDATE change_head
SET seq = seq + 1, trimmed_through = seq + 1
WHERE EXISTS (SELECT FROM gone);

-- name: read
-- The head, and what may be seen after a place and not too far after it. All is of one moment: nothing
-- is published below the head later.
SELECT h.seq AS head, h.trimmed_through, e.seq, e.name, e.thread_id, e.data, e.created_at
FROM change_head AS h
LEFT JOIN LATERAL (
    SELECT c.seq, c.name, c.thread_id, c.data, c.created_at
    FROM change AS c
    LEFT JOIN thread AS t ON t.thread_id = c.thread_id
    WHERE c.seq > %(after)s AND c.seq <= %(after)s + %(window)s::bigint
        AND (%(names)s::text[] IS NULL OR c.name LIKE ANY(%(names)s::text[]))
        AND (%(thread_id)s::text IS NULL OR c.thread_id = %(thread_id)s::text)
        AND coalesce(c.seen_by, t.metadata) @> ANY(%(visible)s::jsonb[])
    ORDER BY c.seq
    LIMIT %(limit)s
) AS e ON true
ORDER BY e.seq;

-- name: concerned
-- Which of those who wait see something of what is new.
WITH new AS MATERIALIZED (
    SELECT coalesce(c.seen_by, t.metadata) AS seen_by
    FROM change AS c
    LEFT JOIN thread AS t ON t.thread_id = c.thread_id
    WHERE c.seq > %(after)s AND c.seq <= %(through)s
)
SELECT (w.place - 1)::int
FROM jsonb_array_elements(%(waiting)s::jsonb) WITH ORDINALITY AS w (visible, place)
WHERE EXISTS (
    SELECT
    FROM new
    JOIN jsonb_array_elements(w.visible) AS v (contained) ON new.seen_by @> v.contained
);

-- name: hold
-- A listener begins with what comes after it was first there, and is called by one process at a time.
INSERT INTO listener AS l (name, seq, holder, held_until)
SELECT %(name)s, seq, %(holder)s::uuid, now() + make_interval(secs => %(seconds)s)
FROM change_head
ON CONFLICT (name) DO UPDATE SET
    holder = EXCLUDED.holder,
    held_until = EXCLUDED.held_until
WHERE l.held_until < now() OR l.holder = EXCLUDED.holder
RETURNING seq;

-- name: advance
UPDATE listener
SET seq = %(seq)s, held_until = now() + make_interval(secs => %(seconds)s)
WHERE name = %(name)s AND holder = %(holder)s::uuid;

-- name: let_go
UPDATE listener SET held_until = '-infinity' WHERE holder = %(holder)s::uuid;
