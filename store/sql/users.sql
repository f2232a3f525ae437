-- name: create
INSERT INTO "user" (id, username, password_hash)
VALUES (%(id)s, %(username)s, %(password_hash)s)
ON CONFLICT (username) DO NOTHING
RETURNING id, username, password_hash;

-- name: by_name
SELECT id, username, password_hash FROM "user" WHERE username = %(username)s;

-- name: keep
INSERT INTO "user" (id, username, password_hash)
VALUES (%(id)s, %(username)s, %(password_hash)s)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: rehash
UPDATE "user" SET password_hash = %(password_hash)s WHERE id = %(id)s;
