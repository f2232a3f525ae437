-- A session is a thread; its attributes are keys of the thread's metadata. What is said of it in one
-- place (session_name, session_status, session_is_there, session_etag) is in migrations 0012 and 0043.

-- name: get
SELECT thread_id AS id, metadata ->> 'user_id' AS user_id, session_name(metadata) AS name,
    metadata ->> 'chat_type' AS chat_type, session_status(metadata) AS status, metadata,
    status AS thread_status, message_count, expires_at, session_etag(metadata, expires_at) AS etag,
    created_at AS create_time, updated_at AS update_time
FROM thread
WHERE thread_id = %(id)s AND session_is_there(metadata, expires_at)
    AND metadata @> ANY(%(visible)s::jsonb[]);

-- part: session
SELECT thread_id AS id, metadata ->> 'user_id' AS user_id, session_name(metadata) AS name,
    metadata ->> 'chat_type' AS chat_type, session_status(metadata) AS status, metadata,
    status AS thread_status, message_count, expires_at, session_etag(metadata, expires_at) AS etag,
    created_at AS create_time, updated_at AS update_time
FROM thread

-- part: in_order
-- What an index tells that has the order of the list. The place is the last row that the client has;
-- nothing is skipped or repeated but what was itself touched meanwhile.
WHERE (%(updated_before)s::timestamptz IS NULL OR (updated_at, thread_id)
        < (%(updated_before)s::timestamptz, %(place_id)s::text))
    AND (%(updated_after)s::timestamptz IS NULL OR (updated_at, thread_id)
        > (%(updated_after)s::timestamptz, %(place_id)s::text))
    AND (%(created_before)s::timestamptz IS NULL OR (created_at, thread_id)
        < (%(created_before)s::timestamptz, %(place_id)s::text))
    AND (%(created_after)s::timestamptz IS NULL OR (created_at, thread_id)
        > (%(created_after)s::timestamptz, %(place_id)s::text))
    AND (%(user_id)s::text IS NULL OR metadata ->> 'user_id' = %(user_id)s::text)
    AND (%(status)s::text IS NULL OR coalesce(metadata ->> 'status', 'active') = %(status)s::text)
    AND (%(status)s::text IS NOT NULL OR coalesce(metadata ->> 'status', 'active') <> 'deleted')
    AND (%(pinned)s::boolean IS NOT true OR metadata ->> 'pinned' = 'true')
    AND (%(pinned)s::boolean IS NOT false OR metadata ->> 'pinned' IS DISTINCT FROM 'true')

-- part: and_asked_for
    -- The same for the index that finds what else is asked for, so that it finds both at once.
    AND (
        %(pinned)s::boolean IS NOT true
        OR (%(metadata)s::jsonb = '{}' AND '{}'::jsonb = ANY(%(visible)s::jsonb[]))
        OR metadata @> '{"pinned": true}' OR metadata @> '{"pinned": "true"}'
    )
    AND (%(metadata)s::jsonb = '{}' OR metadata @> %(metadata)s::jsonb)
    AND (expires_at IS NULL OR expires_at > now())
    AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]))

-- name: list
-- Planned for each filter: a condition that asks for nothing is folded away, and an index is found for
-- the others.
{session}
{in_order}
{and_asked_for}
    AND (
        %(title)s::text IS NULL
        OR (%(title)s::text <> '' AND session_name(metadata) ILIKE %(title)s::text)
        OR thread_id = ANY(%(ids)s::text[])
    )

-- name: in_order
SELECT thread_id, metadata, status, message_count, expires_at, created_at, updated_at
FROM thread
{in_order}

-- name: by_name
-- By the index of the parts of names; what has all the parts of a text need not have the text.
SELECT thread_id, metadata, status, message_count, expires_at, created_at, updated_at
FROM thread
JOIN thread_name USING (thread_id)
{in_order}
{and_asked_for}
    AND parts @@ name_query(%(part)s::text) AND session_name(metadata) ILIKE %(title)s::text
    AND session_name(metadata) <> session_name('{}')

-- name: without_name
-- Threads without a name are not in the index of names.
SELECT thread_id, metadata, status, message_count, expires_at, created_at, updated_at
FROM thread
{in_order}
{and_asked_for}
    AND session_name(metadata) = session_name('{}')

