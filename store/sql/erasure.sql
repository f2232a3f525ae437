-- Everything that is a user's, table by table; docs/retention.md lists them, and a test the tables.
-- Each deletes some rows at a time, so that no statement holds much for long.

-- name: threads
SELECT thread_id
FROM thread
WHERE (
        metadata @> jsonb_build_object('owner', %(user_id)s::text)
        OR metadata ->> 'user_id' = %(user_id)s::text
    )
    AND thread_owner(metadata) = %(user_id)s::text
    AND metadata @> ANY(%(visible)s::jsonb[])
LIMIT %(limit)s::int;

-- name: wait_for_index
-- Whoever brings the thread into the index of search holds this (search.sql); what it writes goes too.
SELECT pg_advisory_xact_lock(1400, hashtext(%(thread_id)s::text));

-- name: lock_thread
SELECT message_count
FROM thread
WHERE thread_id = %(thread_id)s AND thread_owner(metadata) = %(user_id)s::text
    AND metadata @> ANY(%(visible)s::jsonb[])
FOR UPDATE;

-- name: assistants
SELECT assistant_id
FROM assistant
WHERE metadata @> jsonb_build_object('owner', %(user_id)s::text) AND NOT is_system
    AND metadata @> ANY(%(visible)s::jsonb[])
LIMIT %(limit)s::int;

-- name: crons
DELETE FROM cron
WHERE cron_id IN (
    SELECT cron_id
    FROM cron
    WHERE (user_id = %(user_id)s::text OR metadata @> jsonb_build_object('owner', %(user_id)s::text))
        AND metadata @> ANY(%(visible)s::jsonb[])
    LIMIT %(limit)s::int
);

-- name: keys
-- That there was one stays: a server on which a key was ever made does not become everybody's.
UPDATE api_key
SET owner = '', name = '', secret_hash = '', roles = '{}', permissions = '{}',
    revoked_at = coalesce(revoked_at, now())
WHERE owner = %(user_id)s::text;

-- name: accounts
DELETE FROM "user" WHERE id = %(user_id)s::text;

-- name: imports
DELETE FROM import
WHERE import_id IN (
    SELECT import_id FROM import WHERE owner = %(user_id)s::text LIMIT %(limit)s::int
);

-- name: exports
DELETE FROM user_job WHERE kind = 'export' AND user_id = %(user_id)s::text;

-- name: webhooks
DELETE FROM webhook
WHERE webhook_id IN (
    SELECT webhook_id FROM webhook WHERE identity = %(user_id)s::text LIMIT %(limit)s::int
);

-- name: items
-- Of one namespace, and those below it.
DELETE FROM store
WHERE (prefix, key) IN (
    SELECT prefix, key
    FROM store
    WHERE prefix = %(namespace)s::text OR starts_with(prefix, %(namespace)s::text || '.')
    LIMIT %(limit)s::int
);

-- name: feedback
-- On messages of others.
DELETE FROM feedback
WHERE (conversation_id, message_id, user_id) IN (
    SELECT conversation_id, message_id, user_id
    FROM feedback
    WHERE user_id = %(user_id)s::text
    LIMIT %(limit)s::int
);

-- name: idempotency_keys
DELETE FROM idempotency_key
WHERE (conversation_id, caller, key) IN (
    SELECT conversation_id, caller, key
    FROM idempotency_key
    WHERE caller = %(user_id)s::text
    LIMIT %(limit)s::int
);

-- name: shares
-- Links to sessions of others stay those sessions', and are nobody's.
UPDATE share
SET created_by = NULL
WHERE share_id IN (
    SELECT share_id FROM share WHERE created_by = %(user_id)s::text LIMIT %(limit)s::int
);

