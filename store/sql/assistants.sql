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