-- name: by_id
-- Found by something else than their names.
SELECT thread_id, metadata, status, message_count, expires_at, created_at, updated_at
FROM thread
{in_order}
{and_asked_for}
    AND thread_id = ANY(%(ids)s::text[]) AND NOT session_name(metadata) ILIKE %(title)s::text

-- name: session
{session}

-- name: counts
-- By status; and of those that are active, or of the `most` of them that were touched last, by folder and
-- by tag, the most frequent ones.
WITH recent AS MATERIALIZED (
    SELECT metadata ->> 'folder' AS folder,
        CASE WHEN jsonb_typeof(metadata -> 'tags') = 'array' THEN metadata -> 'tags' END AS tags
    FROM thread
    WHERE (%(user_id)s::text IS NULL OR metadata ->> 'user_id' = %(user_id)s::text)
        AND (%(metadata)s::jsonb = '{}' OR metadata @> %(metadata)s::jsonb)
        AND coalesce(metadata ->> 'status', 'active') = 'active'
        AND (expires_at IS NULL OR expires_at > now())
        AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]))
    ORDER BY updated_at DESC
    LIMIT %(most)s
), status AS (
    SELECT session_status(metadata) AS status, count(*) AS count,
        count(*) FILTER (WHERE metadata ->> 'pinned' = 'true') AS pinned
    FROM thread
    WHERE (%(user_id)s::text IS NULL OR metadata ->> 'user_id' = %(user_id)s::text)
        AND (%(metadata)s::jsonb = '{}' OR metadata @> %(metadata)s::jsonb)
        AND (expires_at IS NULL OR expires_at > now())
        AND ('{}'::jsonb = ANY(%(visible)s::jsonb[]) OR metadata @> ANY(%(visible)s::jsonb[]))
    GROUP BY 1
)
SELECT 'status' AS kind, status AS name, count FROM status
UNION ALL
SELECT 'pinned', '', coalesce(sum(pinned), 0)::bigint FROM status WHERE status = 'active'
UNION ALL
(
    SELECT 'folder', folder, count(*)
    FROM recent
    WHERE folder IS NOT NULL
    GROUP BY folder
    ORDER BY count(*) DESC, folder
    LIMIT %(limit)s
)
UNION ALL
(
    SELECT 'tag', t.tag, count(*)
    FROM (SELECT jsonb_array_elements_text(tags) AS tag FROM recent) AS t
    GROUP BY t.tag
    ORDER BY count(*) DESC, t.tag
    LIMIT %(limit)s
);

-- name: change
-- One statement for whatever its owner, or the server, changes of a session. It changes if what the
-- caller knows of it still holds.
WITH before AS MATERIALIZED (
    SELECT thread_id AS before_id, metadata AS was, expires_at AS expired_at
    FROM thread
    WHERE thread_id = %(id)s
    FOR NO KEY UPDATE
), changed AS (
    UPDATE thread
    SET metadata = (metadata - %(removed)s::text[]) || %(changes)s::jsonb,
        expires_at = CASE WHEN %(sets_expiry)s THEN %(expires_at)s::timestamptz ELSE expires_at END,
        updated_at = CASE WHEN %(touches)s THEN now() ELSE updated_at END
    FROM before
    WHERE thread_id = before_id AND session_is_there(metadata, expires_at)
        AND (
            %(etags)s::text[] IS NULL
            OR session_etag(metadata, expires_at) = ANY(%(etags)s::text[])
        )
        AND metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id AS id, metadata ->> 'user_id' AS user_id, session_name(metadata) AS name,
        metadata ->> 'chat_type' AS chat_type, session_status(metadata) AS status, metadata,
        status AS thread_status, message_count, expires_at,
        session_etag(metadata, expires_at) AS etag, created_at AS create_time,
        updated_at AS update_time,
        changed_keys(
            was || jsonb_build_object('expires_at', expired_at),
            metadata || jsonb_build_object('expires_at', expires_at)
        ) AS keys, thread_owner(was) AS was_of, thread_owner(metadata) AS is_of
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.updated', id, jsonb_build_object('changed', keys)
    FROM changed
    WHERE keys IS NOT NULL
), moved AS (
    -- As `audit.record_move`.
    INSERT INTO audit (act, actor, owner, subject, details)
    SELECT 'owner.changed', %(actor)s, left(was_of, %(most)s), 'session:' || id,
        jsonb_build_object('to', left(is_of, %(most)s))
    FROM changed
    WHERE was_of <> is_of
)
SELECT id, user_id, name, chat_type, status, metadata, thread_status, message_count, expires_at,
    etag, create_time, update_time
