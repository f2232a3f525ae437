-- name: upsert_system
-- The assistant that every graph has. A new version only when what is registered changed.
INSERT INTO assistant (assistant_id, graph_id, name, description, metadata)
VALUES (%(assistant_id)s, %(graph_id)s, %(name)s, %(description)s, '{"created_by": "system"}')
ON CONFLICT (assistant_id) DO UPDATE
SET graph_id = excluded.graph_id,
    name = excluded.name,
    description = excluded.description,
    updated_at = now()
WHERE (assistant.graph_id, assistant.name, assistant.description)
    IS DISTINCT FROM (excluded.graph_id, excluded.name, excluded.description);

-- name: first_version
INSERT INTO assistant_version
    (assistant_id, version, graph_id, name, description, config, context, metadata)
SELECT assistant_id, version, graph_id, name, description, config, context, metadata
FROM assistant
WHERE assistant_id = %(assistant_id)s
ON CONFLICT (assistant_id, version) DO UPDATE
SET graph_id = excluded.graph_id, name = excluded.name, description = excluded.description;

-- name: get
SELECT assistant_id, graph_id, name, description, config, context, metadata, version,
    created_at, updated_at
FROM assistant
WHERE assistant_id = %(assistant_id)s;

-- name: search
SELECT assistant_id, graph_id, name, description, config, context, metadata, version,
    created_at, updated_at
FROM assistant
WHERE metadata @> %(metadata)s::jsonb
    AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s::text)
    AND (%(name)s::text IS NULL OR position(lower(%(name)s::text) IN lower(name)) > 0);

-- name: count
SELECT count(*)
FROM assistant
WHERE metadata @> %(metadata)s::jsonb
    AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s::text)
    AND (%(name)s::text IS NULL OR position(lower(%(name)s::text) IN lower(name)) > 0);
