-- The audit log: only added to (migration 0026), and read from its end.

-- name: record
INSERT INTO audit (act, actor, owner, subject, details)
VALUES (%(act)s, %(actor)s, %(owner)s, %(subject)s, %(details)s::jsonb);

-- name: of_thread
-- Whose it is says the thread.
INSERT INTO audit (act, actor, owner, subject, details)
SELECT %(act)s, %(actor)s, left(thread_owner(metadata), %(most)s), 'session:' || thread_id,
    %(details)s::jsonb
FROM thread
WHERE thread_id = %(thread_id)s;

-- name: page
-- The newest first. Planned for each filter, so that an index is found for it.
SELECT audit_id, recorded_at, act, actor, owner, subject, details
FROM audit
WHERE (%(before)s::bigint IS NULL OR audit_id < %(before)s::bigint)
    AND (%(act)s::text IS NULL OR act = %(act)s::text)
    AND (%(actor)s::text IS NULL OR actor = %(actor)s::text)
    AND (%(owner)s::text IS NULL OR owner = %(owner)s::text)
    AND (%(subject)s::text IS NULL OR subject = %(subject)s::text)
    AND (%(since)s::timestamptz IS NULL OR recorded_at >= %(since)s::timestamptz)
    AND (%(until)s::timestamptz IS NULL OR recorded_at < %(until)s::timestamptz)
    AND (
        %(seen_by)s::text IS NULL OR owner = %(seen_by)s::text OR actor = %(seen_by)s::text
    )
ORDER BY audit_id DESC
LIMIT %(limit)s::int;

-- name: allow_trimming
SELECT set_config('threadwell.trims_audit', 'on', true);

-- name: trim
DELETE FROM audit
WHERE audit_id IN (
    SELECT audit_id
    FROM audit
    WHERE recorded_at < now() - make_interval(secs => %(keep_seconds)s::double precision)
        AND recorded_at < now() - interval '30 days'
    ORDER BY recorded_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
);