-- name: memberships
-- In sessions of others, who are told that the members are others now.
WITH mine AS MATERIALIZED (
    SELECT thread_id AS mine_id
    FROM thread
    WHERE metadata @> ANY(ARRAY[
            jsonb_build_object('members', jsonb_build_object(coalesce(%(user_id)s, ''), 'viewer')),
            jsonb_build_object('members', jsonb_build_object(coalesce(%(user_id)s, ''), 'editor'))
        ])
    LIMIT %(limit)s::int
    FOR NO KEY UPDATE
), left_by AS (
    UPDATE thread
    SET metadata = metadata #- ARRAY['members', %(user_id)s::text]
    FROM mine
    WHERE thread_id = mine_id
    RETURNING thread_id
)
INSERT INTO outbox (name, thread_id, data)
SELECT 'session.updated', thread_id, '{"changed": ["members"]}'
FROM left_by;

-- name: runs_page
-- Of the runs in sessions of others, which of these are this user's, and how far that is.
WITH page AS MATERIALIZED (
    SELECT run_id, thread_id, status, metadata, kwargs
    FROM run
    WHERE run_id > coalesce(%(after)s::uuid, '00000000-0000-0000-0000-000000000000')
    ORDER BY run_id
    LIMIT %(limit)s::int
)
SELECT run_id, thread_id, status IN ('pending', 'running') AS is_in_flight,
    thread_owner(metadata) = %(user_id)s::text
        OR kwargs #>> '{config,configurable,langgraph_auth_user_id}' = %(user_id)s::text AS is_mine
FROM page
ORDER BY run_id;

-- name: runs
DELETE FROM run
WHERE run_id = ANY(%(run_ids)s::uuid[]) AND status NOT IN ('pending', 'running');

-- name: checkpoints
-- Who a run was for is in the metadata of the checkpoints that it wrote.
UPDATE checkpoints
SET metadata = metadata - ARRAY['langgraph_auth_user', 'langgraph_auth_user_id',
    'langgraph_auth_permissions', 'user_id', 'owner']
WHERE thread_id = ANY(%(thread_ids)s::text[]) AND (
    metadata ->> 'langgraph_auth_user_id' = %(user_id)s::text
    OR metadata ->> 'user_id' = %(user_id)s::text
    OR metadata ->> 'owner' = %(user_id)s::text
);

-- name: files
DELETE FROM file
WHERE file_id IN (
    SELECT file_id FROM file WHERE owner = %(user_id)s::text LIMIT %(limit)s::int
)
RETURNING content_id;

-- name: tombstones
DELETE FROM tombstone
WHERE thread_id IN (
    SELECT thread_id
    FROM tombstone
    WHERE thread_owner(seen_by) = %(user_id)s::text
    LIMIT %(limit)s::int
);

-- name: jobs
-- What is told of a run that has ended, or a webhook of an event, which is tried for some hours.
DELETE FROM job
WHERE job_id IN (
    SELECT job_id
    FROM job
    WHERE thread_owner(coalesce(payload #> '{run,metadata}', '{}')) = %(user_id)s::text
        OR payload #>> '{run,kwargs,config,configurable,langgraph_auth_user_id}'
            = %(user_id)s::text
        OR payload ->> 'webhook_owner' = %(user_id)s::text
    LIMIT %(limit)s::int
);

-- name: is_being_told
-- Whoever follows may learn first that the sessions are gone.
SELECT EXISTS (
    SELECT FROM outbox
    WHERE thread_owner(seen_by) = %(user_id)s::text
        OR data -> 'members' ? %(user_id)s::text
);

-- name: changes
DELETE FROM change
WHERE seq IN (
    SELECT seq
    FROM change
    WHERE thread_owner(seen_by) = %(user_id)s::text
        OR data -> 'members' ? %(user_id)s::text
    LIMIT %(limit)s::int
);

-- name: deliveries
DELETE FROM webhook_delivery
WHERE delivery_id IN (
    SELECT delivery_id
    FROM webhook_delivery
    WHERE body #> '{data,members}' ? %(user_id)s::text OR body -> 'members' ? %(user_id)s::text
    LIMIT %(limit)s::int
);
