-- name: upsert_system
-- The assistant that every graph has. A new version only when what is registered changed.
INSERT INTO assistant (assistant_id, graph_id, name, description, metadata, is_system)
VALUES (%(assistant_id)s, %(graph_id)s, %(name)s, %(description)s, '{"created_by": "system"}', true)
ON CONFLICT (assistant_id) DO UPDATE
SET graph_id = excluded.graph_id,
    name = excluded.name,
    description = excluded.description,
    is_system = true,
    updated_at = now()
WHERE (assistant.graph_id, assistant.name, assistant.description, assistant.is_system)
    IS DISTINCT FROM (excluded.graph_id, excluded.name, excluded.description, true);

-- name: first_version
INSERT INTO assistant_version
    (assistant_id, version, graph_id, name, description, config, context, metadata)
SELECT assistant_id, version, graph_id, name, description, config, context, metadata
FROM assistant
WHERE assistant_id = %(assistant_id)s
ON CONFLICT (assistant_id, version) DO UPDATE
SET graph_id = excluded.graph_id, name = excluded.name, description = excluded.description;

-- name: get
-- Those of the graphs are everybody's to read.
SELECT assistant_id, graph_id, name, description, config, context, metadata, version,
    created_at, updated_at
FROM assistant
WHERE assistant_id = %(assistant_id)s
    AND (is_system OR metadata @> ANY(%(visible)s::jsonb[]));

-- name: search
SELECT assistant_id, graph_id, name, description, config, context, metadata, version,
    created_at, updated_at
FROM assistant
WHERE metadata @> %(metadata)s::jsonb
    AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s::text)
    AND (%(name)s::text IS NULL OR position(lower(%(name)s::text) IN lower(name)) > 0)
    AND (is_system OR metadata @> ANY(%(visible)s::jsonb[]));

-- name: count
SELECT count(*)
FROM assistant
WHERE metadata @> %(metadata)s::jsonb
    AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s::text)
    AND (%(name)s::text IS NULL OR position(lower(%(name)s::text) IN lower(name)) > 0)
    AND (is_system OR metadata @> ANY(%(visible)s::jsonb[]));

-- name: create
WITH created AS (
    INSERT INTO assistant (assistant_id, graph_id, name, description, config, context, metadata)
    VALUES (%(assistant_id)s, %(graph_id)s, %(name)s, %(description)s, %(config)s::jsonb,
        %(context)s::jsonb, %(metadata)s::jsonb)
    ON CONFLICT (assistant_id) DO NOTHING
    RETURNING assistant_id, graph_id, name, description, config, context, metadata, version,
        created_at, updated_at
), versioned AS (
    INSERT INTO assistant_version
        (assistant_id, version, graph_id, name, description, config, context, metadata)
    SELECT assistant_id, version, graph_id, name, description, config, context, metadata
    FROM created
)
SELECT assistant_id, graph_id, name, description, config, context, metadata, version,
    created_at, updated_at
FROM created;

-- name: lock
-- Those of the graphs are everybody's to read, not to change.
SELECT metadata
FROM assistant
WHERE assistant_id = %(assistant_id)s AND metadata @> ANY(%(visible)s::jsonb[])
FOR UPDATE;

-- name: update
-- Its row is locked, so that nobody else counts the versions meanwhile.
UPDATE assistant AS a
SET graph_id = coalesce(%(graph_id)s::text, a.graph_id),
    name = coalesce(%(name)s::text, a.name),
    description = coalesce(%(description)s::text, a.description),
    config = coalesce(%(config)s::jsonb, a.config),
    context = coalesce(%(context)s::jsonb, a.context),
    metadata = a.metadata || %(metadata)s::jsonb,
    version = (
        SELECT max(v.version) + 1 FROM assistant_version AS v WHERE v.assistant_id = a.assistant_id
    ),
    updated_at = now()
WHERE a.assistant_id = %(assistant_id)s
RETURNING assistant_id, graph_id, name, description, config, context, metadata, version,
    created_at, updated_at;

-- name: add_version
INSERT INTO assistant_version
    (assistant_id, version, graph_id, name, description, config, context, metadata)
SELECT assistant_id, version, graph_id, name, description, config, context, metadata
FROM assistant
WHERE assistant_id = %(assistant_id)s;

-- name: set_latest
UPDATE assistant AS a
SET graph_id = v.graph_id, name = v.name, description = v.description, config = v.config,
    context = v.context, metadata = v.metadata, version = v.version, updated_at = now()
FROM assistant_version AS v
WHERE a.assistant_id = %(assistant_id)s
    AND v.assistant_id = a.assistant_id AND v.version = %(version)s
RETURNING a.assistant_id, a.graph_id, a.name, a.description, a.config, a.context, a.metadata,
    a.version, a.created_at, a.updated_at;

-- name: versions
SELECT v.assistant_id, v.version, v.graph_id, v.name, v.description, v.config, v.context,
    v.metadata, v.created_at
FROM assistant_version AS v
JOIN assistant AS a ON a.assistant_id = v.assistant_id
WHERE v.assistant_id = %(assistant_id)s AND v.metadata @> %(metadata)s::jsonb
    AND (a.is_system OR a.metadata @> ANY(%(visible)s::jsonb[]))
ORDER BY v.version DESC
LIMIT %(limit)s OFFSET %(offset)s;

-- name: delete
-- With its versions; and the runs that it had, but for those in flight, which are their threads'.
-- Threads come first, in one order, as with everybody who deletes or counts them.
WITH held AS MATERIALIZED (
    SELECT thread_id
    FROM thread
    WHERE thread_id IN (
        SELECT thread_id
        FROM run
        WHERE assistant_id = %(assistant_id)s AND status NOT IN ('pending', 'running')
    )
    ORDER BY thread_id
    FOR KEY SHARE
), run_gone AS (
    DELETE FROM run
    WHERE assistant_id = %(assistant_id)s AND status NOT IN ('pending', 'running')
        AND thread_id IN (SELECT thread_id FROM held)
    RETURNING thread_id
), to_be_recounted AS (
    -- Also where somebody is just counting for the first time.
    INSERT INTO tally_thread (thread_id, is_stale)
    SELECT DISTINCT thread_id, true
    FROM run_gone
    ORDER BY thread_id
    ON CONFLICT (thread_id) DO UPDATE SET is_stale = true
)
DELETE FROM assistant WHERE assistant_id = %(assistant_id)s;