FROM changed;

-- name: delete
-- Softly: it can be restored until it is purged. It is shared with nobody any more, then either: its
-- links go by a statement of their own, which sees those for which this one has waited.
WITH changed AS (
    UPDATE thread
    SET metadata = metadata - 'members'
            || jsonb_build_object('status', 'deleted', 'deleted_at', now()),
        purge_at = now() + make_interval(secs => %(keep_seconds)s::double precision),
        updated_at = now()
    WHERE thread_id = %(id)s AND session_is_there(metadata, expires_at)
        AND metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id
), told AS (
    INSERT INTO outbox (name, thread_id)
    SELECT 'session.deleted', thread_id
    FROM changed
)
SELECT thread_id FROM changed;

-- name: restore
WITH changed AS (
    UPDATE thread
    SET metadata = (metadata - 'deleted_at') || '{"status": "active"}', purge_at = NULL,
        updated_at = now()
    WHERE thread_id = %(id)s AND metadata @> '{"status": "deleted"}'
        AND (expires_at IS NULL OR expires_at > now()) AND metadata @> ANY(%(visible)s::jsonb[])
    RETURNING thread_id
), told AS (
    INSERT INTO outbox (name, thread_id)
    SELECT 'session.restored', thread_id
    FROM changed
)
SELECT thread_id FROM changed;

-- name: title
-- By the model, in place of the first words; never over a name that somebody gave, and no reason to
-- come first in a list.
WITH changed AS (
    UPDATE thread
    SET metadata = metadata || jsonb_build_object('generated_title', %(title)s::text,
        'title_source', 'model')
    WHERE thread_id = %(id)s AND coalesce(metadata ->> 'name', '') = ''
        AND metadata ->> 'title_source' IS DISTINCT FROM 'model'
    RETURNING thread_id
), told AS (
    INSERT INTO outbox (name, thread_id, data)
    SELECT 'session.updated', thread_id, '{"changed": ["name"]}'
    FROM changed
)
SELECT thread_id FROM changed;

-- name: tombstone
-- Also of one whose time has come and that nobody has purged yet.
SELECT thread_id
FROM tombstone
WHERE thread_id = %(id)s AND seen_by @> ANY(%(visible)s::jsonb[])
UNION ALL
SELECT thread_id
FROM thread
WHERE thread_id = %(id)s AND expires_at <= now() AND metadata @> ANY(%(visible)s::jsonb[]);

-- name: bury
-- Of a session that is about to be purged: that it was, and the conditions under which it was seen.
INSERT INTO tombstone (thread_id, seen_by)
SELECT t.thread_id, coalesce((
    SELECT jsonb_object_agg(contained.key, contained.value)
    FROM unnest(%(visible)s::jsonb[]) AS v (contains)
    CROSS JOIN LATERAL jsonb_each(v.contains) AS contained
    WHERE t.metadata @> v.contains
), '{}')
FROM thread AS t
WHERE t.thread_id = %(id)s
ON CONFLICT (thread_id) DO UPDATE SET seen_by = EXCLUDED.seen_by, purged_at = now();

-- name: lock
SELECT thread_id
FROM thread
WHERE thread_id = %(id)s AND metadata @> ANY(%(visible)s::jsonb[])
    AND (NOT %(ended)s::boolean OR least(expires_at, purge_at) <= now())
FOR UPDATE;

-- name: ended
SELECT thread_id
FROM thread
WHERE least(expires_at, purge_at) <= now()
ORDER BY least(expires_at, purge_at)
LIMIT %(limit)s;

-- name: forget_tombstones
DELETE FROM tombstone
WHERE purged_at < now() - make_interval(secs => %(keep_seconds)s::double precision);
