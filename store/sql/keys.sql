-- A key is found by its id; that its secret is right is compared by who knows how, in constant time.

-- name: create
INSERT INTO api_key (key_id, secret_hash, owner, name, roles, permissions, expires_at)
VALUES (%(key_id)s, %(secret_hash)s::bytea, %(owner)s, %(name)s, %(roles)s::text[],
    %(permissions)s::text[], now() + make_interval(secs => %(expires_seconds)s::float8))
RETURNING key_id, secret_hash, owner, name, roles, permissions, created_at, expires_at, last_used_at,
    revoked_at, extract(epoch FROM expires_at - now())::float8 AS expires_in_seconds;

-- name: list
SELECT key_id, secret_hash, owner, name, roles, permissions, created_at, expires_at, last_used_at,
    revoked_at, extract(epoch FROM expires_at - now())::float8 AS expires_in_seconds
FROM api_key
WHERE (%(owner)s::text IS NULL OR owner = %(owner)s)
ORDER BY created_at, key_id
LIMIT %(limit)s::int;

-- name: find
SELECT key_id, secret_hash, owner, name, roles, permissions, created_at, expires_at, last_used_at,
    revoked_at, extract(epoch FROM expires_at - now())::float8 AS expires_in_seconds
FROM api_key
WHERE key_id = %(key_id)s;

-- name: note_use
UPDATE api_key
SET last_used_at = now()
WHERE key_id = %(key_id)s
    AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

-- name: revoke
UPDATE api_key
SET revoked_at = coalesce(revoked_at, now())
WHERE key_id = %(key_id)s
RETURNING key_id, secret_hash, owner, name, roles, permissions, created_at, expires_at, last_used_at,
    revoked_at, extract(epoch FROM expires_at - now())::float8 AS expires_in_seconds;

-- name: any_made
SELECT EXISTS (SELECT FROM api_key);
