-- Keys as the user's own handlers have sealed them.

-- name: list
SELECT number, wrapped
FROM data_key
ORDER BY number DESC;

-- name: add
INSERT INTO data_key (number, wrapped)
VALUES (%(number)s, %(wrapped)s::bytea)
ON CONFLICT (number) DO NOTHING;

-- name: replace
UPDATE data_key
SET wrapped = %(replacement)s::bytea
WHERE number = %(number)s AND wrapped = %(wrapped)s::bytea;
